"""Decides whether a candidate gets more users, waits, or is taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ragtune.experiments.assignment import RAMP
from ragtune.experiments.comparison import Declaration
from ragtune.experiments.imbalance import MISMATCH

Step = Literal["advance", "hold", "pause", "roll back"]
USERS_PER_STEP = 100
"""Users that must have come during a step before the next one; chosen by hand, not measured."""


@dataclass(frozen=True, slots=True)
class RampDecision:
    """What to do with the share of the candidates, and why."""

    step: Step
    reason: str


def next_ramp(ramp: float, weights: Sequence[float]) -> float:
    """Return the next share of all candidates together: the next one of `RAMP`, at most their final share.

    It is `ramp` itself if that is the final share already.
    """
    final = sum(weights[1:])
    return min((step for step in (*RAMP, final) if ramp < step <= final), default=ramp)


def ramp_decision(
    users_in_step: int, guardrails: Mapping[str, Declaration], mismatch: float, users_per_step: int = USERS_PER_STEP
) -> RampDecision:
    """Return the next step of a ramp.

    Args:
        users_in_step: users that came since the share last changed.
        guardrails: the declaration on each metric that must not get worse, such as refusals and speed.
        mismatch: p-value of the sample ratio test.
        users_per_step: users that must have come before the next step.
    """
    if worse := sorted(name for name, declaration in guardrails.items() if declaration == "worse"):
        return RampDecision("roll back", f"the candidate is worse on {', '.join(worse)}")
    if mismatch < MISMATCH:
        return RampDecision("pause", f"the arms do not have the users that they should have (p = {mismatch:.2g})")
    if users_in_step < users_per_step:
        return RampDecision("hold", f"{users_in_step} of {users_per_step} users came since the last step")
    return RampDecision("advance", f"{users_in_step} users came, and no guardrail was hit")
