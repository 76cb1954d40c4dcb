"""Decides whether a candidate gets more users, waits, or is taken back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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


def ramp_decision(users_in_step: int, guardrails: Mapping[str, Declaration], mismatch: float) -> RampDecision:
    """Return the next step of a ramp.

    Args:
        users_in_step: users that came since the share last changed.
        guardrails: the declaration on each metric that must not get worse, such as refusals and speed.
        mismatch: p-value of the sample ratio test.
    """
    if worse := sorted(name for name, declaration in guardrails.items() if declaration == "worse"):
        return RampDecision("roll back", f"the candidate is worse on {', '.join(worse)}")
    if mismatch < MISMATCH:
        return RampDecision("pause", f"the arms do not have the users that they should have (p = {mismatch:.2g})")
    if users_in_step < USERS_PER_STEP:
        return RampDecision("hold", f"{users_in_step} of {USERS_PER_STEP} users came since the last step")
    return RampDecision("advance", f"{users_in_step} users came, and no guardrail was hit")
