from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from ragtune.errors import DatasetError, SettingsError
from ragtune.evaluation.gate import GateEntry, decide, paired_gain, sign_flip_p_value
from ragtune.records import ScoredAnswer
from ragtune.settings import EvaluationSettings
from tests.support.scored_answers import scored_answer

SETTINGS = EvaluationSettings(gate_looks=1)


def answers(values, metric: str = "token_f1") -> list[ScoredAnswer]:
    return [scored_answer(i, value, metric=metric) for i, value in enumerate(values)]


def verdict(live, candidate, **changes):
    settings = SETTINGS.model_copy(update=changes)
    return decide(GateEntry("1", answers(live)), GateEntry("2", answers(candidate)), settings, 17)


def test_an_equal_model_is_refused():
    values = np.random.default_rng(1).random(120)
    decision = verdict(values, values)
    assert not decision.promoted
    assert "no better" in decision.reason
    assert (decision.gain, decision.low) == (0.0, 0.0)
    assert decision.smallest_detectable_gain > 0


def test_a_clearly_better_model_is_promoted_and_the_numbers_say_why():
    rng = np.random.default_rng(2)
    live = rng.random(120) * 0.6
    decision = verdict(live, np.clip(live + 0.2 + 0.1 * rng.normal(size=120), 0, 1))
    assert decision.promoted
    assert decision.low > 0.1
    assert decision.candidate - decision.live == pytest.approx(decision.gain)
    assert f"{decision.smallest_detectable_gain:.3f}" in decision.reason
    assert (decision.n, decision.live_version, decision.candidate_version) == (120, "1", "2")


def test_a_worse_model_is_refused():
    live = np.random.default_rng(3).random(120)
    assert not verdict(live, live - 0.2).promoted


def test_a_few_lucky_items_do_not_promote():
    live = np.zeros(100)
    four, five = live.copy(), live.copy()
    four[:4], five[:5] = 1.0, 1.0
    assert not verdict(live, four).promoted  # sign test: 1/16
    assert verdict(live, five).promoted  # sign test: 1/32


def test_models_that_answered_different_questions_cannot_be_compared():
    with pytest.raises(DatasetError, match="2 questions were answered by one of the two"):
        verdict([1.0] * 10, [1.0] * 12)


def test_an_unknown_metric_lists_the_valid_ones():
    with pytest.raises(SettingsError, match="token_f1"):
        verdict([1.0], [1.0], metric="beauty")


def test_answers_are_paired_by_question_and_not_by_position():
    live = answers([0.0, 1.0, 0.5] * 30)
    candidate = list(reversed(answers(np.clip(np.array([0.0, 1.0, 0.5] * 30) + 0.1, 0, 1))))
    result = paired_gain(live, candidate, "token_f1", seed=1)
    assert result.gain == pytest.approx(0.2 / 3)
    assert result.low > 0


def test_the_sign_flip_test_agrees_with_counting_by_hand():
    assert sign_flip_p_value(np.array([1.0, 1.0, 1.0]), 0, 100) == 1 / 8
    assert sign_flip_p_value(np.array([1.0, 1.0, -1.0]), 0, 100) == 4 / 8
    assert sign_flip_p_value(np.zeros(5), 0, 100) == 1.0


def test_many_differences_are_sampled_close_to_the_normal_value():
    sums = np.ones(100)
    sums[:40] = -1.0
    expected = 1 - NormalDist().cdf((20 - 1) / 10)
    assert sign_flip_p_value(sums, 5, 20_000) == pytest.approx(expected, abs=0.005)


def simulated_promotions(n: int, gain: float, runs: int) -> tuple[float, float]:
    """Return (share promoted, mean smallest detectable gain) of right/wrong answers with correlation 0.7."""
    rng = np.random.default_rng(99)
    shared = rng.normal(size=(runs, n))
    live, candidate = (np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.normal(size=(runs, n)) for _ in range(2))
    cut = NormalDist().inv_cdf
    rows = zip((live < cut(0.7)).astype(float), (candidate < cut(0.7 + gain)).astype(float), strict=True)
    decisions = [verdict(*row, bootstrap_samples=500) for row in rows]
    promoted = sum(decision.promoted for decision in decisions)
    return promoted / runs, float(np.mean([decision.smallest_detectable_gain for decision in decisions]))


