"""The page Feedback: who rates, what people like by version, topic and source, and what fails."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response

from ragtune.dataset.corrections import STATUSES
from ragtune.evaluation.feedback_trends import rated_responses, trends, worst, worst_questions
from ragtune.records import Chunk
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.report_rows import FeedbackTrend, QuestionGap
from ragtune_serving.console.pages import render
from ragtune_serving.routes import Services

PATH = "/console/feedback"
SPANS = {7: "7 days", 30: "30 days", 365: "a year", 0: "all time"}
KINDS = {"version": "Version", "topic": "Topic", "source": "Source", "dial": "Dial"}
_MOST = 15
"""Rows of a table; chosen by hand: what people read at once."""


def add_feedback_pages(app: FastAPI, services: Services, settings: Settings) -> None:
    """Add the page Feedback."""
    store = ArtifactStore(settings.home / "artifacts")

    @app.get(PATH)
    def feedback(request: Request, days: Annotated[int, Query(ge=0, le=3650)] = 30) -> Response:
        since = (datetime.now(UTC) - timedelta(days=days)).isoformat() if days else ""
        rated = rated_responses(services.log.all_responses(since), services.log.events())
        ref = store.current("chunks")
        chunks = {chunk.id: chunk for chunk in store.read_records(ref, Chunk)} if ref else {}
        groups = trends(rated, chunks)
        by_kind = {kind: [group for group in groups if group.kind == kind] for kind in ("all", "day", *KINDS)}
        corrections = Counter(one.status for one in services.reviews.statuses())
        return render(
            request,
            "feedback.html",
            days=days,
            spans=SPANS,
            total=next(iter(by_kind["all"]), None),
            chart=_chart(by_kind["day"]),
            day_rows=by_kind["day"][::-1],
            tables={title: by_kind[kind][-_MOST:] for kind, title in KINDS.items() if by_kind[kind]},
            documents=worst(groups, "document", _MOST),
            questions=worst_questions(rated, _MOST),
            corrections=[(status, corrections[status]) for status in STATUSES if corrections[status]],
            gaps=_gaps(store),
        )


def _chart(days: Sequence[FeedbackTrend]) -> dict[str, Any]:
    """Return a chart of the shares of each day: thumbs up among those who rate, rated responses, refusals."""

    def percent(part: float, whole: int) -> float | None:
        return round(100 * part / whole, 1) if whole else None

    series: Mapping[str, list[float | None]] = {
        "thumbs up": [percent(day.value, 1) if day.rated else None for day in days],
        "rated": [percent(day.rated, day.responses) for day in days],
        "refused": [percent(day.refused, day.responses) for day in days],
    }
    return {
        "x": list(range(len(days))),
        "labels": [day.name for day in days],
        "unit": "%",
        "series": [{"label": label, "values": values} for label, values in series.items()],
    }


def _gaps(store: ArtifactStore) -> list[QuestionGap] | None:
    """Return what people ask and the documents do not hold, as it was computed last; None if it never was."""
    ref = store.current("unanswered_questions")
    return store.read_records(ref, QuestionGap)[:_MOST] if ref else None
