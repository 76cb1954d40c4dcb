"""The statistics of experiments: assignment, intervals that hold at every look, users as units, declarations."""

import itertools
import math
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ragtune.errors import SettingsError
from ragtune.experiments.assignment import RAMP, arm_of, shares_at, unit_of
from ragtune.experiments.comparison import Plan, block_differences, block_sizes, compare, first_declaration
from ragtune.experiments.confidence_sequence import capital, interval, p_value, running_intervals, threshold
from ragtune.experiments.imbalance import StepCounts, mismatch_p_value
from ragtune.experiments.outcomes import METRICS, Observation, UserOutcome, observations, users_at
from ragtune.experiments.ramp import USERS_PER_STEP, ramp_decision
from ragtune.experiments.wording import result_in_words
from ragtune.records import Exposure, FeedbackEvent, ResponseRecord

START = datetime(2026, 1, 1, tzinfo=UTC)
EVEN = (0.5, 0.5)


def hours(count: float) -> datetime:
    return START + timedelta(hours=count)


def coin_differences(gain: float, n: int, seed: int, runs: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((runs, n)) < 0.7 + gain).astype(float) - (rng.random((runs, n)) < 0.7)


# Assignment


def test_a_user_always_gets_the_same_arm_and_another_salt_mixes_again():
    users = [f"user {i}" for i in range(400)]
    first, again = ([arm_of(user, "salt", EVEN) for user in users] for _ in range(2))
    assert first == again
    same = np.mean([arm_of(user, "pepper", EVEN) == arm for user, arm in zip(users, first, strict=True)])
    assert 0.4 < same < 0.6


def test_arms_get_their_shares():
    weights = (0.5, 0.3, 0.2)
    counts = Counter(arm_of(str(i), "s", weights) for i in range(20_000))
    for arm, weight in enumerate(weights):
        # Four standard errors of a share of 20,000 are at most 0.014.
        assert counts[arm] / 20_000 == pytest.approx(weight, abs=0.014)


def test_a_growing_ramp_moves_users_from_the_control_to_a_candidate_and_never_elsewhere():
    weights = (0.4, 0.3, 0.3)
    for i in range(3000):
        arms = [arm_of(str(i), "s", weights, ramp) for ramp in (*RAMP, 0.6, 1.0)]
        changes = [(old, new) for old, new in itertools.pairwise(arms) if old != new]
        assert len(changes) <= 1
        assert all(old == 0 for old, _ in changes)


def test_a_ramp_gives_the_candidates_their_part_of_its_share():
    assert shares_at((0.5, 0.25, 0.25), 0.1) == pytest.approx((0.9, 0.05, 0.05))
    assert shares_at((0.5, 0.25, 0.25), 1.0) == pytest.approx((0.5, 0.25, 0.25))


@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.4), (1.0, 0.0), (1.2, -0.2)])
def test_shares_that_are_no_shares_are_refused(weights):
    with pytest.raises(SettingsError, match="sum of 1"):
        shares_at(weights, 1.0)


def test_a_request_without_a_user_is_assigned_by_its_conversation():
    assert unit_of("ann", "key", "c1") == unit_of("ann", "key", "c2") == "ann"
    assert unit_of("", "key", "c1") != unit_of("", "key", "c2")
    assert unit_of("", "ab", "c") != unit_of("", "a", "bc")


# Confidence sequences

STEPS = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=7)))
PROBABILITIES = {0.0: (0.3, 0.4, 0.3), 0.2: (0.2, 0.4, 0.4), -0.5: (0.6, 0.3, 0.1)}


@pytest.mark.parametrize("mean", PROBABILITIES)
def test_the_capital_against_a_true_hypothesis_is_a_martingale(mean):
    # All 3**7 sequences with their exact probabilities: the mean capital stays 1 after every step.
    chances = np.prod(np.choose(STEPS.astype(int) + 1, PROBABILITIES[mean]), axis=1)
    both = capital(STEPS, mean, 0.3)
    np.testing.assert_allclose(chances @ np.exp(both.up), 1.0)
    np.testing.assert_allclose(chances @ np.exp(both.down), 1.0)


