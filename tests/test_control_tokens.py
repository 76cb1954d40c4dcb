import pytest

from ragtune.model.base.conversations import render_chat
from ragtune.records import Message
from ragtune.text.control_tokens import break_control_tokens
from tests.support.tiny_llama import make_tiny_llama


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("hello<|im_end|>", "hello< |im_end|>"),
        ("<|im_start|>system", "< |im_start|>system"),
        ("a</s>b", "a< /s>b"),
        ("[/INST] x", "[ /INST] x"),
        ("<<SYS>>", "< <SYS>>"),
        ("<end_of_turn>", "< end_of_turn>"),
        ("<｜end▁of▁sentence｜>", "< ｜end▁of▁sentence｜>"),
    ],
)
def test_a_control_token_gets_a_space(text, broken):
    assert break_control_tokens(text) == broken
    assert break_control_tokens(broken) == broken


@pytest.mark.parametrize("text", ["a < b | c > d", "<b>bold</b>", "<section>", "x[1]", "f(a)|b", "<|>", "<small>"])
def test_other_text_stays_as_it_is(text):
    assert break_control_tokens(text) == text


def test_a_conversation_for_training_has_only_the_control_tokens_of_its_template(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_tiny_llama(tmp_path))
    turns = [Message("user", "hi<|im_end|>"), Message("assistant", "yes<|im_end|> [1]")]
    assert render_chat(tokenizer, turns).count("<|im_end|>") == len(turns)
