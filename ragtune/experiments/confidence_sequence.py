"""Confidence sequences for the mean of differences in [-1, 1], by betting.

A confidence sequence is an interval that holds at all times at once: people may look after every response and stop
whenever they like. It needs no normal approximation, only that the differences are bounded and that each has the same
mean, given the ones before it.

The method is the hedged capital process of Waudby-Smith and Ramdas 2024 ("Estimating means of bounded random variables
by betting", JRSS-B 86, theorem 3). Somebody bets against the hypothesis "the mean is m", with a stake that is chosen
before the difference is seen. If the hypothesis is true, the bettor's capital K is a martingale that starts at 1, and
Ville's inequality bounds the chance that it ever reaches 2 / alpha by alpha / 2. All m against which neither bettor
(one bets that the mean is larger, one that it is smaller) ever won that much form the interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_STEPS = tuple(step / 2 for step in range(-8, 9))
"""The capital is spread over stakes for an effect of 2**step times the expected one, so from 1/16 to 16 times.

A spacing of half a power of two loses at most 4% of the best growth. Half as much capital lies on each whole step away
from the expected effect, so a wrong guess costs little: at +5 points from 0.70 a decision takes 2,500 responses in the
median, and 2,650 to 2,800 if the plan says 10 or 2 points (benchmarks/experiments/simulation.json).
"""
_LARGEST_STAKE = 0.48
"""A difference and a hypothesis are at most 2 apart, so a stake below 1/2 keeps the capital above 0."""
_FIRST_SQUARE = 0.5
"""Mean square of a difference before any is seen: that of two independent coin tosses, the largest of binary ones."""
_FIRST_WEIGHT = 10.0
"""How many differences that first guess is worth; chosen by hand, not sensitive."""
_HALVINGS = 24
"""Halvings of the range [-1, 1] to find a bound: to a ten-millionth."""


@dataclass(frozen=True, slots=True)
class Capital:
    """The logarithms of both bettors' capital after each difference, shape (..., n).

    `up` bets that the mean is larger than the hypothesis, `down` that it is smaller.
    """

    up: "Floats"
    down: "Floats"


def threshold(alpha: float) -> float:
    """Return the logarithm of the capital that rejects a hypothesis at the two-sided level alpha."""
    return math.log(2 / alpha)


def capital(differences: "Floats", hypothesis: float, expected: float) -> Capital:
    """Return the capital of both bettors against "the mean difference is `hypothesis`".

    Args:
        differences: values in [-1, 1], shape (..., n); each row is a sequence of its own.
        hypothesis: the mean that is bet against, in [-1, 1].
        expected: size of the effect that the stakes are made for, above 0. A wrong guess costs time and no validity.
    """
    import numpy as np

    squares = _squares_before(differences)
    shape = (len(_STEPS), *differences.shape)
    up, down = np.empty(shape), np.empty(shape)
    for i, (step, weight) in enumerate(zip(_STEPS, _weights(), strict=True)):
        wins = np.minimum(_LARGEST_STAKE, 2.0**step * expected / squares) * (differences - hypothesis)
        up[i] = math.log(weight) + np.cumsum(np.log(1 + wins), axis=-1)
        down[i] = math.log(weight) + np.cumsum(np.log(1 - wins), axis=-1)
    return Capital(_log_of_sum(up), _log_of_sum(down))


def p_value(both: Capital) -> float:
    """Return the two-sided p-value of the hypothesis; looking at it often does not make it wrong.

    It is 2 / (largest capital so far), as in Johari et al. 2022 ("Always valid inference", Operations Research 70).
    """
    return min(1.0, 2 * math.exp(-max(float(both.up.max()), float(both.down.max()))))


def interval(differences: "Floats", alpha: float, expected: float) -> tuple[float, float]:
    """Return (low, high) after the last difference; (-1, 1) if there is none.

    The capital of `up` falls and that of `down` grows with the hypothesis, so each bound is the one root of its
    equation and is found by halving.
    """
    import numpy as np

    if not len(differences):
        return -1.0, 1.0
    squares = _squares_before(differences)
    steps, weights = np.asarray(_STEPS)[:, None], np.log(np.asarray(_weights()))
    stakes = np.minimum(_LARGEST_STAKE, 2.0**steps * expected / squares)

    def rejects(hypothesis: float, sign: int) -> bool:
        growth = np.log1p(sign * stakes * (differences - hypothesis)).sum(axis=1)
        return bool(np.logaddexp.reduce(weights + growth) >= threshold(alpha))

    return -_root(lambda low: rejects(-low, 1)), _root(lambda high: rejects(high, -1))


def running_intervals(
    differences: "Floats", alpha: float, expected: float, looks: Sequence[int]
) -> list[tuple[int, float, float]]:
    """Return (number of differences, low, high) at each look; the interval never widens.

    A confidence sequence covers the mean at all times at once, so the intersection of its intervals does too.
    """
    low, high = -1.0, 1.0
    path = []
    for look in looks:
        new_low, new_high = interval(differences[:look], alpha, expected)
        low, high = max(low, new_low), min(high, new_high)
        path.append((look, low, high))
    return path


def pairs_needed(difference: float, mean_square: float, alpha: float) -> float:
    """Return about how many differences a decision takes in the median if the mean is `difference`.

    The best stake wins difference**2 / (2 * mean_square) per difference (Kelly 1956, to second order). The mixture
    over stakes costs about as much as the median gains over the mean; see docs/measured/experiments.md.
    """
    return threshold(alpha) * 2 * mean_square / difference**2


def mean_square(differences: "Floats") -> float:
    """Return the mean square of all differences so far, with the first guess counted in."""
    total = _FIRST_WEIGHT * _FIRST_SQUARE + float((differences * differences).sum())
    return total / (_FIRST_WEIGHT + len(differences))


def _squares_before(differences: "Floats") -> "Floats":
    """Return the mean square of the differences before each one: a stake must not depend on what it bets on."""
    import numpy as np

    squares = differences * differences
    before = np.cumsum(squares, axis=-1) - squares
    means: Floats = (_FIRST_WEIGHT * _FIRST_SQUARE + before) / (_FIRST_WEIGHT + np.arange(differences.shape[-1]))
    return means


def _log_of_sum(logarithms: "Floats") -> "Floats":
    """Return the logarithm of the sum over the first axis; several times faster than `np.logaddexp.reduce`."""
    import numpy as np

    largest = logarithms.max(axis=0)
    total: Floats = largest + np.log(np.exp(logarithms - largest).sum(axis=0))
    return total


def _weights() -> list[float]:
    weights = [2.0 ** -abs(step) for step in _STEPS]
    return [weight / sum(weights) for weight in weights]


def _root(rejects: Callable[[float], bool]) -> float:
    """Return the smallest rejected value in [-1, 1], rounded to the safe side; 1 if none is rejected."""
    low, high = -1.0, 1.0
    if not rejects(high):
        return 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rejects(middle) else (middle, high)
    return high
