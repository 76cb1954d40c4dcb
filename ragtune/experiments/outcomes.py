"""Turns responses and verdicts into one outcome per user, between 0 (bad) and 1 (good).

Responses of one user are not independent, so the user is the unit of every comparison: a user's outcome is the mean
over the user's responses. Each user enters once, when a fixed time has passed since the user's first response, in the
order of the first responses. If users entered when they had answered enough, quick and happy ones would come first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ragtune.records import Exposure, FeedbackEvent, ResponseRecord

SLOWEST_MS = 10_000.0
"""Latency with the outcome 0; slower responses count the same, because outcomes are bounded. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is compared. `value` returns the outcome of a response in [0, 1]; None for `thumbs`, which people give.

    A difference of 1 in the outcome is a difference of `scale` in the unit that people read.
    """

    name: str
    text: str
    unit: str
    scale: float
    value: Callable[[ResponseRecord], float] | None = None


_METRICS = (
    Metric("thumbs", "share of thumbs up", "points", 100),
    Metric("answered", "share of answers that are no refusal", "points", 100, lambda r: float(not r.refused)),
    Metric("cited", "share of answers with a citation", "points", 100, lambda r: float(bool(r.cited_chunk_ids))),
    Metric(
        "speed",
        "time saved per answer",
        "seconds",
        SLOWEST_MS / 1000,
        lambda r: 1 - min(max(r.latency_ms, 0.0), SLOWEST_MS) / SLOWEST_MS,
    ),
)
METRICS = {metric.name: metric for metric in _METRICS}
"""{name: metric}; larger is better in all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A response within an experiment; `outcomes` are the values that it got, with their times, oldest first.

    `shares` are those of the control and of the candidate when the response was given.
    """

    user: str
    arm: int
    shares: tuple[float, float]
    at: datetime
    outcomes: tuple[tuple[datetime, float], ...]


@dataclass(frozen=True, slots=True)
class UserOutcome:
    """The outcome of a user in [0, 1], and the shares of both arms when the user came."""

    arm: int
    shares: tuple[float, float]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """The outcomes of users in the order in which they came, and counts of what is missing; pairs are (control, other).

    `assigned` counts all users, `waiting` those whose time has not passed, `silent` those who never gave an outcome;
    `responses` and `rated` count responses and those with an outcome in time, `late` those with a late one only.
    `moved` counts responses to users who had the other arm first, which are left out.
    """

    outcomes: tuple[UserOutcome, ...]
    assigned: tuple[int, int]
    waiting: tuple[int, int]
    silent: tuple[int, int]
    responses: tuple[int, int]
    rated: tuple[int, int]
    late: tuple[int, int]
    moved: int


def observations(
    metric: Metric,
    exposures: Sequence[Exposure],
    responses: Mapping[str, ResponseRecord],
    events: Sequence[FeedbackEvent],
    candidate: int = 1,
) -> list[Observation]:
    """Return the responses to users of the control and of one candidate, oldest first, with their outcomes."""
    verdicts: dict[str, list[tuple[datetime, float]]] = {}
    for event in events:
        verdicts.setdefault(event.response_id, []).append(
            (datetime.fromisoformat(event.created_at), float(event.rating == "up"))
        )
    result = []
    for exposure in sorted(exposures, key=lambda exposure: (exposure.created_at, exposure.sequence)):
        if exposure.arm not in (0, candidate) or exposure.response_id not in responses:
            continue
        at = datetime.fromisoformat(exposure.created_at)
        if metric.value is None:
            outcomes = tuple(verdicts.get(exposure.response_id, ()))
        else:
            outcomes = ((at, metric.value(responses[exposure.response_id])),)
        shares = (exposure.shares[0], exposure.shares[candidate])
        arm = int(exposure.arm == candidate)
        result.append(Observation(user=exposure.unit, arm=arm, shares=shares, at=at, outcomes=outcomes))
    return result


def users_at(seen: Sequence[Observation], now: datetime, window: timedelta, missing: float | None = None) -> Users:
    """Return the outcomes of the users whose time has passed at `now`.

    Args:
        seen: responses, oldest first.
        now: the time of the look; later responses and verdicts are ignored.
        window: time after a user's first response within which responses and verdicts count.
        missing: the outcome of a response that nobody rated; None leaves it out. Leaving out compares only the people
            who rate, so both arms should rate equally often; `rated` and `responses` show whether they do.
    """
    by_user: dict[str, list[Observation]] = {}
    for observation in seen:
        if observation.at <= now:
            by_user.setdefault(observation.user, []).append(observation)
    counts = {name: [0, 0] for name in ("assigned", "waiting", "silent", "responses", "rated", "late")}
    outcomes, moved = [], 0
    for own in by_user.values():
        first = own[0]
        end = first.at + window
        counts["assigned"][first.arm] += 1
        if end > now:
            counts["waiting"][first.arm] += 1
            continue
        moved += sum(observation.arm != first.arm for observation in own)
        kept = [observation for observation in own if observation.arm == first.arm and observation.at <= end]
        values = []
        for observation in kept:
            in_time = [value for at, value in observation.outcomes if at <= end]
            counts["responses"][first.arm] += 1
            counts["rated"][first.arm] += bool(in_time)
            counts["late"][first.arm] += not in_time and any(at <= now for at, _ in observation.outcomes)
            if in_time or missing is not None:
                values.append(in_time[-1] if in_time else float(missing or 0.0))
        if values:
            outcomes.append(UserOutcome(first.arm, first.shares, sum(values) / len(values)))
        else:
            counts["silent"][first.arm] += 1
    pairs = {name: (control, other) for name, (control, other) in counts.items()}
    return Users(outcomes=tuple(outcomes), moved=moved, **pairs)
