"""What people said about answers and pairs, and the sensors that turn enough of it into retraining."""

from collections import Counter

import dagster as dg

from ragtune.dataset.reviews.decisions import newest_verdicts
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.records import ArtifactRef
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune_assets.display import materialized, table

LAST_SEQUENCE = "last sequence"
POLL_SECONDS = 30


@dg.asset(group_name="feedback", kinds={"sqlite", "parquet"}, owners=["team:feedback"], code_version="1")
def feedback_events(
    store: dg.ResourceParam[ArtifactStore], feedback_log: dg.ResourceParam[FeedbackLog]
) -> dg.MaterializeResult[ArtifactRef]:
    """Every verdict so far, with the question and the passages it is about."""
    events = feedback_log.events()
    shown = [(e.created_at, e.rating, e.question, e.correction or e.comment) for e in events[-10:]]
    metadata = {
        LAST_SEQUENCE: max((event.sequence for event in events), default=0),
        "up": sum(event.rating == "up" for event in events),
        "down": sum(event.rating == "down" for event in events),
        "corrections": sum(bool(event.correction) for event in events),
        "newest": table(["when", "rating", "question", "text"], shown),
    }
    return materialized(store.write_records("feedback_events", events), metadata)


@dg.asset(group_name="feedback", kinds={"sqlite", "parquet"}, owners=["team:feedback"], code_version="1")
def review_decisions(
    store: dg.ResourceParam[ArtifactStore], reviews: dg.ResourceParam[ReviewStore]
) -> dg.MaterializeResult[ArtifactRef]:
    """The newest verdict of every reviewer on every pair; a comment alone changes nothing here."""
    found = [each for verdicts in newest_verdicts(reviews.decisions()).values() for each in verdicts.values()]
    found.sort(key=lambda each: each.sequence)
    shown = [(d.created_at, d.reviewer, d.verdict, d.pair["question"], d.answer or d.comment) for d in found[-10:]]
    metadata = {
        LAST_SEQUENCE: max((each.sequence for each in found), default=0),
        "verdicts": table(["verdict", "pairs"], sorted(Counter(each.verdict for each in found).items())),
        "reviewers": table(["reviewer", "verdicts"], sorted(Counter(each.reviewer for each in found).items())),
        "newest": table(["when", "reviewer", "verdict", "question", "text"], shown),
    }
    return materialized(store.write_records("review_decisions", found), metadata)


@dg.sensor(
    asset_selection=["feedback_events"],
    minimum_interval_seconds=POLL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for `feedback_events` once enough feedback is new; automation carries it to a new adapter.",
)
def enough_new_feedback(
    context: dg.SensorEvaluationContext,
    settings: dg.ResourceParam[Settings],
    feedback_log: dg.ResourceParam[FeedbackLog],
) -> dg.RunRequest | dg.SkipReason:
    """Request a run when at least `feedback.retrain_after` verdicts came since the last one."""
    seen = taken_in(context.instance, "feedback_events")
    return _asked("feedback", seen, feedback_log.count_since(seen), settings.feedback.retrain_after)


@dg.sensor(
    asset_selection=["review_decisions"],
    minimum_interval_seconds=POLL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for `review_decisions` once enough reviews are new; automation carries them to a new adapter.",
)
def enough_new_reviews(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings], reviews: dg.ResourceParam[ReviewStore]
) -> dg.RunRequest | dg.SkipReason:
    """Request a run when at least `feedback.retrain_after` decisions on pairs came since the last one."""
    seen = taken_in(context.instance, "review_decisions")
    return _asked("reviews", seen, reviews.count_since(seen), settings.feedback.retrain_after)


def taken_in(instance: dg.DagsterInstance, asset: str) -> int:
    """Return the number of the newest verdict that the asset has taken in, 0 before the first."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    if event is None or event.asset_materialization is None:
        return 0
    return int(str(event.asset_materialization.metadata[LAST_SEQUENCE].value))


def _asked(what: str, seen: int, new: int, needed: int) -> dg.RunRequest | dg.SkipReason:
    if new < needed:
        return dg.SkipReason(f"{new} new verdicts since number {seen}; {needed} are needed.")
    return dg.RunRequest(run_key=f"{what}-after-{seen}", tags={f"ragtune/new_{what}": str(new)})
