"""Tests of the ranking of units, and of support."""

from ragtune.answer.evidence import Evidence, closest_passages, rank_evidence, support_of
from ragtune.answer.units import Unit
from tests.support.answering_fakes import WordEvidence, chunk, hits

PASSAGES = hits(chunk("a", "The timeout is 30 seconds. Retries are off."), chunk("b", "A retry waits 2 seconds."))
QUESTION = "how long is the timeout"


def test_the_unit_that_answers_best_comes_first_with_the_number_of_its_passage():
    best, *others = rank_evidence(WordEvidence(), QUESTION, PASSAGES)
    assert (best.unit.text, best.number) == ("The timeout is 30 seconds.", 1)
    assert [item.probability for item in others] == sorted((item.probability for item in others), reverse=True)


def test_the_order_of_the_passages_changes_no_probability():
    there = {item.unit: item.probability for item in rank_evidence(WordEvidence(), QUESTION, PASSAGES)}
    back = {item.unit: item.probability for item in rank_evidence(WordEvidence(), QUESTION, PASSAGES[::-1])}
    assert there == back


def test_a_unit_of_two_passages_comes_once_with_the_first_number():
    twice = hits(chunk("a", "Retries are off."), chunk("a", "Retries are off."))
    assert [item.number for item in rank_evidence(WordEvidence(), QUESTION, twice)] == [1]


def test_the_supporting_unit_holds_most_words_of_the_answer():
    evidence = rank_evidence(WordEvidence(), QUESTION, PASSAGES)
    share, unit = support_of("A retry waits 2 minutes.", QUESTION, evidence)
    assert unit is not None
    assert (share, unit.number) == (0.75, 2)


def test_an_answer_without_words_beyond_the_question_is_supported_by_the_best_unit():
    evidence = rank_evidence(WordEvidence(), QUESTION, PASSAGES)
    assert support_of("The timeout. [1]", QUESTION, evidence) == (1.0, evidence[0])
    assert support_of("The timeout.", QUESTION, []) == (0.0, None)


def test_at_most_three_closest_passages_are_shown_each_with_its_best_unit():
    evidence = [Evidence(Unit(f"Unit {place}.", ""), 1 + place % 4, 0.9 - place / 10) for place in range(8)]
    shown = hits(*(chunk(name, "Text.") for name in "abcd"))
    closest = closest_passages(evidence, shown)
    assert [(passage.number, passage.sentence) for passage in closest] == [
        (1, "Unit 0."),
        (2, "Unit 1."),
        (3, "Unit 2."),
    ]
    assert closest[0].title == shown[0].chunk.title


def test_a_term_that_repeats_the_question_is_no_evidence_unless_there_is_nothing_else():
    passages = hits(chunk("a", "Slipway\n\nA slipway is a ramp for boats."))
    assert [item.unit.text for item in rank_evidence(WordEvidence(), "what is a slipway", passages)] == [
        "A slipway is a ramp for boats."
    ]
    assert rank_evidence(WordEvidence(), "what is a slipway", hits(chunk("a", "Slipway")))
