"""`feedback`: gives a verdict, and says what people think of the answers and what became of a verdict."""

from collections import Counter
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ragtune.dataset.corrections import STATUSES, CorrectionStatus
from ragtune.dataset.feedback_trace import FeedbackTrace, feedback_of_version
from ragtune.errors import SettingsError
from ragtune.evaluation.feedback_trends import rated_responses, trends, worst, worst_questions
from ragtune.evaluation.question_gaps import question_gaps
from ragtune.model.examples.preferences import (
    ShownPrompts,
    UsableFeedback,
    choose_method,
    count_examples,
    usable_feedback,
)
from ragtune.ports import Embedder
from ragtune.records import Chunk, SplitItem
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import MOST_STARS, FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune.store.report_rows import FeedbackTrend, QuestionGap
from ragtune_serving.client import GatewayClient
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.terminal import out, print_json

app = typer.Typer(help="Rate answers, and see what people think of them.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="print as JSON")]
_KINDS = {
    "all": "all responses",
    "version": "by model version",
    "topic": "by topic",
    "source": "by source",
    "dial": "by dial",
    "day": "by day",
}
_MOST = 10


@app.command("report")
def report(
    days: Annotated[int, typer.Option(min=0, help="responses of the last days; 0: all")] = 0,
    gaps: Annotated[bool, typer.Option(help="group the questions that the documents do not answer")] = True,
    json_: Json = False,
) -> None:
    """Show who rates, what they like, the worst documents and questions, and what the documents do not hold."""
    settings = load_settings()
    log = FeedbackLog(settings.feedback_url)
    since = (datetime.now(UTC) - timedelta(days=days)).isoformat() if days else ""
    responses = log.all_responses(since)
    rated = rated_responses(responses, log.events())
    groups = trends(rated, _chunks(settings))
    missing = question_gaps(responses, _embedder(settings)) if gaps and responses else []
    questions = worst_questions(rated, _MOST)
    if json_:
        print_json(
            {
                "trends": [asdict(trend) for trend in groups],
                "worst_questions": [{"question": q, "down": down, "responses": n} for q, down, n in questions],
                "gaps": [asdict(gap) for gap in missing],
            }
        )
        return
    out.print("\n".join(_lines(groups, questions, missing)) if responses else "Nobody has asked anything yet.")


@app.command("give")
def give(
    response_id: Annotated[str, typer.Argument(help="`ragtune ask` prints it below an answer")],
    rating: Annotated[str, typer.Option(help=f"up, down, or 1 to {MOST_STARS} stars")],
    correction: Annotated[str, typer.Option(help="the right answer; it can train once a reviewer accepted it")] = "",
    comment: Annotated[str, typer.Option(help="why, in your words")] = "",
    json_: Json = False,
) -> None:
    """Say whether an answer was right, and what it should have been, through the running gateway."""
    if rating not in ("up", "down", *map(str, range(1, MOST_STARS + 1))):
        raise SettingsError(f"--rating is {rating}.", f"up, down, or a number of stars from 1 to {MOST_STARS}")
    stars = int(rating) if rating.isdigit() else rating
    with closing(GatewayClient(load_settings())) as client:
        stored = client.give_feedback(response_id, stars, correction, comment)
    if json_:
        print_json(stored)
        return
    out.print(f"Stored as {stored['id']}: {stored['rating']}, on an answer of version {stored['model_version']}.")
    if correction:
        out.print(f"What becomes of the correction: ragtune feedback trace {stored['id']}")


@app.command("trace")
def trace(
    feedback_id: Annotated[str, typer.Argument(help="the id of a verdict, or a version with --version")],
    version: Annotated[bool, typer.Option("--version", help="list the verdicts that a version learned from")] = False,
    json_: Json = False,
) -> None:
    """Say what became of a verdict and which versions learned from it, or which verdicts a version learned from."""
    settings = load_settings()
    registry = ModelRegistry(settings)
    if version:
        log = FeedbackLog(settings.feedback_url)
        learned = feedback_of_version(registry.version(feedback_id), log.events())
        log.close()
        if json_:
            print_json([asdict(event) for event in learned])
            return
        for event in learned:
            out.print(f"{event.id}  {event.created_at}  {event.question} -> {event.correction}")
        return
    desk = ReviewDesk(settings)
    story = desk.trace(feedback_id, registry.versions)
    desk.close()
    if json_:
        print_json(asdict(story))
        return
    out.print("\n".join(_trace_lines(story)))


@app.command("corrections")
def corrections(
    status: Annotated[str, typer.Option(help=f"only these: {', '.join(STATUSES)}")] = "",
    json_: Json = False,
) -> None:
    """List every correction with what became of it: whether it trains, or why not."""
    if status and status not in STATUSES:
        raise SettingsError(f"There is no status '{status}'.", f"one of {', '.join(STATUSES)}")
    desk = ReviewDesk(load_settings())
    statuses = [one for one in desk.statuses() if not status or one.status == status]
    desk.close()
    if json_:
        print_json([_status_row(one) for one in statuses])
        return
    counts = Counter(one.status for one in statuses)
    out.print(", ".join(f"{counts[name]} {name}" for name in STATUSES if counts[name]) or "There is no correction.")
    for one in statuses:
        out.print(f"{one.event.id}  {one.status:<9} key {one.event.user or '-'}: {one.reason}")


@app.command("preferences")
def preferences(json_: Json = False) -> None:
    """Say which thumbs and corrections could train preferences, why the others cannot, and what is still needed."""
    settings = load_settings()
    desk, log = ReviewDesk(settings), FeedbackLog(settings.feedback_url)
    events, statuses = log.events(), desk.statuses()
    desk.close()
    log.close()
    usable = UsableFeedback(examples=())
    if events:
        prompts = _prompts(settings)
        usable = usable_feedback(events, statuses, _items(settings), prompts, settings.feedback, settings.preference)
    numbers = count_examples(usable.examples)
    method, reason = choose_method(numbers, settings.preference.model_copy(update={"enabled": True}))
    if json_:
        shown = {"enabled": settings.preference.enabled, "method": method, "reason": reason}
        print_json({**shown, **asdict(numbers), "left_out": dict(usable.left_out)})
        return
    counts = f"{numbers.up} thumbs up, {numbers.down} thumbs down and {numbers.corrections} corrections can train"
    lines = [reason or f"{counts}: enough for {method}."]
    if not settings.preference.enabled:
        lines.append("Preference training is off. To switch it on, set preference.enabled: true in ragtune.yaml.")
    if settings.feedback.approval and not settings.preference.thumbs_from:
        lines.append("No thumb trains: name the keys that you trust in preference.thumbs_from.")
    lines += [f"left out: {number} {why}" for why, number in usable.left_out.items()]
    out.print("\n".join(lines))


def _prompts(settings: Settings) -> ShownPrompts:
    from ragtune.backends.catalog import evidence_from, line_similarity_from

    chunks = _chunks(settings).values()
    return ShownPrompts(chunks, settings.answer, line_similarity_from(settings), evidence_from(settings))


def _items(settings: Settings) -> list[SplitItem]:
    store = ArtifactStore(settings.home / "artifacts")
    ref = store.current("qa_splits")
    return store.read_records(ref, SplitItem) if ref else []


def _chunks(settings: Settings) -> dict[str, Chunk]:
    store = ArtifactStore(settings.home / "artifacts")
    ref = store.current("chunks")
    return {chunk.id: chunk for chunk in store.read_records(ref, Chunk)} if ref else {}


def _embedder(settings: Settings) -> Embedder:
    from ragtune.backends.catalog import embedder_from

    return embedder_from(settings)


def _lines(groups: list[FeedbackTrend], questions: list[tuple[str, int, int]], gaps: list[QuestionGap]) -> list[str]:
    """Return what a person reads."""
    lines: list[str] = []
    for kind, title in _KINDS.items():
        own = [trend for trend in groups if trend.kind == kind][-_MOST:]
        lines += [title, *(f"  {_line(trend)}" for trend in own)]
    if bad := worst(groups, "document", _MOST):
        lines += ["documents that people like least", *(f"  {_line(trend)}" for trend in bad)]
    if questions:
        lines.append("questions with the most thumbs down")
        lines += [f"  {down} of {total}: {question}" for question, down, total in questions]
    if gaps:
        lines.append("what people ask and the documents do not answer")
        lines += [f"  {_gap_line(gap)}" for gap in gaps[:_MOST]]
    return lines


def _line(trend: FeedbackTrend) -> str:
    name = f"{trend.name}: " if trend.name else ""
    share = f"{trend.rated / trend.responses:.0%} of {trend.responses} rated, {trend.refused} refused"
    if not trend.rated:
        return f"{name}{share}"
    return f"{name}{trend.value:.0%} up [{trend.low:.0%}, {trend.high:.0%}] by {trend.users} users; {share}"


def _gap_line(gap: QuestionGap) -> str:
    more = " (more than before)" if gap.recent > 2 * gap.expected else ""
    return f"{gap.count} times by {gap.users} users{more}: {gap.question}"


def _status_row(one: CorrectionStatus) -> dict[str, str]:
    """Return what programs get of a correction; the text of one that was held back is left out."""
    event, shown = one.event, one.status != "held_back"
    return {
        "id": event.id,
        "key": event.user,
        "created_at": event.created_at,
        "question": event.question if shown else "",
        "correction": event.correction if shown else "",
        "status": one.status,
        "reason": one.reason,
        "since": one.since,
    }


def _trace_lines(found: FeedbackTrace) -> list[str]:
    event = found.event
    version = found.response.model_version if found.response else "unknown"
    lines = [
        f"{event.id}: {event.rating} by {event.user or 'somebody'} at {event.created_at}",
        f"  question: {event.question}",
        f"  answered by version {version}; correction: {event.correction or 'none'}",
        f"  {found.status} since {found.since}: {found.reason}",
    ]
    lines += [f"  pair {pair.id} ({split}): {pair.question} -> {pair.answer}" for pair, split in found.pairs]
    lines += [f"  learned by version {version}" for version in found.versions]
    return lines if found.pairs or found.versions else [*lines, "  no pair of the current dataset comes from it"]
