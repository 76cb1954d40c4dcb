"""What people said about the answers, and the sensor that turns enough of it into retraining."""

import dagster as dg

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
    seen = trained_sequence(context.instance)
    new = feedback_log.count_since(seen)
    if new < settings.feedback.retrain_after:
        return dg.SkipReason(f"{new} new verdicts since number {seen}; {settings.feedback.retrain_after} are needed.")
    return dg.RunRequest(run_key=f"feedback-after-{seen}", tags={"ragtune/new_feedback": str(new)})


def trained_sequence(instance: dg.DagsterInstance) -> int:
    """Return the number of the newest verdict that `feedback_events` has taken in, 0 before the first."""
    event = instance.get_latest_materialization_event(dg.AssetKey("feedback_events"))
    if event is None or event.asset_materialization is None:
        return 0
    value = event.asset_materialization.metadata[LAST_SEQUENCE].value
    return int(str(value))
