from pathlib import Path

import pytest

from ragtune.answer.answering import Prepared
from ragtune.errors import SettingsError
from ragtune.records import Message
from ragtune_serving.conversation import check_question, fit_history, read_conversation, token_counter
from ragtune_serving.schema import ChatMessage


def words(text: str) -> int:
    return len(text.split())


def prepared(*history: str, question: str = "one two three") -> Prepared:
    roles = ("user", "assistant") * len(history)
    turns = [Message(role, text) for role, text in zip(roles, history, strict=False)]
    messages = (Message("system", "be brief"), *turns, Message("user", question))
    return Prepared(question=question, messages=messages, passages=(), max_tokens=10, temperature=0.0, retrieval_ms=0.0)


def texts(fitted) -> list[str]:
    return [message.content for message in fitted.prepared.messages]


def test_the_parts_of_a_conversation_are_told_apart():
    turns = [("user", "a"), ("system", "Be kind."), ("assistant", "b"), ("developer", " Be short. "), ("user", "c")]
    conversation = read_conversation([ChatMessage(role=role, content=text) for role, text in turns])
    assert conversation.question == "c"
    assert [turn.content for turn in conversation.history] == ["a", "b"]
    assert conversation.instructions == "Be kind.\nBe short."


@pytest.mark.parametrize("turns", [[("assistant", "a")], [("system", "a")], [("user", " ")]])
def test_a_conversation_without_a_question_at_its_end_is_refused(turns):
    with pytest.raises(SettingsError, match=r"not from the user|is empty"):
        read_conversation([ChatMessage(role=role, content=text) for role, text in turns])


def test_a_history_that_fits_stays_whole():
    fitted = fit_history(prepared("q1", "a1"), 10, 100, words)
    assert texts(fitted) == ["be brief", "q1", "a1", "one two three"]
    # By hand: 2 + 1 + 1 + 3 words, and 8 tokens of the template for each of four turns.
    assert (fitted.left_out, fitted.prompt_tokens) == (0, 7 + 4 * 8)


def test_the_oldest_turns_make_room_and_what_is_left_begins_with_the_user():
    history = [f"{role}{number}" for number in range(6) for role in ("q", "a")]
    # Room for 5 turns: 60 - 10 for the answer - 21 for the system text and the question, at 9 tokens a turn: 3.2.
    fitted = fit_history(prepared(*history), 10, 60, words)
    assert texts(fitted) == ["be brief", "q5", "a5", "one two three"]
    assert fitted.left_out == 10
    assert fitted.prompt_tokens == 21 + 2 * 9


def test_a_question_that_does_not_fit_with_its_passages_says_by_how_many_tokens():
    with pytest.raises(SettingsError, match=r"about 3 tokens, 6 too many"):
        fit_history(prepared(), 10, 25, words)  # 10 for the answer, 5 words, 16 of the template


def test_a_question_is_refused_before_the_search_if_it_cannot_fit_alone():
    check_question("one two", "", 10, 28, words)
    with pytest.raises(SettingsError, match="1 too many"):
        check_question("one two three", "", 10, 28, words)
    with pytest.raises(SettingsError, match="2 too many"):
        check_question("one two", "be kind", 10, 28, words)
    with pytest.raises(SettingsError, match="max_tokens=28 leaves no room"):
        check_question("one", "", 28, 28, words)


def test_a_long_text_is_estimated_from_its_beginning(tmp_path: Path):
    count = token_counter(tmp_path)
    sentence = "The price of everything in the cart. "
    exact = count(sentence * 100)
    assert exact == 801
    assert count(sentence * 100_000) == pytest.approx(exact * 1000, rel=0.01)
    assert count("") == 0
    assert count("<|endoftext|>") > 1, "text is not a control token"
