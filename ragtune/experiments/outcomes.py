"""Turns responses and verdicts into one outcome per user, between 0 (bad) and 1 (good).

Responses of one user are not independent, so the user is the unit of every comparison: a user's outcome is the mean
over the user's responses. Each user enters once, when a fixed time has passed since the user's first response, in the
order of the first responses. If users entered when they had answered enough, quick and happy ones would come first.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ragtune.records import Exposure, FeedbackEvent, ResponseRecord

SLOWEST_MS = 10_000.0
"""Latency with the outcome 0; slower responses count the same, because outcomes are bounded. Chosen by hand."""


FOLLOW_UP_SECONDS = 300.0
"""A user who asks again within this time is taken to follow up on the answer. Chosen by hand, not measured."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request of an experiment, its response (None if there is none), and the seconds until the user asks again.

    `asked_again_after` is infinite if the user has not asked again.
    """

    exposure: Exposure
    response: ResponseRecord | None
    asked_again_after: float = math.inf

    @property
    def answer(self) -> ResponseRecord | None:
        """The response if the model of the arm wrote it, otherwise None."""
        return None if self.exposure.failure else self.response


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is compared, as an outcome in [0, 1] of a request; larger is better.

    Either `value` returns it from the request, `seconds_later` after the answer, or `verdict` from what a person said
    about it. Both return None for a request that does not count. A difference of 1 in the outcome is a difference of
    `scale` in the unit that people read.
    """

    name: str
    text: str
    unit: str = "points"
    scale: float = 100
    value: Callable[[Request], float | None] | None = None
    verdict: Callable[[FeedbackEvent], float | None] | None = None
    seconds_later: float = 0.0


def _of_answer(outcome: Callable[[ResponseRecord], float]) -> Callable[[Request], float | None]:
    return lambda request: outcome(request.answer) if request.answer else None


_METRICS = (
    Metric(
        name="thumbs",
        text="share of thumbs up",
        verdict=lambda event: {"up": 1.0, "down": 0.0}.get(event.rating),
    ),
    Metric(
        name="uncorrected",
        text="share of rated answers that nobody corrected",
        verdict=lambda event: float(not event.correction),
    ),
    Metric(
        name="answered",
        text="share of answers that are no refusal",
        value=_of_answer(lambda response: float(not response.refused)),
    ),
    Metric(
        name="cited",
        text="share of answers with a citation",
        value=_of_answer(lambda response: float(bool(response.cited_chunk_ids))),
    ),
    Metric(
        name="sound",
        text="share of answers that pass the checks at once",
        value=_of_answer(
            lambda response: float(not (response.checks.get("failures") or response.checks.get("replaced")))
        ),
    ),
    Metric(
        name="settled",
        text="share of answers after which the user does not ask again at once",
        value=lambda request: float(request.asked_again_after > FOLLOW_UP_SECONDS) if request.answer else None,
        seconds_later=FOLLOW_UP_SECONDS,
    ),
    Metric(
        name="delivered",
        text="share of requests that the version itself answered to the end",
        value=lambda request: float(not request.exposure.failure),
    ),
    Metric(
        name="speed",
        text="time saved per answer",
        unit="seconds",
        scale=SLOWEST_MS / 1000,
        value=_of_answer(lambda response: 1 - min(max(response.latency_ms, 0.0), SLOWEST_MS) / SLOWEST_MS),
    ),
)
METRICS = {metric.name: metric for metric in _METRICS}
"""{name: metric}; larger is better in all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A request within an experiment; `outcomes` are the values that it got, with their times, oldest first.

    `arm` is 0 for the control and 1 for the candidate; `shares` are those of both at the time of the request.
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
    """Return the requests of users of the control and of one candidate, oldest first, with their outcomes.

    A metric of verdicts leaves out requests that the user's version did not answer. `candidate` is the number of the
    candidate's arm; `Observation.arm` is 1 for it.
    """
    verdicts_by_response: dict[str, list[FeedbackEvent]] = {}
    for event in events:
        verdicts_by_response.setdefault(event.response_id, []).append(event)
    result = []
    for request in _requests(exposures, responses):
        exposure = request.exposure
        if exposure.arm not in (0, candidate):
            continue
        at = datetime.fromisoformat(exposure.created_at)
        values: list[tuple[datetime, float | None]] = []
        if metric.value is not None:
            values = [(at + timedelta(seconds=metric.seconds_later), metric.value(request))]
        elif metric.verdict is not None and request.answer is not None:
            verdicts = verdicts_by_response.get(exposure.response_id, [])
            values = [(datetime.fromisoformat(event.created_at), metric.verdict(event)) for event in verdicts]
        elif metric.verdict is not None:
            continue  # nobody can rate what the version did not answer
        result.append(
            Observation(
                user=exposure.unit,
                arm=int(exposure.arm == candidate),
                shares=(exposure.shares[0], exposure.shares[candidate]),
                at=at,
                outcomes=tuple((time, value) for time, value in values if value is not None),
            )
        )
    return result


def _requests(exposures: Sequence[Exposure], responses: Mapping[str, ResponseRecord]) -> list[Request]:
    """Return the requests of all arms, oldest first, each with the time until the next request of its user."""
    result: list[Request] = []
    next_of: dict[str, datetime] = {}
    for exposure in sorted(exposures, key=lambda exposure: (exposure.created_at, exposure.sequence), reverse=True):
        at = datetime.fromisoformat(exposure.created_at)
        later = next_of.get(exposure.unit)
        gap = (later - at).total_seconds() if later else math.inf
        result.append(Request(exposure, responses.get(exposure.response_id), gap))
        next_of[exposure.unit] = at
    return result[::-1]


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