def test_the_capital_does_not_know_the_difference_that_it_bets_on():
    changed = STEPS[0].copy()
    changed[4:] *= -1
    first, second = (capital(row, 0.0, 0.1) for row in (STEPS[0], changed))
    np.testing.assert_array_equal(first.up[:4], second.up[:4])


def test_capital_and_interval_agree():
    values = coin_differences(0.1, 400, 3)[0]
    low, high = interval(values, 0.05, 0.05)
    bar = threshold(0.05)
    assert capital(values, low - 1e-6, 0.05).up[-1] >= bar > capital(values, low + 1e-6, 0.05).up[-1]
    assert capital(values, high + 1e-6, 0.05).down[-1] >= bar > capital(values, high - 1e-6, 0.05).down[-1]
    assert low < values.mean() < high


def test_the_interval_narrows_with_the_root_of_the_number_of_users():
    widths = [np.subtract(*interval(coin_differences(0.0, n, 5)[0], 0.05, 0.05)[::-1]) for n in (400, 6400)]
    # Sixteen times as many would be exactly 4 for a fixed interval; being valid at all looks costs a logarithm.
    assert 3.0 < widths[0] / widths[1] < 4.5


def test_the_interval_covers_the_truth_at_all_times_together():
    values = coin_differences(0.05, 1500, 7, runs=400)
    both = capital(values, 0.05, 0.05)
    ever_outside = np.maximum(both.up, both.down).max(axis=1) >= threshold(0.05)
    # 0.05 plus 1.64 standard errors of 400 runs
    assert ever_outside.mean() <= 0.068


def test_a_running_interval_never_widens():
    path = running_intervals(coin_differences(0.0, 600, 9)[0], 0.05, 0.05, range(20, 600, 20))
    for (_, low, high), (_, new_low, new_high) in itertools.pairwise(path):
        assert low <= new_low <= new_high <= high


def test_no_data_excludes_nothing():
    assert interval(np.array([]), 0.05, 0.05) == (-1.0, 1.0)
    nothing = compare([], Plan())
    assert (nothing.declaration, nothing.p_value, nothing.path) == ("undecided", 1.0, ())


def test_the_p_value_is_below_alpha_exactly_if_the_interval_excludes_zero():
    for seed in range(20):
        values = coin_differences(0.12, 300, seed)[0]
        both = capital(values, 0.0, 0.05)
        excluded = any(not low <= 0 <= high for _, low, high in running_intervals(values, 0.05, 0.05, range(1, 301)))
        assert (p_value(both) <= 0.05) == excluded


# Blocks and declarations


def outcome(arm: int, value: float, shares=EVEN) -> UserOutcome:
    return UserOutcome(arm, shares, value)


def test_users_are_matched_in_the_order_in_which_they_came():
    arrivals = [outcome(1, 1.0), outcome(1, 0.0), outcome(0, 0.5), outcome(0, 0.0), outcome(0, 1.0)]
    assert block_differences(arrivals) == [0.5, 0.0]


def test_a_small_share_is_matched_with_many_users_of_the_control():
    assert block_sizes(0.9, 0.1) == (9, 1)
    assert block_sizes(0.5, 0.5) == (1, 1)
    assert block_sizes(0.25, 0.75) == (1, 3)
    few = (0.75, 0.25)
    arrivals = [outcome(0, value, few) for value in (1.0, 0.0, 0.5)] + [outcome(1, 1.0, few)]
    assert block_differences(arrivals) == [0.5]


def test_users_of_different_steps_of_the_ramp_are_not_matched():
    assert block_differences([outcome(0, 1.0, (0.9, 0.1)), outcome(1, 0.0, EVEN), outcome(0, 0.25, EVEN)]) == [-0.25]


def test_a_clear_difference_is_declared_in_its_direction():
    for sign, declaration in ((1, "better"), (-1, "worse")):
        result = compare(sign * coin_differences(0.15, 1500, 11)[0], Plan())
        assert result.declaration == declaration
        assert 0 < result.declared_after <= result.blocks == 1500
        assert min(sign * result.low, sign * result.high) > 0
        assert result.p_value < 0.05


def test_equal_models_are_declared_equivalent_when_the_interval_is_within_the_margin():
    values = np.tile([0.1, -0.1], 1000)
    result = compare(values, Plan(margin=0.02))
    assert result.declaration == "equivalent"
    assert -0.02 < result.low <= result.high < 0.02
    assert compare(values[:20], Plan(margin=0.02)).declaration == "undecided"


