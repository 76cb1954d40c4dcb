"""Tests of the decision to answer, quote or refuse."""

from dataclasses import replace

import pytest

from ragtune.answer.decision import Kind, Rules, decide, quotation_mark, refuses_at_once, rules_for
from ragtune.answer.evidence import Evidence
from ragtune.answer.language_packs import Frame, packs
from ragtune.answer.prompt import REFUSAL
from ragtune.answer.small_talk import SMALL_TALK
from ragtune.answer.units import Unit
from tests.support.answering_fakes import WordEvidence

QUESTION = "how much does a shelf cost in Cora"
BEST = Evidence(Unit("In Cora a shelf costs 7 mk at any temperature.", "Kilns"), 2, 0.8)
OTHER = Evidence(Unit("Half shelves are not sold.", "Kilns"), 1, 0.1)
RULES = Rules(threshold=0.5)
SUPPORTED, INVENTED, REFUSED = "It is 7 mk at any temperature.", "Penguins govern the parliament.", "I cannot say."


@pytest.mark.parametrize(
    ("sentence", "refused", "rules", "kind"),
    [
        (SUPPORTED, False, RULES, Kind.ANSWER_AND_QUOTATION),
        (INVENTED, False, RULES, Kind.QUOTATION),
        (REFUSED, True, RULES, Kind.QUOTATION),
        (SUPPORTED, False, Rules(threshold=0.9), Kind.REFUSAL),
        (INVENTED, False, Rules(threshold=0.9), Kind.REFUSAL),
        (REFUSED, True, Rules(threshold=0.9), Kind.REFUSAL),
        (REFUSED, True, Rules(threshold=0.5, doubtful=0.9), Kind.REFUSAL),
        (SUPPORTED, False, Rules(threshold=0.5, doubtful=0.9), Kind.ANSWER_AND_QUOTATION),
        (SUPPORTED, False, Rules(threshold=0.5, quotations=False), Kind.ANSWER),
        (INVENTED, False, Rules(threshold=0.5, quotations=False), Kind.ANSWER),
        (REFUSED, True, Rules(threshold=0.5, quotations=False), Kind.REFUSAL),
        (SUPPORTED, False, Rules(threshold=0.9, strict=False), Kind.ANSWER),
        (INVENTED, False, Rules(threshold=0.9, strict=False), Kind.ANSWER),
        (REFUSED, True, Rules(threshold=0.5, strict=False), Kind.ANSWER),
    ],
)
def test_the_evidence_decides_what_becomes_of_the_models_sentence(
    sentence: str, refused: bool, rules: Rules, kind: Kind
):
    assert decide(sentence, refused, QUESTION, [BEST, OTHER], rules) is kind


@pytest.mark.parametrize(("probability", "kind"), [(0.5, Kind.QUOTATION), (0.7, Kind.ANSWER_AND_QUOTATION)])
def test_an_answer_from_a_unit_that_is_much_less_likely_than_the_best_is_replaced(probability: float, kind: Kind):
    evidence = [BEST, replace(OTHER, probability=probability)]
    assert decide("Half shelves are not sold. [1]", False, QUESTION, evidence, RULES) is kind


class ShareIsThreshold(WordEvidence):
    """The threshold of a share is the share itself, so that a test can read it off."""

    def threshold(self, refused_share: float) -> float:
        return refused_share


@pytest.mark.parametrize(
    ("refused_share", "model_refuses", "threshold", "doubtful"),
    [
        (0.1, 0.8, 0.02, 0.1),
        (0.1, 0.2, 0.02, 0.4),
        (0.1, 0.02, 0.08, 1.0),
        (0.1, 0.0, 0.1, 1.0),
        (0.0, 0.5, 0.0, 0.0),
        (1.0, 1.0, 0.2, 0.8),
    ],
)
def test_refusals_of_a_model_that_seldom_refuses_count_more(
    refused_share: float, model_refuses: float, threshold: float, doubtful: float
):
    rules = rules_for(ShareIsThreshold(), refused_share, model_refuses)
    assert (rules.threshold, rules.doubtful) == (pytest.approx(threshold), pytest.approx(doubtful))


def test_without_any_passage_a_strict_answer_is_a_refusal():
    assert decide(SUPPORTED, False, QUESTION, [], RULES) is Kind.REFUSAL


@pytest.mark.parametrize(
    ("question", "evidence", "rules", "at_once"),
    [
        (QUESTION, [BEST], Rules(threshold=0.9), True),
        (QUESTION, [BEST], RULES, False),
        (QUESTION, [], RULES, True),
        (QUESTION, [BEST], Rules(threshold=0.9, strict=False), False),
    ],
)
def test_nothing_is_generated_if_the_refusal_is_certain(
    question: str, evidence: list[Evidence], rules: Rules, at_once: bool
):
    assert refuses_at_once(question, evidence, rules) is at_once


@pytest.mark.parametrize("phrase", [phrase for phrases, reply in SMALL_TALK if reply != REFUSAL for phrase in phrases])
def test_small_talk_is_left_to_the_model(phrase: str):
    assert not refuses_at_once(phrase, [BEST], Rules(threshold=0.9))


def test_a_quotation_is_marked_in_the_language_of_the_pack():
    assert quoted(OTHER, QUESTION) == 'From the documents: "Half shelves are not sold." [1]'
    assert quoted(OTHER, QUESTION, "de") == "Aus den Dokumenten: „Half shelves are not sold.“ [1]"


def quoted(evidence: Evidence, question: str, language: str = "en", **room: int) -> str:
    mark = quotation_mark(evidence, question, Frame(language, packs()[language]), **room)
    return mark.format(text=evidence.unit.text, number=evidence.number)


POOL = Evidence(Unit("Timed out waiting for a connection.", "", ("shop.PoolTimeout",)), 3, 0.8)
MARKED = Evidence(Unit("From nine to five.", "", ("2.1 **Opening** `hours` [3]",)), 1, 0.8)
ROOMS = Evidence(Unit("They are kept at 4 degrees.", "", ("The house", "Cold {rooms}")), 1, 0.8)


@pytest.mark.parametrize(
    ("evidence", "question", "language", "mark"),
    [
        (POOL, "which exception is it", "en", "From the documents, shop.PoolTimeout: "),
        (POOL, "which exception is it", "de", "Aus den Dokumenten, shop.PoolTimeout: "),
        (POOL, "what does PoolTimeout mean", "en", "From the documents: "),
        (ROOMS, "how cold is it", "en", "From the documents, The house > Cold {rooms}: "),
        (ROOMS, "how cold are the cold rooms of the house", "en", "From the documents: "),
        (ROOMS, "how cold are the cold rooms", "en", "From the documents, The house: "),
        (MARKED, "when is it", "en", "From the documents, Opening hours: "),
        (MARKED, "what are the opening hours", "en", "From the documents: "),
    ],
)
def test_a_quotation_names_its_title_and_heading_if_they_say_something_new(evidence, question, language, mark):
    assert quoted(evidence, question, language).startswith(mark)


def test_a_place_that_does_not_fit_into_the_words_that_are_judged_is_left_out():
    assert quoted(ROOMS, "how cold is it", room=13) == (
        'From the documents, Cold {rooms}: "They are kept at 4 degrees." [1]'
    )
    assert quoted(ROOMS, "how cold is it", room=11) == 'From the documents: "They are kept at 4 degrees." [1]'
