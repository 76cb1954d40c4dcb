import numpy as np
import pytest

from ragtune.errors import DatasetError
from ragtune.evaluation.calibration import (
    FEWEST_RATINGS,
    Confusion,
    best_threshold,
    calibrate,
    calibrations,
    corrected_share,
)
from ragtune.evaluation.judges import Judgement


def ratings(both_yes: int, judge_yes: int, people_yes: int, both_no: int) -> tuple[list[float], list[bool]]:
    """Return scores (0.9 or 0.1) and people's ratings with these counts."""
    cells = [(0.9, True)] * both_yes + [(0.9, False)] * judge_yes + [(0.1, True)] * people_yes
    scores, people = zip(*(cells + [(0.1, False)] * both_no), strict=True)
    return list(scores), list(people)


def test_a_judge_is_compared_with_people_as_in_a_published_table():
    # Feinstein and Cicchetti 1990, table 1: agreement 0.85, kappa 0.70.
    result = calibrate("j", "correct", *ratings(40, 9, 6, 45))
    assert result.agreement.value == pytest.approx(0.85)
    assert result.kappa.value == pytest.approx(0.70, abs=0.005)
    assert result.bias.value == pytest.approx(0.03)  # 49% yes by the judge, 46% by people
    assert result.confusion == Confusion(both_yes=40, judge_yes=9, people_yes=6, both_no=45)
    assert (result.counts, result.reason) == (True, "")


def test_a_judge_with_the_same_agreement_by_prevalence_alone_does_not_count():
    # Their table 2: the agreement is 0.85 again, but kappa only 0.32.
    result = calibrate("j", "correct", *ratings(80, 10, 5, 5))
    assert result.agreement.value == pytest.approx(0.85)
    assert result.kappa.value == pytest.approx(0.32, abs=0.005)
    assert not result.counts
    assert "has to be above 0.4" in result.reason


def test_a_judge_needs_enough_ratings_to_count():
    result = calibrate("j", "correct", *ratings(10, 0, 0, 10))
    assert not result.counts
    assert result.reason == f"20 rated answers; {FEWEST_RATINGS} are needed."


def test_a_judge_that_guesses_does_not_seem_to_agree_because_its_threshold_was_fitted():
    generator = np.random.default_rng(5)
    kappas = []
    for _ in range(40):
        people = generator.random(60) < 0.5
        kappas.append(calibrate("j", "correct", generator.random(60).tolist(), people.tolist()).kappa.value)
    # Fitted and measured on the same answers the mean is 0.2; 0.13 is the standard error of one kappa at n = 60.
    assert abs(np.mean(kappas)) < 0.13


def test_the_threshold_lies_between_the_answers_that_people_like_and_those_they_do_not():
    scores, people = np.array([0.1, 0.2, 0.6, 0.7]), np.array([False, False, True, True])
    assert best_threshold(scores, people) == pytest.approx(0.4)
    assert best_threshold(scores, np.ones(4, dtype=bool)) == 0.5


def test_a_share_is_corrected_as_rogan_and_gladen_do():
    # By hand: sensitivity 0.9, specificity 0.8, 50% positive: (0.5 + 0.8 - 1) / (0.9 + 0.8 - 1) = 0.4286.
    confusion = Confusion(both_yes=90, judge_yes=20, people_yes=10, both_no=80)
    result = corrected_share(500, 1000, confusion)
    assert result.value == pytest.approx(0.4286, abs=5e-5)
    assert 0.3 < result.low < result.value < result.high < 0.55


def test_the_interval_of_a_corrected_share_covers_the_true_share():
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        both_yes, both_no = generator.binomial(100, 0.9), generator.binomial(100, 0.8)
        confusion = Confusion(both_yes=both_yes, judge_yes=100 - both_no, people_yes=100 - both_yes, both_no=both_no)
        yes = generator.binomial(300, 0.6 * 0.9 + 0.4 * 0.2)
        interval = corrected_share(yes, 300, confusion)
        covered += interval.low <= 0.6 <= interval.high
    # 95% intervals: fewer than 88 of 100 happen with a probability below 0.003.
    assert covered >= 88


def test_a_judge_that_does_not_tell_yes_from_no_corrects_nothing():
    with pytest.raises(DatasetError, match="better than guessing"):
        corrected_share(5, 10, Confusion(both_yes=5, judge_yes=5, people_yes=5, both_no=5))


def test_judgements_meet_the_ratings_of_the_same_answer_and_the_newest_counts():
    judgements = [
        Judgement(answer_key=key, judge="j", question="clear", score=score)
        for key, score in (("a", 0.9), ("b", 0.2), ("b", 0.8), ("unrated", 1.0))
    ]
    (result,) = calibrations(judgements, {("a", "clear"): True, ("b", "clear"): True, ("a", "correct"): True})
    assert (result.judge, result.question, result.confusion.n) == ("j", "clear", 2)
    assert result.confusion.both_yes == 2
