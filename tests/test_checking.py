from dataclasses import replace

import pytest

from ragtune.answer.checking import check_answer, check_json
from ragtune.answer.citations import CitationCorrector, cited_numbers, without_citations
from ragtune.answer.controls import Controls
from ragtune.answer.evidence import rank_evidence
from ragtune.answer.prompt import REFUSAL
from ragtune.answer.refusals import is_refusal
from ragtune.records import Completion, Hit
from tests.support.answering_fakes import WordEvidence, chunk, hits

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


@pytest.mark.parametrize(
    ("text", "controls", "warning"),
    [
        ("The timeout is 30 seconds. [1]", Controls(examples=True), "gives no example"),
        ("The timeout is 30 seconds, for example. [1]", Controls(examples=True), ""),
        ("The timeout is 30 seconds. [1]", Controls(step_by_step=True), "not in numbered steps"),
        ("1. The timeout is 30 seconds. [1]\n2. Retries are off. [2]", Controls(step_by_step=True), ""),
        (REFUSAL, Controls(examples=True, step_by_step=True), ""),
        ("The timeout is 30 seconds. [1]", Controls(), ""),
    ],
)
def test_a_switch_that_the_answer_does_not_follow_is_a_warning(text, controls, warning):
    found = " ".join(
        w for w in check_answer("", PASSAGES, completion(text), controls=controls).warnings if "switch" in w
    )
    assert (warning in found) if warning else not found


def test_citation_marks_are_removed_with_the_space_before_them():
    assert without_citations("It is 5 [1]. Or 6. [2]") == "It is 5. Or 6."


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
def test_a_refusal_is_distinguished_from_an_answer(text: str, refused: bool):
    assert is_refusal(text) is refused


def test_a_good_answer_has_no_warning():
    answer = check_answer("What is the timeout?", PASSAGES, completion("The timeout is 30 seconds. [1]"))
    assert answer.warnings == ()
    assert [(c.number, c.chunk_id, c.text) for c in answer.citations] == [(1, "a", "The timeout is 30 seconds.")]


@pytest.mark.parametrize(
    ("source", "path", "origin"),
    [
        ("folder:/srv/docs", "guide/a.pdf", "guide/a.pdf"),
        ("jsonl:/srv/all.jsonl", "MED-10", "MED-10"),
        ("s3://bucket/docs", "guide/a.pdf", "s3://bucket/docs/guide/a.pdf"),
    ],
)
def test_a_citation_points_to_the_place_that_a_person_can_open(source: str, path: str, origin: str):
    place = {"heading_path": ("Server", "Limits"), "page": 3, "start": 120}
    cited = replace(PASSAGES[0].chunk, source=source, path=path, title="Server", **place)
    answer = check_answer("What is the timeout?", [Hit(cited, 1.0)], completion("The timeout is 30 seconds. [1]"))
    (citation,) = answer.citations
    assert citation.source == origin
    assert (citation.headings, citation.page, citation.start) == (("Limits",), 3, 120)


@pytest.mark.parametrize(
    ("text", "finish", "warning"),
    [
        ("The timeout is 30 seconds.", "stop", "cites no passage"),
        ("The timeout is 31 seconds. [4]", "stop", "cites passage 4, which does not exist"),
        ("Penguins govern the antarctic parliament. [1]", "stop", "of its words are in its passages"),
        ("The timeout is 30 [1]", "length", "cut off"),
        ("", "stop", "answered nothing"),
    ],
)
def test_what_looks_wrong_gives_a_warning(text: str, finish: str, warning: str):
    assert any(warning in line for line in check_answer("What?", PASSAGES, completion(text, finish)).warnings)


def test_an_answer_is_compared_with_the_passage_that_it_cites():
    answer = check_answer("What is the timeout?", PASSAGES, completion("The timeout is 31 seconds. [2]"))
    assert answer.warnings == (
        "Only 0% of its words are in its passages.",
        "Passage 2, which it cites, has no word of the question.",
    )


