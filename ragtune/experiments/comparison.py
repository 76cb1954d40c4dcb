"""Compares a candidate with the control: the difference with its interval, and what may be declared from it.

Users of the candidate are matched with users of the control in the order in which they came. Each match is a block of
as many users of each arm as their shares ask for (at 10% candidates, one against nine), and gives one difference in
[-1, 1]. Users of a block came at about the same time, so a change that both arms feel, such as a weekend, cancels.
"""

import math
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ragtune.errors import SettingsError
from ragtune.experiments.confidence_sequence import (
    capital,
    mean_square,
    p_value,
    pairs_needed,
    running_intervals,
    threshold,
)
from ragtune.experiments.outcomes import UserOutcome

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

Declaration = Literal["better", "worse", "equivalent", "undecided"]
LOOKS = 40
"""Points of the path of the interval: enough for a plot; chosen by hand, not sensitive."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is fixed before an experiment starts.

    `smallest_difference` is the smallest one worth having and `margin` the largest one that counts as equivalent, both
    on the scale of the outcome (0.05 is 5 points). `alpha` is the chance of any false declaration, at all looks
    together.
    """

    smallest_difference: float = 0.05
    margin: float = 0.02
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name in ("smallest_difference", "margin", "alpha"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise SettingsError(f"{name} is {value}.", "a number between 0 and 1", "0.05 is 5 points")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The difference between candidate and control on the scale of the outcome, and what it shows.

    `declared_after` is the number of blocks after which the declaration was first justified, 0 if it is undecided.
    `path` has (blocks, low, high) over time; its last entry has `low` and `high`. `blocks_needed` estimates how many
    blocks a decision takes in all if the true difference is `smallest_difference` of the plan.
    """

    declaration: Declaration
    difference: float
    low: float
    high: float
    p_value: float
    blocks: int
    declared_after: int
    blocks_needed: int
    path: tuple[tuple[int, float, float], ...]


def block_differences(outcomes: Sequence[UserOutcome]) -> list[float]:
    """Return the difference (candidate minus control) of each complete block of users, in the order of completion.

    Users that wait for a partner when the shares change are left out: they came at another time than the next ones.
    """
    waiting: tuple[deque[float], deque[float]] = (deque(), deque())
    shares: tuple[float, float] | None = None
    differences = []
    for outcome in outcomes:
        if outcome.shares != shares:
            shares = outcome.shares
            waiting = (deque(), deque())
            sizes = block_sizes(*shares)
        waiting[outcome.arm].append(outcome.value)
        if all(len(queue) >= size for queue, size in zip(waiting, sizes, strict=True)):
            control, candidate = (
                sum(queue.popleft() for _ in range(size)) / size for queue, size in zip(waiting, sizes, strict=True)
            )
            differences.append(candidate - control)
    return differences


def block_sizes(control: float, candidate: float) -> tuple[int, int]:
    """Return how many users of the control and of the candidate form a block; the smaller number is 1."""
    return max(1, round(control / candidate)), max(1, round(candidate / control))


def compare(differences: Sequence[float], plan: Plan, candidates: int = 1, looks: int = LOOKS) -> Comparison:
    """Return the comparison after these differences, at level `plan.alpha / candidates`, with a path of `looks` points.

    All declarations read one confidence sequence, so the chance that any of them is ever false is at most alpha: better
    if the interval is above 0, worse if it is below, equivalent if it is within the margin. The first one stays.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    alpha = plan.alpha / candidates
    blocks_needed = math.ceil(pairs_needed(plan.smallest_difference, mean_square(values), alpha))
    if not len(values):
        return Comparison(
            declaration="undecided",
            difference=0.0,
            low=-1.0,
            high=1.0,
            p_value=1.0,
            blocks=0,
            declared_after=0,
            blocks_needed=blocks_needed,
            path=(),
        )
    declaration, after, p = first_declaration(values, plan, alpha)
    times = {*np.linspace(len(values), 1, looks, dtype=int).tolist(), *([after] if after else [])}
    path = running_intervals(values, alpha, plan.smallest_difference, sorted(times))
    return Comparison(
        declaration=declaration,
        difference=float(values.mean()),
        low=path[-1][1],
        high=path[-1][2],
        p_value=p,
        blocks=len(values),
        declared_after=after,
        blocks_needed=blocks_needed,
        path=tuple(path),
    )


def first_declaration(differences: "Floats", plan: Plan, alpha: float) -> tuple[Declaration, int, float]:
    """Return (declaration, blocks after which it was justified or 0, always-valid p-value of "no difference")."""
    import numpy as np

    bar, expected = threshold(alpha), plan.smallest_difference
    none = capital(differences, 0.0, expected)
    above = np.maximum.accumulate(capital(differences, -plan.margin, expected).up) >= bar
    below = np.maximum.accumulate(capital(differences, plan.margin, expected).down) >= bar
    times: dict[Declaration, int] = {
        "better": _first(none.up >= bar),
        "worse": _first(none.down >= bar),
        "equivalent": _first(above & below),
    }
    declaration = min(times, key=lambda name: times[name] or sys.maxsize)
    after = times[declaration]
    return (declaration if after else "undecided"), after, p_value(none)


def falls_below(differences: Sequence[float], tolerance: float, plan: Plan, candidates: int = 1) -> int:
    """Return after how many blocks it was clear that the mean difference is below `-tolerance`; 0 if it is not.

    It holds at every look, at the level `plan.alpha / candidates`.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        return 0
    both = capital(values, -tolerance, plan.smallest_difference)
    return _first(both.down >= threshold(plan.alpha / candidates))


def _first(reached: "Flags") -> int:
    """Return the position, from 1, of the first True, or 0 if there is none."""
    return int(reached.argmax()) + 1 if reached.any() else 0
