"""Tests of what becomes of the model's text: a stream and a plain request end with the same text."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragtune.answer.controls import Controls
from ragtune.answer.decision import Kind, Rules
from ragtune.answer.delivery import Delivery
from ragtune.answer.evidence import rank_evidence
from ragtune.answer.prompt import REFUSAL
from tests.support.answering_fakes import WordEvidence, chunk, hits

PASSAGES = hits(chunk("a", "Retries are off."), chunk("b", "The timeout of a call is 30 seconds."))
QUESTION = "how long is the timeout of a call"
QUOTED = 'From the documents, b: "The timeout of a call is 30 seconds." [2]'
RULES = Rules(threshold=0.5)


def delivery(rules: Rules = RULES, question: str = QUESTION, **controls: object) -> Delivery:
    evidence = rank_evidence(WordEvidence(), question, PASSAGES)
    return Delivery(question, PASSAGES, evidence, rules, controls=Controls(**controls))


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


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("It is 30 seconds. [2]", "It is 30 seconds."),
        ("It is [1, 2] 30 seconds [2], says argv[1].", "It is 30 seconds, says argv[1]."),
        ("It is 30 seconds.[2]", "It is 30 seconds."),
        ("It is [30", "It is [30"),
    ],
)
def test_the_models_own_marks_are_removed_if_citations_are_switched_off(text: str, result: str):
    answer = delivery(Rules(threshold=0.5, quotations=False), citations=False)
    assert "".join(map(answer.feed, text)) + answer.end() == result


def test_a_quotation_has_no_mark_if_citations_are_switched_off():
    answer = delivery(citations=False)
    assert answer.feed(REFUSAL) + answer.end() == QUOTED.removesuffix(" [2]")
    assert answer.quotation == "The timeout of a call is 30 seconds."


WORDS = st.sampled_from(
    ["It is", "30", "seconds", ".", ". ", "[1]", " [2]", "\n\n", " ", "e.g.", "- a", "1. ", "x[1]", "?", REFUSAL, "Hi!"]
)


CONTROLS = st.builds(
    Controls,
    depth=st.sampled_from([0.0, 0.5, 1.0]),
    technical_level=st.sampled_from([0.0, 0.5, 1.0]),
    citations=st.booleans(),
    markdown=st.booleans(),
    step_by_step=st.booleans(),
    examples=st.booleans(),
)


@given(st.lists(WORDS, max_size=12).map("".join), st.lists(st.integers(1, 9), max_size=30), st.booleans(), CONTROLS)
def test_the_pieces_of_a_stream_do_not_change_the_text(
    text: str, sizes: list[int], quotations: bool, controls: Controls
):
    rules = Rules(threshold=0.5, quotations=quotations)
    answer, whole = (delivery(rules, **asdict(controls)) for _ in range(2))
    shown, place = "", 0
    for size in [*sizes, len(text)]:
        shown += answer.feed(text[place : place + size])
        place += size
    shown += answer.end()
    assert shown == whole.feed(text) + whole.end() == answer.text


def test_markdown_goes_from_the_models_words_and_from_quotations_if_it_is_switched_off():
    passages = hits(chunk("a", "The timeout of a call is **30 seconds**, see `wait()`."))
    evidence = rank_evidence(WordEvidence(), QUESTION, passages)
    answer = Delivery(QUESTION, passages, evidence, RULES, controls=Controls(markdown=False))
    assert answer.feed("It is **30** seconds. [1]") + answer.end() == (
        'It is 30 seconds. [1] From the documents: "The timeout of a call is 30 seconds, see wait()." [1]'
    )
    assert answer.quotation == "The timeout of a call is **30 seconds**, see `wait()`."


def checked(text: str) -> Delivery:
    evidence = rank_evidence(WordEvidence(), QUESTION, PASSAGES)
    answer = Delivery(QUESTION, PASSAGES, evidence, RULES, checks_first=True)
    assert answer.feed(text) + answer.end() == answer.text
    return answer


def test_a_first_sentence_that_fails_its_checks_is_not_shown_and_neither_is_what_follows():
    answer = checked("The timeout of a call is not 30 seconds. [2] It is long.")
    assert (answer.text, answer.suspect) == ("", True)
    answer = checked("The timeout of a call is 30 seconds. [1] It is 90 long.")
    assert (answer.text, answer.suspect) == ("The timeout of a call is 30 seconds. [2] It is 90 long.", False)
    assert not checked("Penguins govern the parliament. [1]").suspect, "it is quoted anyway"


def test_own_words_that_say_no_where_the_documents_say_yes_are_replaced():
    passages = hits(chunk("a", "Yes, the yard is open on Sundays in summer."))
    question = "is the yard open on sundays"
    for own, is_replaced in [("No, the yard is open in summer. [1]", True), ("Yes, in summer. [1]", False)]:
        answer = Delivery(question, passages, rank_evidence(WordEvidence(), question, passages), RULES)
        answer.feed(own)
        answer.end()
        assert (answer.kind is Kind.QUOTATION) is is_replaced, own