def test_a_model_that_is_no_better_is_promoted_in_at_most_one_of_twenty_cases():
    promoted, _ = simulated_promotions(120, 0.0, 600)
    assert promoted <= 0.05 + 1.64 * (0.05 * 0.95 / 600) ** 0.5


def test_a_model_that_is_worse_is_hardly_ever_promoted():
    promoted, _ = simulated_promotions(120, -0.05, 400)
    assert promoted <= 0.01


def test_the_smallest_detectable_gain_is_detected_about_as_often_as_it_promises():
    _, detectable = simulated_promotions(200, 0.08, 50)
    promoted, _ = simulated_promotions(200, detectable, 400)
    assert 0.7 <= promoted <= 0.9


def verdict_with_out_of_domain(live, candidate, before, after):
    entries = GateEntry("1", answers(live), answers(before)), GateEntry("2", answers(candidate), answers(after))
    return decide(*entries, SETTINGS, 17)


def test_a_model_that_lost_what_it_could_do_before_is_refused_however_much_it_gained():
    rng = np.random.default_rng(8)
    live, before = rng.random(120) * 0.5, 0.5 + rng.random(48) * 0.5
    decision = verdict_with_out_of_domain(live, live + 0.4, before, before - 0.3 * rng.random(48))
    assert not decision.promoted
    assert "lost what it could do before" in decision.reason
    assert decision.out_of_domain_high < 0
    assert decision.out_of_domain_n == 48


def test_a_small_out_of_domain_loss_that_may_be_chance_does_not_stop_a_better_model():
    rng = np.random.default_rng(9)
    live, before = rng.random(120) * 0.5, rng.random(48)
    decision = verdict_with_out_of_domain(live, live + 0.4, before, before + 0.3 * rng.normal(size=48) - 0.01)
    assert decision.promoted
    assert decision.out_of_domain_low < 0 < decision.out_of_domain_high


def of_people(values) -> list[ScoredAnswer]:
    return [
        replace(a, pair_id=f"q{a.pair_id}", document_id=f"q{a.document_id}", origin="people") for a in answers(values)
    ]


def verdict_by_origin(live, candidate, people_live, people_candidate):
    entries = [
        GateEntry(name, [*answers(written), *of_people(people)])
        for name, written, people in (("1", live, people_live), ("2", candidate, people_candidate))
    ]
    return decide(*entries, SETTINGS, 17)


def test_enough_questions_of_people_decide_alone_and_the_gain_of_each_origin_is_reported():
    decision = verdict_by_origin([0.0] * 60, [1.0] * 60, [0.5] * 60, [0.5] * 60)
    assert not decision.promoted, "people saw no gain"
    assert (decision.n, decision.decided_on, decision.gain) == (60, "people's questions", 0.0)
    assert decision.by_origin == (
        "people: +0.000 (+0.000 to +0.000, n = 60); writer: +1.000 (+1.000 to +1.000, n = 60)"
    )


def test_few_questions_of_people_decide_together_with_the_others():
    decision = verdict_by_origin([0.0] * 60, [1.0] * 60, [0.5] * 59, [0.5] * 59)
    assert decision.promoted
    assert (decision.n, decision.decided_on) == (119, "all questions")


def test_answers_are_resampled_by_their_group_if_they_have_one():
    live = [replace(a, group=f"s{number % 4}", document_id="d") for number, a in enumerate(answers([0.0] * 40))]
    candidate = [replace(a, metrics={"token_f1": 1.0}) for a in live]
    assert paired_gain(live, candidate, "token_f1").p_value == 1 / 16
