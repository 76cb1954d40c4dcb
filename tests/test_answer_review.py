import pytest

from ragtune.answer.controls import Controls
from ragtune.answer.marks import CitationCorrector, cited_numbers, without_marks
from ragtune.answer.prompt import REFUSAL
from ragtune.answer.review import is_refusal, review
from ragtune.records import Completion
from tests.support.answering_fakes import chunk, hits

PASSAGES = hits(chunk("a", "The timeout is 30 seconds."), chunk("b", "Retries are off."))


def completion(text: str, finish_reason: str = "stop") -> Completion:
    return Completion(
        text=text,
        prompt_tokens=10,
        completion_tokens=5,
        first_token_seconds=0.1,
        total_seconds=0.2,
        finish_reason=finish_reason,
    )


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("A. [1]", [1]), ("A [2][1]. B [2].", [2, 1]), ("A [1, 3].", [1, 3]), ("list[str] and x[i]", []), ("none", [])],
)
def test_citation_marks_are_read(text: str, numbers: list[int]):
    assert cited_numbers(text) == numbers


def test_marks_are_taken_out_without_a_trace():
    assert without_marks("It is 5 [1]. Or 6. [2]") == "It is 5. Or 6."


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (REFUSAL, True),
        ("Sorry. " + REFUSAL, True),
        ("I cannot answer this from the passages.", True),
        ("The passages do not contain the answer.", True),
        ("The timeout is 30 seconds. [1]", False),
        ("Raises an error if the asset could not be loaded. [1]", False),
        ("Raised when the key could not be found. [1]", False),
        ("The value that is used when the parser cannot find the file. [1]", False),
        ("Sorry, we are unable to answer that.", True),
        ("The answer could not be found.", True),
        ("It is 5. Use it when you cannot find the file.", False),
        ("", False),
    ],
)
def test_a_refusal_is_told_from_an_answer(text: str, refused: bool):
    assert is_refusal(text) is refused


def test_a_good_answer_has_no_warning():
    answer = review("What is the timeout?", PASSAGES, completion("The timeout is 30 seconds. [1]"))
    assert answer.warnings == ()
    assert [(c.number, c.chunk_id, c.text) for c in answer.citations] == [(1, "a", "The timeout is 30 seconds.")]


@pytest.mark.parametrize(
    ("text", "finish", "warning"),
    [
        ("The timeout is 30 seconds.", "stop", "cites no passage"),
        ("The timeout is 31 seconds. [4]", "stop", "cites passage 4, which does not exist"),
        ("Penguins govern the antarctic parliament. [1]", "stop", "of its words stand in its passages"),
        ("The timeout is 30 [1]", "length", "cut off"),
        ("", "stop", "answered nothing"),
    ],
)
def test_what_looks_wrong_is_said(text: str, finish: str, warning: str):
    assert any(warning in line for line in review("What?", PASSAGES, completion(text, finish)).warnings)


def test_a_citation_is_held_to_its_own_passage():
    answer = review("What is the timeout?", PASSAGES, completion("The timeout is 31 seconds. [2]"))
    assert answer.warnings == (
        "Only 0% of its words stand in its passages.",
        "Passage 2, which it cites, holds no word of the question.",
    )


def test_an_answer_from_a_passage_about_something_else_is_marked():
    zones = hits(chunk("a", "Time zones, such as Europe/Paris."))
    answer = review("What is the capital of France?", zones, completion("Paris. [1]"))
    assert answer.warnings == ("Passage 1, which it cites, holds no word of the question.",)


def test_a_refusal_needs_no_citation():
    answer = review("Who?", PASSAGES, completion(REFUSAL))
    assert answer.refused
    assert answer.warnings == ()


def test_a_friendly_word_needs_no_citation():
    assert review("thanks", PASSAGES, completion("You are welcome.")).warnings == ()
    assert review("thanks", PASSAGES, completion("You are welcome, it is 30 seconds.")).warnings


def test_switched_off_citations_are_not_missed():
    answer = review("What?", PASSAGES, completion("The timeout is 30 seconds."), controls=Controls(citations=False))
    assert answer.warnings == ()


COPIED = "The timeout is 30 seconds."


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"{COPIED} [2]", f"{COPIED} [1]"),
        (f"{COPIED} [4]", f"{COPIED} [1]"),
        ("the TIMEOUT is `30` seconds [2].", "the TIMEOUT is `30` seconds [1]."),
        ("Retries are off. [1] The timeout is 30 seconds. [1]", "Retries are off. [2] The timeout is 30 seconds. [1]"),
        (f"{COPIED} [1]", f"{COPIED} [1]"),
        ("Retries are on. [1]", "Retries are on. [1]"),
        (f"{COPIED} [2, 1]", f"{COPIED} [2, 1]"),
        (f"{COPIED} [2][1]", f"{COPIED} [1]"),
        (f"{COPIED} [1][2]", f"{COPIED} [1][2]"),
        ("[2]", "[2]"),
        ("The timeout[2] is 30 seconds and y[", "The timeout[2] is 30 seconds and y["),
        ("`The timeout is 30 seconds [2]`", "`The timeout is 30 seconds [2]`"),
        ("The timeout is 30 seconds of grid[1][1]", "The timeout is 30 seconds of grid[1][1]"),
        ("Seconds [1] and [2].", "Seconds [1] and [2]."),
        ("The [2] is 30 seconds.", "The [2] is 30 seconds."),
        (f"{COPIED} [2, 2, 2, 2, 2, 2] {COPIED} [2]", f"{COPIED} [2, 2, 2, 2, 2, 2] {COPIED} [1]"),
        (f"{COPIED} [2", f"{COPIED} [2"),
    ],
)
def test_a_mark_names_the_passage_where_the_words_stand_however_the_answer_is_cut(said: str, shown: str):
    for size in (1, 2, 3, 7, len(said)):
        marks = CitationCorrector(PASSAGES)
        pieces = [marks.feed(said[start : start + size]) for start in range(0, len(said), size)]
        assert "".join(pieces) + marks.end() == shown
    assert review("What is the timeout?", PASSAGES, completion(said)).text == shown


def test_marks_that_were_not_asked_for_are_left_alone():
    answer = review("What is the timeout?", PASSAGES, completion(f"{COPIED} [2]"), controls=Controls(citations=False))
    assert answer.text == f"{COPIED} [2]"
    assert CitationCorrector(()).feed("Write x [1") == "Write x [1"


def test_words_that_are_no_mark_are_not_held_back():
    marks = CitationCorrector(PASSAGES)
    assert [marks.feed(piece) for piece in ("It is ", "list[", "str] or x [", "1", "] .")] == [
        "It is ",
        "list",
        "[str] or x ",
        "",
        "[1] .",
    ]


def test_a_mark_that_was_set_right_is_told_and_cites_the_right_passage():
    answer = review("What is the timeout?", PASSAGES, completion(f"{COPIED} [2]"))
    assert [citation.chunk_id for citation in answer.citations] == ["a"]
    assert answer.warnings == ("It cited passage 2 for what stands in passage 1.",)
