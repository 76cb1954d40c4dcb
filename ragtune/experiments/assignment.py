"""Assigns users to the arms of an experiment: the same user always gets the same arm.

The arm depends on a hash of the user and the experiment's salt alone, so no table of assignments is needed and every
process of the gateway decides alike. A ramp gives the candidates a part of their share at first. When it grows, users
move from the control to a candidate, and never from one candidate to another.
"""

from collections.abc import Sequence

from ragtune.draws import draw
from ragtune.errors import SettingsError

RAMP = (0.01, 0.05, 0.1, 0.25, 0.5)
"""Shares of users that all candidates together get, step by step; chosen by hand, not measured."""
_SUM_TOLERANCE = 1e-9
# Separates the parts of a name; it cannot be typed, so no two lists of parts give the same name.
_SEPARATOR = "\x1f"


def unit_of(user: str, key: str, conversation: str) -> str:
    """Return what is assigned: the user if the request names one, otherwise the conversation of the key."""
    return user or _SEPARATOR.join((key, conversation))


def shares_at(weights: Sequence[float], ramp: float) -> tuple[float, ...]:
    """Return the share of each arm when the candidates together get at most `ramp` of all users.

    Args:
        weights: final share of each arm, shape (arms,); the control comes first, and the sum is 1.
        ramp: share of all candidates together, in (0, 1].

    Raises:
        SettingsError: there are fewer than two arms, or the shares are not above 0 with a sum of 1.
    """
    if len(weights) < 2 or min(weights) <= 0 or abs(sum(weights) - 1) > _SUM_TOLERANCE:
        raise SettingsError(f"The shares are {list(weights)}.", "two or more shares above 0 with a sum of 1")
    if not 0 < ramp <= 1:
        raise SettingsError(f"The ramp gives the candidates {ramp} of the users.", "a share above 0 and at most 1")
    factor = min(1.0, ramp / sum(weights[1:]))
    candidates = [weight * factor for weight in weights[1:]]
    return (1 - sum(candidates), *candidates)


def arm_of(unit: str, salt: str, weights: Sequence[float], ramp: float = 1.0) -> int:
    """Return the index of the unit's arm, 0 for the control; see `shares_at` for the arguments and errors."""
    place = draw(0, salt, unit)
    start = 0.0
    for arm, (weight, share) in enumerate(zip(weights[1:], shares_at(weights, ramp)[1:], strict=True), start=1):
        if start <= place < start + share:
            return arm
        start += weight
    return 0