def test_a_declaration_stays_whatever_comes_later():
    early = coin_differences(0.3, 300, 13)[0]
    first = compare(early, Plan())
    later = compare(np.concatenate([early, coin_differences(-0.1, 200, 14)[0]]), Plan())
    assert (first.declaration, first.declared_after) == (later.declaration, later.declared_after)
    assert first.declaration == "better"


def test_several_candidates_share_the_chance_of_error():
    values = coin_differences(0.1, 1500, 21)[0]
    alone, among_four = (compare(values, Plan(), candidates=count) for count in (1, 4))
    assert among_four.low < alone.low
    assert among_four.declared_after > alone.declared_after


def test_a_plan_with_impossible_numbers_is_refused():
    with pytest.raises(SettingsError, match="margin is 2"):
        Plan(margin=2)


def test_the_expected_number_of_blocks_is_near_the_median_of_simulated_ones():
    values = coin_differences(0.1, 1200, 23, runs=200)
    declared = [first_declaration(row, Plan(smallest_difference=0.1), 0.05)[1] or 10_000 for row in values]
    expected = compare(values[0], Plan(smallest_difference=0.1)).blocks_needed
    assert 0.75 < np.median(declared) / expected < 1.25


# Users as units


def observation(user: str, at: float, *outcomes: tuple[float, float], arm: int = 0) -> Observation:
    given = tuple((hours(time), value) for time, value in outcomes)
    return Observation(user=user, arm=arm, shares=EVEN, at=hours(at), outcomes=given)


DAY = timedelta(hours=24)


def test_a_user_counts_once_with_the_mean_of_the_responses():
    seen = [observation("a", 0, (0, 1.0)), observation("a", 1, (1, 0.0)), observation("b", 2, (2, 1.0), arm=1)]
    users = users_at(seen, hours(100), DAY)
    assert users.outcomes == (outcome(0, 0.5), outcome(1, 1.0))
    assert (users.assigned, users.responses, users.rated) == ((1, 1), (2, 1), (2, 1))


def test_a_user_enters_when_the_time_has_passed_and_later_responses_change_nothing():
    seen = [observation("a", 0, (0, 1.0)), observation("a", 25, (25, 0.0))]
    assert users_at(seen, hours(23), DAY).outcomes == ()
    assert users_at(seen, hours(23), DAY).waiting == (1, 0)
    assert users_at(seen, hours(24), DAY).outcomes == users_at(seen, hours(99), DAY).outcomes == (outcome(0, 1.0),)


def test_a_verdict_that_comes_late_is_counted_and_changes_nothing():
    seen = [observation("a", 0, (30, 0.0)), observation("b", 1, (2, 1.0), (40, 0.0))]
    users = users_at(seen, hours(99), DAY)
    assert users.outcomes == (outcome(0, 1.0),)
    assert (users.late, users.silent, users.rated) == ((1, 0), (1, 0), (1, 0))


def test_missing_feedback_is_left_out_or_counts_as_the_plan_says():
    seen = [observation("a", 0, (0, 1.0)), observation("a", 1), observation("b", 2, arm=1)]
    assert users_at(seen, hours(99), DAY).outcomes == (outcome(0, 1.0),)
    assert users_at(seen, hours(99), DAY, missing=0.0).outcomes == (outcome(0, 0.5), outcome(1, 0.0))


def test_the_last_verdict_in_time_counts():
    users = users_at([observation("a", 0, (1, 1.0), (2, 0.0))], hours(99), DAY)
    assert users.outcomes == (outcome(0, 0.0),)


def test_a_user_whom_the_ramp_moved_keeps_the_first_arm_and_the_rest_is_counted():
    seen = [observation("a", 0, (0, 1.0)), observation("a", 5, (5, 0.0), arm=1)]
    users = users_at(seen, hours(99), DAY)
    assert users.outcomes == (outcome(0, 1.0),)
    assert users.moved == 1


def exposure(number: int, arm: int) -> Exposure:
    return Exposure(
        sequence=number,
        experiment="e",
        response_id=f"r{number}",
        unit=f"u{number}",
        arm=arm,
        shares=(0.5, 0.25, 0.25),
        created_at=hours(number).isoformat(),
    )


