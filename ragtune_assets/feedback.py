"""What people said about answers and pairs, and the sensors that turn enough of it into retraining."""

import dagster as dg

from ragtune.dataset.reviews.decisions import Decision, newest_verdicts
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.records import ArtifactRef
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune_assets import pages
from ragtune_assets.asking_again import request_run
from ragtune_assets.asset import asset
from ragtune_assets.display import materialized
from ragtune_assets.pages import LAST_SEQUENCE

POLL_SECONDS = 30
"""How often the sensors count new verdicts. Chosen by hand; counting takes milliseconds."""


@asset(group_name="feedback", kinds={"parquet"}, owners=["team:feedback"])
def feedback_events(
    store: dg.ResourceParam[ArtifactStore], feedback_log: dg.ResourceParam[FeedbackLog]
) -> dg.MaterializeResult[ArtifactRef]:
    """Every verdict so far, with the question and the passages it is about."""
    events = feedback_log.events()
    return materialized(store.write_records("feedback_events", events), pages.feedback_page(events))


@asset(group_name="feedback", kinds={"parquet"}, owners=["team:feedback"])
def review_decisions(
    store: dg.ResourceParam[ArtifactStore], reviews: dg.ResourceParam[ReviewStore]
) -> dg.MaterializeResult[ArtifactRef]:
    """The newest verdict of every reviewer on every pair; a comment alone changes nothing here."""
    decisions = standing_decisions(reviews)
    return materialized(store.write_records("review_decisions", decisions), pages.reviews_page(decisions))


def standing_decisions(reviews: ReviewStore) -> list[Decision]:
    """Return the verdicts that were not replaced by a later one of the same reviewer, oldest first."""
    by_pair = newest_verdicts(reviews.decisions())
    decisions = [decision for verdicts in by_pair.values() for decision in verdicts.values()]
    return sorted(decisions, key=lambda decision: decision.sequence)


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
    last = last_sequence(context.instance, "feedback_events")
    new = feedback_log.count_since(last)
    return _run_request(context.instance, "feedback", last, new, settings.feedback.retrain_after)


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
    last = last_sequence(context.instance, "review_decisions")
    new = reviews.count_since(last)
    return _run_request(context.instance, "reviews", last, new, settings.feedback.retrain_after)


def last_sequence(instance: dg.DagsterInstance, name: str) -> int:
    """Return the number of the newest verdict that the asset holds, or 0 if it was never built."""
    event = instance.get_latest_materialization_event(dg.AssetKey(name))
    if event is None or event.asset_materialization is None:
        return 0
    return int(str(event.asset_materialization.metadata[LAST_SEQUENCE].value))


def _run_request(
    instance: dg.DagsterInstance, kind: str, last: int, new: int, needed: int
) -> dg.RunRequest | dg.SkipReason:
    if new < needed:
        return dg.SkipReason(f"{new} new verdicts since number {last}; {needed} are needed.")
    return request_run(instance, f"{kind}-after-{last}", {f"ragtune/new_{kind}": str(new)})
