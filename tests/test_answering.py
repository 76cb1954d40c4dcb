import pytest

from ragtune.answer.answering import Answerer, RememberingAnswerer
from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.errors import SettingsError
from ragtune.records import Message
from ragtune.settings import AnswerSettings
from tests.support.answering_fakes import ListRetriever, ScriptedChat, chunk

RETRIEVER = ListRetriever(
    [
        chunk("limit", "The limit is 5 calls."),
        chunk("retry", "A retry waits 2 s."),
        chunk("colour", "The limit is red."),
    ]
)


def test_an_answer_cites_the_passage_with_its_number():
    chat = ScriptedChat(lambda messages: "It is 5 calls. [1]")
    answer = Answerer(RETRIEVER, AnswerSettings()).answer("What is the limit?", chat)
    assert [citation.chunk_id for citation in answer.citations] == ["limit"]
    assert [hit.chunk.id for hit in answer.passages] == ["limit", "colour"]
    assert answer.warnings == ()
    assert answer.retrieval_ms > 0


def test_the_model_gets_the_passages_the_limits_and_the_seed():
    chat = ScriptedChat(lambda messages: "5 [1]")
    Answerer(RETRIEVER, AnswerSettings(passages=1, max_tokens=50)).answer("What is the limit?", chat, seed=7)
    (call,) = chat.calls
    assert (call["temperature"], call["seed"], call["max_tokens"]) == (0.0, 7, 50)
    assert "[1] limit\nThe limit is 5 calls.\n\nQuestion: What is the limit?" in call["messages"][1].content


def test_a_question_for_several_models_is_prepared_once():
    answerer = RememberingAnswerer(RETRIEVER, AnswerSettings())
    first = answerer.prepare("What is the limit?")
    assert answerer.prepare("What is the limit?") is first
    assert answerer.prepare("What is the limit?", [Message("user", "Hello")]) != first
    assert answerer.prepare("What is the limit?", controls=Controls(citations=False)) != first


def test_without_a_retriever_the_model_answers_without_passages():
    chat = ScriptedChat(lambda messages: "Five.")
    answer = Answerer(None, AnswerSettings()).answer("What is the limit?", chat)
    assert answer.passages == ()
    assert answer.warnings == ()
    assert answer.retrieval_ms == 0


def test_settings_give_the_default_controls_and_a_request_replaces_them():
    answerer = Answerer(RETRIEVER, AnswerSettings(dials={"depth": 0.0}, switches={"citations": False}))
    assert answerer.prepare("limit").controls == Controls(depth=0.0, citations=False)
    assert answerer.prepare("limit", controls=NEUTRAL).controls == NEUTRAL


def test_invalid_default_controls_raise_at_the_start():
    with pytest.raises(SettingsError, match="no dial 'wit'"):
        Answerer(None, AnswerSettings(dials={"wit": 1.0}))


def test_an_empty_question_is_refused():
    with pytest.raises(SettingsError, match="question is empty"):
        Answerer(None, AnswerSettings()).prepare("  ")