def test_an_answer_from_a_passage_about_something_else_gets_a_warning():
    zones = hits(chunk("a", "Time zones, such as Europe/Paris."))
    answer = check_answer("What is the capital of France?", zones, completion("Paris. [1]"))
    assert answer.warnings == ("Passage 1, which it cites, has no word of the question.",)


def test_a_refusal_needs_no_citation():
    answer = check_answer("Who?", PASSAGES, completion(REFUSAL))
    assert answer.refused
    assert answer.warnings == ()


def test_a_trained_reply_to_small_talk_needs_no_citation():
    assert check_answer("thanks", PASSAGES, completion("You are welcome.")).warnings == ()
    assert check_answer("thanks", PASSAGES, completion("You are welcome, it is 30 seconds.")).warnings


def test_no_citation_is_expected_if_they_are_switched_off():
    answer = check_answer(
        "What?", PASSAGES, completion("The timeout is 30 seconds."), controls=Controls(citations=False)
    )
    assert answer.warnings == ()


COPIED = "The timeout is 30 seconds."


@pytest.mark.parametrize(
    ("text", "corrected"),
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
def test_a_mark_is_corrected_to_the_passage_with_the_words_whatever_pieces_the_answer_comes_in(
    text: str, corrected: str
):
    for size in (1, 2, 3, 7, len(text)):
        corrector = CitationCorrector(PASSAGES)
        pieces = [corrector.feed(text[start : start + size]) for start in range(0, len(text), size)]
        assert "".join(pieces) + corrector.end() == corrected
    assert check_answer("What is the timeout?", PASSAGES, completion(text)).text == corrected


def test_marks_are_removed_if_citations_are_switched_off():
    answer = check_answer(
        "What is the timeout?", PASSAGES, completion(f"{COPIED} [2]"), controls=Controls(citations=False)
    )
    assert answer.text == COPIED
    assert answer.citations == ()


def test_only_text_that_may_become_a_mark_is_held_back():
    corrector = CitationCorrector(PASSAGES)
    assert [corrector.feed(piece) for piece in ("It is ", "list[", "str] or x [", "1", "] .")] == [
        "It is ",
        "list",
        "[str] or x ",
        "",
        "[1] .",
    ]


def test_a_corrected_mark_gives_a_warning_and_cites_the_right_passage():
    answer = check_answer("What is the timeout?", PASSAGES, completion(f"{COPIED} [2]"))
    assert [citation.chunk_id for citation in answer.citations] == ["a"]
    assert answer.warnings == ("It cited passage 2, but the words are in passage 1.",)


SCHEMA = {
    "type": "object",
    "properties": {"seconds": {"type": "integer"}, "why": {"type": "string"}},
    "required": ["seconds"],
}


def test_json_cites_the_passages_that_hold_its_texts_and_its_lists_are_no_marks():
    evidence = rank_evidence(WordEvidence(), "timeout", PASSAGES)
    text = '{"seconds": 30, "why": "Retries are off.", "list": [1]}'
    answer = check_json("What is the timeout?", PASSAGES, completion(text), SCHEMA, evidence=evidence)
    assert answer.text == text
    assert [citation.number for citation in answer.citations] == [2]
    assert (answer.warnings, answer.failures, answer.refused) == ((), (), False)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("thirty", "It is not valid JSON"),
        ('{"seconds": "thirty"}', "at $.seconds: 'thirty' is not of type 'integer'"),
        ('{"why": "x"}', "'seconds' is a required property"),
    ],
)
def test_json_that_does_not_fit_its_schema_is_a_failure_of_the_format(text: str, detail: str):
    (failure,) = check_json("What?", PASSAGES, completion(text), SCHEMA).failures
    assert failure.reason == "format"
    assert detail in failure.detail


def test_no_reference_of_a_schema_is_looked_up_on_the_network():
    schema = {"$ref": "http://127.0.0.1:9/schema.json"}
    (failure,) = check_json("What?", PASSAGES, completion("{}"), schema).failures
    assert failure.detail == "The schema refers to http://127.0.0.1:9/schema.json, which is not in it."
