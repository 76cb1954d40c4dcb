"""What feedback says: who rates, what they like by version, topic, source, dial and day, and which documents fail.

The unit is the user: a group's value is the mean over its users of each user's share of thumbs up, and its interval is
Wilson's with the number of users. A user's share varies less than a single thumb, so the interval is on the safe side.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ragtune.records import Chunk, FeedbackEvent, ResponseRecord
from ragtune.store.report_rows import FeedbackTrend

Z = 1.959964
"""Standard normal quantile of a two-sided 95% interval."""
_VALUES = {"up": 1.0, "neutral": 0.5, "down": 0.0}


@dataclass(frozen=True, slots=True)
class RatedResponse:
    """A response with the newest verdict on it, or None if nobody rated it."""

    response: ResponseRecord
    event: FeedbackEvent | None


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share of n; (0, 1) if n is 0. Wilson 1927, JASA 22."""
    if not n:
        return 0.0, 1.0
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def rated_responses(responses: Sequence[ResponseRecord], events: Sequence[FeedbackEvent]) -> list[RatedResponse]:
    """Return every response with the newest verdict on it."""
    newest = {event.response_id: event for event in events}
    return [RatedResponse(response, newest.get(response.id)) for response in responses]


def trends(rated: Sequence[RatedResponse], chunks: Mapping[str, Chunk]) -> list[FeedbackTrend]:
    """Return the trend of every group: of all, of each day, version, topic, source, dial and document.

    Args:
        rated: the responses.
        chunks: {chunk id: chunk}, for topics, sources and documents; a passage that is gone has none.
    """
    groups: dict[tuple[str, str], list[RatedResponse]] = defaultdict(list)
    for one in rated:
        for group in dict.fromkeys(_groups(one.response, chunks)):
            groups[group].append(one)
    return [_trend(kind, name, groups[kind, name]) for kind, name in sorted(groups)]


def worst(trends: Iterable[FeedbackTrend], kind: str, most: int) -> list[FeedbackTrend]:
    """Return the groups of a kind that people like least: those with the lowest upper bound come first."""
    rated = [trend for trend in trends if trend.kind == kind and trend.rated]
    return sorted(rated, key=lambda trend: (trend.high, -trend.rated, trend.name))[:most]


def worst_questions(rated: Sequence[RatedResponse], most: int) -> list[tuple[str, int, int]]:
    """Return (question, thumbs down, responses), those with the most thumbs down first; none without any."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    texts: dict[str, str] = {}
    for one in rated:
        name = " ".join(one.response.question.lower().split())
        texts.setdefault(name, one.response.question)
        counts[name][0] += one.event is not None and one.event.rating == "down"
        counts[name][1] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1][0], item[1][1], item[0]))
    return [(texts[name], downs, total) for name, (downs, total) in ordered[:most] if downs]


def _groups(response: ResponseRecord, chunks: Mapping[str, Chunk]) -> list[tuple[str, str]]:
    """Return the (kind, name) of every group that a response belongs to."""
    cited = [chunks[name] for name in response.cited_chunk_ids if name in chunks]
    shown = cited or [chunks[name] for name in response.chunk_ids[:1] if name in chunks]
    groups = [("all", ""), ("day", response.created_at[:10]), ("version", response.model_version)]
    groups += [("topic", chunk.topic) for chunk in shown if chunk.topic]
    groups += [("source", chunk.source) for chunk in shown]
    groups += [("document", chunk.origin) for chunk in cited]
    groups += [("dial", f"{name} {value:g}") for name, value in response.dials.items()] or [("dial", "neutral")]
    return groups


def _trend(kind: str, name: str, rated: Sequence[RatedResponse]) -> FeedbackTrend:
    by_user: dict[str, list[float]] = defaultdict(list)
    for one in rated:
        if one.event is not None:
            by_user[one.response.user or one.event.user].append(_VALUES[one.event.rating])
    means = [sum(values) / len(values) for values in by_user.values()]
    value = sum(means) / len(means) if means else 0.0
    low, high = wilson(value, len(means))
    return FeedbackTrend(
        kind=kind,
        name=name,
        responses=len(rated),
        rated=sum(len(values) for values in by_user.values()),
        users=len(means),
        value=value,
        low=low,
        high=high,
        corrections=sum(bool(one.event and one.event.correction) for one in rated),
        refused=sum(one.response.refused for one in rated),
    )
