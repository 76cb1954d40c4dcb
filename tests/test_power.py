"""What the gate could show is said before a training, and agrees with what the gate then does."""

import math

import numpy as np
import pytest

from ragtune.evaluation.alpha_spending import PLANNED_SPREAD, gate_items
from ragtune.evaluation.gate import paired_gain, sign_test_needs
from ragtune.evaluation.held_out import chosen, resampling_groups
from ragtune.evaluation.power import gate_power, questions_needed
from ragtune.records import QAPair, SplitItem
from ragtune.settings import EvaluationSettings
from tests.support.scored_answers import scored_answer

SETTINGS = EvaluationSettings(gate_looks=1)


def items(written: int, people: int = 0, documents: int = 10_000, split: str = "gate") -> list[SplitItem]:
    rows = []
    for number in range(written + people):
        pair = QAPair(
            id=f"p{number}",
            question="q",
            answer="a",
            kind="k",
            document_id=f"d{number % documents}",
            chunk_id=f"c{number}",
            imported_from="pairs:faq.csv, line 2" if number < people else "",
        )
        rows.append(SplitItem(pair, split, f"s{number}"))
    return rows


def test_a_gain_of_five_points_takes_321_questions_and_one_of_fifty_takes_14() -> None:
    # (2.4865 * 0.36 / 0.05) ** 2 = 320.5
    assert questions_needed(0.05, 0.05) == 321
    # Five groups must improve; a Poisson mean of 6.72 gives that in 80% of cases. 6.72 / 0.5 = 13.4.
    # The normal approximation, (2.4865 * 0.36 / 0.5) ** 2 = 3.2, is smaller.
    assert questions_needed(0.5, 0.05) == 14


def test_the_message_and_the_setting_that_plans_the_gate_ask_for_the_same_number() -> None:
    settings = EvaluationSettings(gate_items=0)
    assert gate_power(items(20), settings, 17).needed == gate_items(settings) == 691


def test_many_questions_find_what_the_normal_approximation_says() -> None:
    power = gate_power(items(100_000), EvaluationSettings(gate_items=40_000, gate_looks=1), 17)
    assert power.smallest_gain == pytest.approx(2.4865 * PLANNED_SPREAD / math.sqrt(40_000), rel=1e-3)
    assert power.is_enough


def test_few_questions_are_said_to_find_only_a_large_gain() -> None:
    power = gate_power(items(12), SETTINGS, 17)
    assert power.smallest_gain == pytest.approx(6.72 / 12, abs=0.01)
    assert not power.is_enough
    assert "The gate's questions: 12, about 12 documents or sections (0 of them by people; 12 decide)" in str(power)
    assert "It finds a gain of 0.56 token F1 or more in 80% of cases" in str(power)
    assert "takes about 321 questions" in str(power)


def test_fewer_than_five_documents_can_never_promote_and_the_message_says_so() -> None:
    assert sign_test_needs(0.05) == 5
    power = gate_power(items(40, documents=4), SETTINGS, 17)
    assert math.isinf(power.smallest_gain)
    assert "too few to show any gain" in str(power)
    answers = [scored_answer(number, 0.0, f"d{number % 4}") for number in range(40)]
    better = [scored_answer(number, 1.0, f"d{number % 4}") for number in range(40)]
    assert paired_gain(answers, better, "token_f1").p_value > SETTINGS.alpha


def test_the_gain_that_is_announced_is_found_in_four_of_five_trainings() -> None:
    """300 questions: 0.052 is announced; models that gain it and disagree on 13% pass in about 80% of cases."""
    power = gate_power(items(300), EvaluationSettings(gate_looks=1, gate_items=300), 17)
    rng = np.random.default_rng(5)
    up, down = (0.13 + power.smallest_gain) / 2, (0.13 - power.smallest_gain) / 2
    passed = 0
    for _ in range(200):
        place = rng.random(300)
        live = [scored_answer(n, worse) for n, worse in enumerate((place >= up) & (place < up + down))]
        gain = paired_gain(
            live, [scored_answer(n, better) for n, better in enumerate(place < up)], "token_f1", 0.05, 300
        )
        passed += gain.low > 0 and gain.p_value <= 0.05
    # 80% of 200 with a standard error of 3 points; three of these are allowed.
    assert 0.71 <= passed / 200 <= 0.89


def test_people_come_first_and_a_quarter_is_left_to_the_writers() -> None:
    pairs = chosen(items(200, people=200), "gate", 120, 17)
    assert [pair.origin for pair in pairs].count("people") == 90
    assert len(pairs) == 120
    few = chosen(items(200, people=30), "gate", 120, 17)
    assert [pair.origin for pair in few].count("people") == 30
    assert len(chosen(items(5, people=200), "gate", 120, 17)) == 120


def test_enough_questions_of_people_decide_alone() -> None:
    assert gate_power(items(200, people=90), SETTINGS, 17).deciding == 90
    assert gate_power(items(200, people=59), SETTINGS, 17).deciding == 120


def test_answers_are_resampled_by_document_and_by_section_if_documents_were_split() -> None:
    whole = items(4, documents=2)
    assert set(resampling_groups(whole).values()) == {"d0", "d1"}
    divided = [*whole[:3], SplitItem(whole[3].pair, "train", "s3")]
    assert set(resampling_groups(divided).values()) == {"s0", "s1", "s2", "s3"}
