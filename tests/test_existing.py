"""Existing answers find the passages that hold them, or are listed with the reason."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ragtune.dataset.checks.quality import check_pairs, rejection_reason
from ragtune.dataset.existing import Match, match_pairs
from ragtune.dataset.reviews.decisions import new_decision
from ragtune.dataset.reviews.outcome import apply_reviews
from ragtune.records import Chunk, ExistingPair, Hit
from ragtune.settings import DatasetSettings
from ragtune.text.words import content_words
from tests.support.answering_fakes import chunk

KILNS = chunk(
    "c1",
    "The large kiln reaches 1280 degrees and takes 14 hours. "
    "It is fired every second Friday. A shelf costs 6 guilders.",
    "Kilns",
    document="kilns",
)
COOLING = chunk(
    "c2", "Never open a kiln above 90 degrees, because glazes crack in cold air.", "Kilns", document="kilns"
)
BOATS = chunk("c3", "A mooring costs 14 guilders a month. The crane lifts 1280 kilograms.", "Boats", document="boats")
CHUNKS = [KILNS, COOLING, BOATS]


def search(queries: Sequence[str], limit: int) -> list[list[Hit]]:
    """Return the chunks by the number of words that they share with each query."""
    results = []
    for query in queries:
        words = content_words(query)
        counts = [(len(words & content_words(c.embedded_text)), c) for c in CHUNKS]
        ranked = sorted((pair for pair in counts if pair[0]), key=lambda pair: -pair[0])
        results.append([Hit(c, float(count)) for count, c in ranked][:limit])
    return results


def match(question: str, answer: str, **fields: object) -> Match:
    existing = ExistingPair(source="pairs:faq.csv", place="line 2", question=question, answer=answer, **fields)
    return match_pairs([existing], search)[0]


def place(question: str, answer: str, **fields: object) -> tuple[Chunk, str]:
    """Return the matched chunk and the text of the span in it."""
    pair = match(question, answer, **fields).pair
    assert pair is not None
    (found,) = (c for c in CHUNKS if c.id == pair.chunk_id)
    assert pair.document_id == found.document_id
    return found, found.text[slice(*pair.span)]


def test_an_answer_that_is_quoted_has_its_own_span_whatever_its_case_and_full_stop() -> None:
    assert place("how hot does the large kiln get", "reaches 1280 Degrees.") == (KILNS, "reaches 1280 degrees")


def test_a_reworded_answer_has_the_sentence_that_is_closest() -> None:
    question, answer = "when is the kiln fired", "On every second friday it gets fired"
    assert place(question, answer) == (KILNS, "It is fired every second Friday.")


def test_a_short_answer_goes_to_the_passage_that_resembles_the_question() -> None:
    assert place("what does a mooring cost a month", "14 guilders")[0] == BOATS
    assert place("how long does the kiln take", "14 hours")[0] == KILNS


def test_the_context_decides_if_an_answer_stands_in_several_passages() -> None:
    context = "Reeds grow here. The crane lifts 1280 kilograms. Nobody swims."
    assert place("how much", "1280", context=context)[0] == BOATS
    assert place("how much", "1280", context=context, answer_start=context.index("1280"))[0] == BOATS


@pytest.mark.parametrize(
    ("question", "answer", "fields", "reason"),
    [
        ("where is the sauna", "Next to the kiln, behind the boiler house.", {}, "no passage holds the answer"),
        ("is there a kiln", "Yes", {}, "the answer 'Yes' says nothing that a passage could hold"),
        ("how hot is the kiln", "1300", {}, "no passage contains the short answer '1300'"),
        ("who repairs bicycles on Sundays", "14 guilders", {}, "says too little of the question"),
        (
            "how hot",
            "1280",
            {"context": "Steel melts at 1280 in the foundry of Emden."},
            "no passage holds its context",
        ),
        ("xyzzy", "plugh", {}, "no passage shares a word with it"),
        (
            "how hot is the kiln",
            " ".join(["hot"] * 70) + ".",
            {},
            "first sentence has 70 words; an answer has at most 60",
        ),
    ],
)
def test_a_pair_without_a_passage_is_listed_with_the_reason(
    question: str, answer: str, fields: dict[str, str], reason: str
) -> None:
    result = match(question, answer, **fields)
    assert result.pair is None
    assert reason in result.reason


def test_a_long_answer_is_cut_after_its_first_sentences_and_says_so() -> None:
    tail = "It is fired every second Friday and a shelf of the large kiln costs 6 guilders. " * 6
    result = match("how hot does the large kiln get", f"The large kiln reaches 1280 degrees. {tail}")
    assert result.shortened
    assert result.pair is not None
    assert result.pair.answer.startswith("The large kiln reaches 1280 degrees. It is fired")
    assert len(result.pair.answer.split()) <= 60
    assert result.pair.answer.endswith("guilders.")


def test_what_is_missing_of_an_answer_is_evidence_from_another_passage_of_the_document() -> None:
    answer = "The large kiln reaches 1280 degrees. Every second Friday it is fired. Glazes crack in cold air."
    pair = match("how many degrees does the large kiln reach", answer).pair
    assert pair is not None
    assert (pair.chunk_id, pair.evidence_ids) == ("c1", ("c2",))


def test_an_unanswerable_question_gets_the_passage_that_looks_most_relevant() -> None:
    pair = match("who built the large kiln", "", answerable=False).pair
    assert pair is not None
    assert (pair.chunk_id, pair.answer, pair.span, pair.answerable) == ("c1", "", (0, 0), False)
    assert pair.kind == "unanswerable.existing"
    assert rejection_reason(pair, KILNS) == ""


def test_pairs_keep_their_origin_and_place_through_checks_and_reviews() -> None:
    pair = match("how hot does the large kiln get", "reaches 1280 degrees").pair
    assert pair is not None
    assert (pair.origin, pair.writer, pair.imported_from) == ("people", "people", "pairs:faq.csv, line 2")
    decision = new_decision(pair, "ada", "correct", question="how hot is the large kiln", answer="1280 degrees")
    (corrected,) = apply_reviews([pair], [decision], CHUNKS).pairs
    assert (corrected.origin, corrected.answer) == ("people", "1280 degrees")


@pytest.mark.parametrize(
    "question",
    ["kiln temperature large one", "large kiln, hot how?", "kiln `hot", "can the large kiln be above 1000"],
)
def test_a_question_of_people_is_not_dropped_for_its_grammar(question: str) -> None:
    pair = match(question, "reaches 1280 degrees").pair
    assert pair is not None
    assert check_pairs([pair], CHUNKS, DatasetSettings(min_pairs=1)).pairs[0].id == pair.id


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("how hot does the kiln of ann@example.org get", "reaches 1280 degrees", "personal data"),
        ("what does this table of the large kiln say", "reaches 1280 degrees", "points at text"),
        ("is it so that the kiln reaches 1280 degrees", "reaches 1280 degrees", "gives the answer away"),
        ("fuck how hot is the large kiln", "reaches 1280 degrees", "abusive"),
    ],
)
def test_a_question_of_people_passes_the_other_checks(question: str, answer: str, reason: str) -> None:
    pair = match(question, answer).pair
    assert pair is not None
    assert reason in rejection_reason(pair, KILNS)


def test_bad_pairs_of_people_are_listed_and_do_not_stop_the_dataset() -> None:
    good = match("how hot does the large kiln get", "reaches 1280 degrees").pair
    bad = [match(f"what does this table of kiln {n} say", "reaches 1280 degrees").pair for n in range(9)]
    assert good is not None
    report = check_pairs([good, *(pair for pair in bad if pair)], CHUNKS, DatasetSettings(min_pairs=1))
    assert report.pairs[0].question == good.question
    assert len(report.rejected) == 9
    assert report.passed


def test_if_people_and_a_writer_ask_the_same_the_pair_of_people_stays() -> None:
    pair = match("How hot does the large kiln get?", "reaches 1280 degrees").pair
    assert pair is not None
    written = replace(pair, id="w", writer="extractive", imported_from="", kind="statement")
    report = check_pairs([written, pair], CHUNKS, DatasetSettings(min_pairs=1))
    assert [kept.origin for kept in report.pairs] == ["people"]
    assert report.rejected == [(written, "the same question was asked before")]
