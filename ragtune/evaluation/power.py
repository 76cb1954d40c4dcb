"""Says before a training which gain the gate could show, from the number of its questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ragtune.evaluation import alpha_spending
from ragtune.evaluation.alpha_spending import PLANNED_SPREAD, POWER, alpha_of_look, gate_items
from ragtune.evaluation.gate import decisive_number, sign_test_needs, smallest_detectable_gain
from ragtune.evaluation.held_out import chosen, resampling_groups
from ragtune.records import SplitItem
from ragtune.settings import EvaluationSettings

WORTH_SHOWING = 0.05
"""A gain that is worth a training: five points, the goal of the project's own trainings."""
ENOUGH = 0.1
"""With a smallest detectable gain above this the check warns. Chosen by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePower:
    """What the gate can show: `questions` in `groups` (documents or sections), of which `by_people` are people's.

    `deciding` questions decide. `smallest_gain` is found with a probability of 80%; it is infinite if the questions or
    the groups are too few for the test to find even the largest possible gain, 1. `needed` questions are enough for a
    gain of 0.05.
    """

    questions: int
    groups: int
    by_people: int
    deciding: int
    smallest_gain: float
    needed: int

    @property
    def is_enough(self) -> bool:
        """Whether a gain of ten points would be found."""
        return self.smallest_gain <= ENOUGH

    def __str__(self) -> str:
        """Return the numbers as sentences, with what to do if they are small."""
        size = f"The gate's questions: {self.questions}, about {self.groups} documents or sections"
        who = f"{self.by_people} of them by people; {self.deciding} decide"
        if math.isinf(self.smallest_gain):
            finds = (
                "That is too few to show any gain: a candidate can be built and measured, but it will not be promoted"
            )
        else:
            finds = f"It finds a gain of {self.smallest_gain:.2f} token F1 or more in {POWER:.0%} of cases"
        advice = (
            f". A gain of {WORTH_SHOWING} takes about {self.needed} questions: add documents or existing questions "
            "(`ragtune sources add pairs:FILE`), or raise `dataset.gate_share` and `evaluation.gate_items`."
        )
        return f"{size} ({who}). {finds}" + (advice if self.smallest_gain > WORTH_SHOWING else ".")


def gate_power(items: Sequence[SplitItem], settings: EvaluationSettings, seed: int) -> GatePower:
    """Return what a gate on these items could show before any model has answered.

    The test is one-sided at the level of one look; see `smallest_detectable_gain` for the formula. The spread of the
    differences is the one that `gate_items: 0` plans with.
    """
    gate = chosen(items, "gate", gate_items(settings), seed)
    by_people = sum(pair.origin != "writer" for pair in gate)
    deciding = decisive_number(len(gate), by_people, settings.people_items)
    groups, alpha = resampling_groups(items), alpha_of_look(settings)
    of_gate = len({groups[pair.id] for pair in gate})
    is_possible = of_gate >= sign_test_needs(alpha)
    smallest = math.inf
    if is_possible:
        smallest = smallest_detectable_gain(PLANNED_SPREAD / math.sqrt(deciding), deciding, alpha)
        smallest = smallest if smallest <= 1 else math.inf
    return GatePower(
        questions=len(gate),
        groups=of_gate,
        by_people=by_people,
        deciding=deciding,
        smallest_gain=smallest,
        needed=questions_needed(WORTH_SHOWING, alpha),
    )


def questions_needed(gain: float, alpha: float, power: float = POWER) -> int:
    """Return how many questions a one-sided paired test takes to find a gain.

    That is the number for `PLANNED_SPREAD`, and at least as many as the bound of `smallest_detectable_gain` for
    few questions asks.
    """
    few = math.ceil(smallest_detectable_gain(0.0, 1, alpha, power) / gain)
    return max(alpha_spending.questions_needed(gain, PLANNED_SPREAD, alpha, power), few)
