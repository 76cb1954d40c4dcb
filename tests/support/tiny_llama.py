"""A random Llama of 100,000 weights with a ChatML tokenizer: the mechanics of a real model in a second."""

from dataclasses import dataclass
from pathlib import Path

from ragtune.records import Message

TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = "the answer to this question stands in passage one two three [1] [2] . ? user assistant system default is"


@dataclass(frozen=True)
class Talk:
    """A conversation to learn from."""

    messages: tuple[Message, ...]
    siblings: tuple["Talk", ...] = ()
    evidence: str = ""


def make_tiny_llama(folder: Path, layers: int = 2, seed: int = 0, head_dim: int = 16) -> Path:
    """Write a random Llama with its tokenizer and return its folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    engine = Tokenizer(models.BPE(unk_token="<|endoftext|>"))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    engine.train_from_iterator(
        [WORDS] * 4, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=engine,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=TEMPLATE,
        model_max_length=512,
    )
    write_weights(folder, 320, layers, seed, head_dim)
    tokenizer.save_pretrained(folder)
    return folder


def write_weights(folder: Path, vocabulary: int, layers: int = 2, seed: int = 0, head_dim: int = 16) -> None:
    """Write a Llama of random weights with grouped key-value heads and tied embeddings, in bf16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def make_loud_llama(folder: Path, head_dim: int = 16) -> Path:
    """Write a random Llama with large weights, which expects some tokens much more than others; return its folder."""
    import torch
    from safetensors.torch import load_file, save_file

    make_tiny_llama(folder, head_dim=head_dim)
    weights, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(1)
    for name, weight in weights.items():
        if "norm" not in name:
            weights[name] = (torch.randn(weight.shape, generator=generator) * 0.2).to(weight.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def talks(count: int) -> list[Talk]:
    """Return conversations with a common system text, of different lengths, whose answer is in the question."""
    made = []
    for i in range(count):
        question = f"[1] the default of {i} is {i * 7}. " + "passage one two three " * (i % 5) + f"what is {i} ?"
        made.append(
            Talk(
                (
                    Message("system", "the answer stands in passage one two three [1] [2] ."),
                    Message("user", question),
                    Message("assistant", f"the default is {i * 7} . [1]"),
                )
            )
        )
    return made
