"""What the pages of experiments and of feedback show in Dagster."""

import json
from collections.abc import Sequence
from typing import Any

from ragtune.evaluation.feedback_trends import worst
from ragtune.store.report_rows import ExperimentDecision, ExperimentResult, FeedbackTrend, QuestionGap, ShadowComparison
from ragtune_assets.display import MANY, Page, curve, table


def results_page(results: Sequence[ExperimentResult]) -> Page:
    """Show the comparison on the metric that decides, all metrics, and the interval over time."""
    header = ["experiment", "state", "version", "against", "metric", "declared", "low", "difference", "high", "p"]

    def row(one: ExperimentResult) -> tuple[Any, ...]:
        name = f"{one.metric} ({one.unit})"
        numbers = (one.declaration, one.low, one.difference, one.high, one.p_value)
        return (one.experiment, one.state, one.version, one.control, name, *numbers)

    deciding = [one for one in results if one.decides]
    plots = {
        f"interval of {one.experiment}, version {one.version}": curve(
            {
                "low": [(blocks, low) for blocks, low, _ in json.loads(one.path)],
                "high": [(blocks, high) for blocks, _, high in json.loads(one.path)],
            },
            f"{one.experiment}: version {one.version} minus {one.control}",
            "blocks of users",
            f"{one.metric} ({one.unit})",
        )
        for one in deciding
        if len(json.loads(one.path)) > 1
    }
    return {
        "experiments": len({one.experiment for one in results}),
        "what decides": table(header, map(row, deciding)),
        "all metrics": table(header, map(row, results)),
        **plots,
    }


def decisions_page(decisions: Sequence[ExperimentDecision]) -> Page:
    """Show how each experiment ended, and how many decisions do not come out of the logs again."""
    rows = [(d.stopped_at, d.experiment, d.versions, d.metric, d.reason, d.promotion, d.replayed) for d in decisions]
    return {
        "decisions": table(["stopped", "experiment", "versions", "metric", "reason", "promotion", "replayed"], rows),
        "not replayed": sum(not decision.replayed for decision in decisions),
    }


def shadows_page(rows: Sequence[ShadowComparison]) -> Page:
    """Show what became of the sampled requests, and what the pairs, judges and people say."""
    header = ["shadow", "state", "version", "pairs", "users", "sampled", "mirrored", "dropped", "agreement"]
    table_rows = [
        (
            *(one.shadow, "running" if one.running else "stopped", one.version),
            *(one.pairs, one.users, one.sampled, one.mirrored, one.dropped, one.agreement),
        )
        for one in rows
    ]
    words = [(one.shadow, one.version, sentence) for one in rows for sentence in one.words]
    return {
        "pairs": sum(one.pairs for one in rows),
        "mirrored requests": table(header, table_rows),
        "in words": table(["shadow", "version", "what it shows"], words),
    }


def trends_page(trends: Sequence[FeedbackTrend], questions: Sequence[tuple[str, int, int]]) -> Page:
    """Show the collection rate, thumbs up over time and by group, and the worst documents and questions."""
    header = ["group", "responses", "rated", "users", "up", "low", "high", "corrections", "refused"]

    def rows(chosen: Sequence[FeedbackTrend]) -> list[tuple[Any, ...]]:
        return [
            (t.name or "all", t.responses, t.rated, t.users, t.value, t.low, t.high, t.corrections, t.refused)
            for t in chosen
        ]

    by_kind = {kind: [trend for trend in trends if trend.kind == kind] for kind in _kinds(trends)}
    total = by_kind.get("all", [])
    days = [(float(number), trend) for number, trend in enumerate(by_kind.get("day", []))]
    rated = [(x, trend) for x, trend in days if trend.rated]
    page: Page = {
        "responses": total[0].responses if total else 0,
        "collection rate": total[0].rated / total[0].responses if total else 0.0,
    }
    if len(rated) > 1:
        page["thumbs up by day"] = curve(
            {name: [(x, getattr(trend, name)) for x, trend in rated] for name in ("value", "low", "high")},
            "Share of thumbs up",
            f"days since {days[0][1].name}",
            "share",
        )
    if len(days) > 1:
        page["collection and refusals by day"] = curve(
            {
                "rated": [(x, trend.rated / trend.responses) for x, trend in days],
                "refused": [(x, trend.refused / trend.responses) for x, trend in days],
            },
            "Share of responses",
            f"days since {days[0][1].name}",
            "share",
        )
    for kind in ("version", "topic", "source", "dial"):
        page[f"by {kind}"] = table(header, rows(by_kind.get(kind, [])[:MANY]))
    page["documents that people like least"] = table(header, rows(worst(trends, "document", MANY)))
    page["questions with the most thumbs down"] = table(["question", "down", "responses"], questions)
    return page


def gaps_page(gaps: Sequence[QuestionGap]) -> Page:
    """Show the groups of questions that the documents do not answer."""
    rows = [(g.question, g.count, g.users, g.recent, g.expected, g.last_at, "; ".join(g.examples)) for g in gaps]
    header = ["question", "times", "users", "recently", "expected", "last", "examples"]
    return {"questions": sum(gap.count for gap in gaps), "groups": table(header, rows[:MANY])}


def _kinds(trends: Sequence[FeedbackTrend]) -> list[str]:
    return list(dict.fromkeys(trend.kind for trend in trends))
