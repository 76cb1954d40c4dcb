"""Tests whether the arms of an experiment have the users that they should have, however often somebody looks.

A sample ratio mismatch means that users are lost or counted twice in one arm: the arms are then no longer comparable,
and no outcome of the experiment can be trusted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MISMATCH = 0.001
"""p-value below which an experiment is paused: the usual level, Fabijan et al. 2019 (KDD), section 3."""
_CONCENTRATION = 1000.0
"""Weight of the expected shares in the mixture, in users. Large enough to see an imbalance of a few points, which is
what occurs in practice; chosen by hand. Its value changes the power and not the error rate."""


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Users of each arm that came during one step of the ramp, and the share that each arm had; shapes (arms,)."""

    users: tuple[int, ...]
    shares: tuple[float, ...]


def mismatch_p_value(steps: Sequence[StepCounts]) -> float:
    """Return the p-value of the hypothesis that users were assigned with the given shares.

    It holds at every look. The evidence is the Dirichlet-multinomial mixture of Lindon and Malek 2022 ("Anytime-valid
    inference for multinomial count data", NeurIPS), multiplied over the steps of the ramp.
    """
    evidence = sum(_log_evidence(step) for step in steps)
    return min(1.0, math.exp(-evidence)) if evidence > 0 else 1.0


def _log_evidence(step: StepCounts) -> float:
    """Return the logarithm of the Bayes factor of a Dirichlet prior around the shares against exactly these shares."""
    prior = [_CONCENTRATION * share for share in step.shares]
    total = math.lgamma(_CONCENTRATION) - math.lgamma(_CONCENTRATION + sum(step.users))
    for count, weight, share in zip(step.users, prior, step.shares, strict=True):
        total += math.lgamma(weight + count) - math.lgamma(weight) - count * math.log(share)
    return total
