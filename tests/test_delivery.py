"""Tests of what becomes of the model's text: a stream and a plain request end with the same text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragtune.answer.decision import Kind, Rules
from ragtune.answer.delivery import Delivery
from ragtune.answer.evidence import rank_evidence
from ragtune.answer.prompt import REFUSAL
from tests.support.answering_fakes import WordEvidence, chunk, hits

PASSAGES = hits(chunk("a", "Retries are off."), chunk("b", "The timeout of a call is 30 seconds."))
QUESTION = "how long is the timeout of a call"
QUOTED = 'From the documents: "The timeout of a call is 30 seconds." [2]'
RULES = Rules(threshold=0.5)


def delivery(rules: Rules = RULES, question: str = QUESTION, citations: bool = True) -> Delivery:
    evidence = rank_evidence(WordEvidence(), question, PASSAGES)
    return Delivery(question, PASSAGES, evidence, rules, citations=citations)


def delivered(text: str, rules: Rules = RULES) -> str:
    answer = delivery(rules)
    return answer.feed(text) + answer.end()


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (REFUSAL, QUOTED),
        ("", QUOTED),
        ("Penguins govern the parliament. [1] They do.", QUOTED),
        ("It is 30 seconds. [2]", f"It is 30 seconds. [2] {QUOTED}"),
        ("It is 30 seconds.", f"It is 30 seconds. [2] {QUOTED}"),
        ("The timeout of a call is 30 seconds. [1]", "The timeout of a call is 30 seconds. [2]"),
        ("  It is 30 seconds. [2]  \n", f"It is 30 seconds. [2] {QUOTED}"),
        ("You are welcome.", "You are welcome."),
    ],
)
def test_the_text_is_kept_completed_or_replaced(text: str, result: str):
    assert delivered(text) == result


def test_without_evidence_every_text_becomes_a_refusal():
    assert delivered("It is 30 seconds. [2]", Rules(threshold=1.1)) == REFUSAL


def test_without_strict_grounding_the_text_stays_as_the_model_wrote_it():
    loose = Rules(threshold=1.1, strict=False)
    assert delivered("Penguins govern. [1]", loose) == "Penguins govern. [1]"
    assert delivered(REFUSAL, loose) == REFUSAL


def test_a_quotation_that_would_make_the_answer_too_long_is_left_out():
    text = f"It is 30 seconds, {'as the call says ' * 9}in seconds. [2]"
    assert delivered(text) == text


def test_an_answer_without_passages_is_passed_on_as_it_comes():
    answer = Delivery(QUESTION, None, (), Rules(threshold=0.0, strict=False))
    assert [answer.feed(piece) for piece in ("Five. ", "Or six", ".")] == ["Five.", " Or six", "."]
    assert answer.end() == ""


def test_the_first_sentence_is_held_back_and_the_rest_comes_as_it_is_written():
    answer = delivery()
    assert [answer.feed(piece) for piece in ("It is 30", " seconds.", " [2]", " A call", " ends.")] == [
        *("", "", "It is 30 seconds. [2]"),
        " A call",
        " ends.",
    ]
    assert answer.kind is Kind.ANSWER_AND_QUOTATION


def test_own_words_and_quotation_are_known_apart():
    answer = delivery()
    answer.feed("It is 30 seconds. [2]")
    answer.end()
    assert (answer.own_words, answer.quotation) == ("It is 30 seconds. [2]", "The timeout of a call is 30 seconds.")


def test_no_mark_is_added_if_citations_are_switched_off():
    answer = delivery(Rules(threshold=0.5, quotations=False), citations=False)
    assert answer.feed("It is 30 seconds.") + answer.end() == "It is 30 seconds."


def test_a_quotation_has_no_mark_if_citations_are_switched_off():
    answer = delivery(citations=False)
    assert answer.feed(REFUSAL) + answer.end() == QUOTED.removesuffix(" [2]")
    assert answer.quotation == "The timeout of a call is 30 seconds."


WORDS = st.sampled_from(
    ["It is", "30", "seconds", ".", ". ", "[1]", " [2]", "\n\n", " ", "e.g.", "- a", "1. ", "x[1]", "?", REFUSAL, "Hi!"]
)


@given(st.lists(WORDS, max_size=12).map("".join), st.lists(st.integers(1, 9), max_size=30), st.booleans())
def test_the_pieces_of_a_stream_do_not_change_the_text(text: str, sizes: list[int], quotations: bool):
    rules = Rules(threshold=0.5, quotations=quotations)
    answer = delivery(rules)
    shown, place = "", 0
    for size in [*sizes, len(text)]:
        shown += answer.feed(text[place : place + size])
        place += size
    shown += answer.end()
    assert shown == delivered(text, rules) == answer.text