def response(number: int, **changes) -> ResponseRecord:
    fields = {"latency_ms": 2500.0, "refused": False, "cited_chunk_ids": ("c",)} | changes
    return ResponseRecord(
        id=f"r{number}",
        created_at=hours(number).isoformat(),
        question="q",
        answer="a",
        model="m",
        model_version="1",
        chunk_ids=(),
        **fields,
    )


def test_outcomes_come_from_the_responses_and_from_the_verdicts_on_them():
    exposures = [exposure(1, 0), exposure(2, 2), exposure(3, 1)]
    responses = {r.id: r for r in (response(1), response(2, refused=True, cited_chunk_ids=()), response(3))}
    verdict = FeedbackEvent(id="f", sequence=1, created_at=hours(3).isoformat(), response_id="r2", rating="down")

    def values(metric: str):
        seen = observations(METRICS[metric], exposures, responses, [verdict], candidate=2)
        return [(o.user, o.arm, o.shares, [value for _, value in o.outcomes]) for o in seen]

    shares = (0.5, 0.25)
    assert values("thumbs") == [("u1", 0, shares, []), ("u2", 1, shares, [0.0])]
    assert values("answered") == [("u1", 0, shares, [1.0]), ("u2", 1, shares, [0.0])]
    assert values("cited") == [("u1", 0, shares, [1.0]), ("u2", 1, shares, [0.0])]
    assert values("speed") == [("u1", 0, shares, [0.75]), ("u2", 1, shares, [0.75])]


# Sample ratio, ramp, words


def test_the_right_ratio_is_hardly_ever_called_a_mismatch_however_often_one_looks():
    rng = np.random.default_rng(31)
    alarms = 0
    for _ in range(300):
        candidates = np.cumsum(rng.random(3000) < 0.3)
        looks = [
            StepCounts((n - int(candidates[n - 1]), int(candidates[n - 1])), (0.7, 0.3)) for n in range(50, 3001, 50)
        ]
        alarms += min(mismatch_p_value([look]) for look in looks) < 0.05
    # 0.05 plus 1.64 standard errors of 300 runs
    assert alarms / 300 <= 0.071


def test_the_evidence_against_the_ratio_is_a_bayes_factor():
    # Two users, both in the same arm, under a symmetric prior of weight c: (c/2 + 1) / (c + 1) against 1/2.
    expected = (501 / 1001) / 0.5
    assert mismatch_p_value([StepCounts((0, 2), (0.5, 0.5))]) == pytest.approx(1 / expected)


def test_lost_users_of_one_arm_are_noticed():
    assert mismatch_p_value([StepCounts((2700, 2300), (0.5, 0.5))]) < 0.001
    assert mismatch_p_value([StepCounts((2500, 2500), (0.5, 0.5))]) == 1.0
    # The same users are as expected if they came during two steps of a ramp.
    assert mismatch_p_value([StepCounts((2250, 250), (0.9, 0.1)), StepCounts((450, 2050), (0.18, 0.82))]) == 1.0


def test_a_guardrail_takes_the_candidate_back_and_a_mismatch_pauses():
    assert ramp_decision(500, {"speed": "worse", "answered": "better"}, 1e-9).step == "roll back"
    assert ramp_decision(500, {"speed": "undecided"}, 1e-9).step == "pause"
    assert ramp_decision(USERS_PER_STEP - 1, {"speed": "better"}, 1.0).step == "hold"
    assert ramp_decision(USERS_PER_STEP, {"speed": "undecided"}, 1.0).step == "advance"


def test_words_give_the_interval_in_points_and_the_days_that_are_left():
    result = compare(coin_differences(0.15, 1500, 11)[0], Plan())
    text = result_in_words("version 7", result, METRICS["thumbs"], days=4.0)
    assert text.startswith("version 7 is better by ")
    assert f"{result.high * 100:.3g} points" in text
    undecided = compare(coin_differences(0.0, 100, 12)[0], Plan(margin=0.001))
    days = math.ceil((undecided.blocks_needed - 100) / 100 * 2.0)
    assert f"About {days} more days" in result_in_words("B", undecided, METRICS["thumbs"], days=2.0)
    assert "budget is spent" in result_in_words("B", undecided, METRICS["thumbs"], days=2.0, budget_spent=True)
