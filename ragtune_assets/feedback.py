"""What people said about answers and pairs, and the sensors that turn enough of it into retraining."""

import dagster as dg

from ragtune.dataset.corrections import CorrectionStatus, correction_statuses
from ragtune.dataset.reviews.decisions import Decision, newest_verdicts, pair_key
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.records import ArtifactRef, Chunk, FeedbackEvent, content_id
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
    asset_selection=["feedback_events", "review_decisions"],
    minimum_interval_seconds=POLL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for the feedback once enough corrections can train; automation carries them to a new adapter.",
)
def enough_new_feedback(
    context: dg.SensorEvaluationContext,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    feedback_log: dg.ResourceParam[FeedbackLog],
    reviews: dg.ResourceParam[ReviewStore],
) -> dg.RunRequest | dg.SkipReason:
    """Request a run when `feedback.retrain_after` corrections can train that the last run did not have.

    Nothing else counts: feedback that trains nothing requests nothing, however much of it comes.
    """
    state = _state(settings, store, feedback_log, reviews)
    if context.cursor == state:
        return dg.SkipReason("No correction and no decision came since the last look.")
    last = last_sequence(context.instance, "feedback_events")
    reason = f"feedback-after-{last}-{last_sequence(context.instance, 'review_decisions')}"
    new, needed = len(new_corrections(settings, store, feedback_log, reviews)), settings.feedback.retrain_after
    if new < needed:
        context.update_cursor(state)
        return dg.SkipReason(f"{new} new corrections can train; {needed} are needed.")
    return request_run(context.instance, reason, {"ragtune/new_feedback": str(new)})


@dg.sensor(
    asset_selection=["review_decisions"],
    minimum_interval_seconds=POLL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for `review_decisions` once enough reviews are new; automation carries them to a new adapter.",
)
def enough_new_reviews(
    context: dg.SensorEvaluationContext,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    feedback_log: dg.ResourceParam[FeedbackLog],
    reviews: dg.ResourceParam[ReviewStore],
) -> dg.RunRequest | dg.SkipReason:
    """Request a run when at least `feedback.retrain_after` decisions on pairs came since the last one.

    A decision on a correction that is not in the dataset does not count: if it was accepted, `enough_new_feedback`
    counts it, and if it was rejected, the dataset stays as it is.
    """
    last, needed = last_sequence(context.instance, "review_decisions"), settings.feedback.retrain_after
    state, new = _state(settings, store, feedback_log, reviews), reviews.count_since(last)
    if new >= needed and context.cursor != state:
        new = _decisions_on_pairs(settings, store, feedback_log, reviews, last)
    elif new >= needed:
        return dg.SkipReason("No correction and no decision came since the last look.")
    if new < needed:
        context.update_cursor(state)
        return dg.SkipReason(f"{new} new verdicts since number {last}; {needed} are needed.")
    return request_run(context.instance, f"reviews-after-{last}", {"ragtune/new_reviews": str(new)})


def new_corrections(
    settings: Settings, store: ArtifactStore, feedback_log: FeedbackLog, reviews: ReviewStore
) -> list[CorrectionStatus]:
    """Return the corrections that can train now and could not with what the last run knew, oldest first."""
    known = _known_corrections(settings, store)
    now = correction_statuses(
        feedback_log.corrections(), _chunks(store), reviews.decisions(), settings.feedback, settings.dataset
    )
    return [one for one in now if one.status == "accepted" and one.event.id not in known]


def last_sequence(instance: dg.DagsterInstance, name: str) -> int:
    """Return the number of the newest verdict that the asset holds, or 0 if it was never built."""
    event = instance.get_latest_materialization_event(dg.AssetKey(name))
    if event is None or event.asset_materialization is None:
        return 0
    return int(str(event.asset_materialization.metadata[LAST_SEQUENCE].value))


def _decisions_on_pairs(
    settings: Settings, store: ArtifactStore, feedback_log: FeedbackLog, reviews: ReviewStore, last: int
) -> int:
    """Return the number of verdicts after a sequence number that are not about a correction outside the dataset."""
    known, decisions = _known_corrections(settings, store), reviews.decisions()
    statuses = correction_statuses(
        feedback_log.corrections(), _chunks(store), decisions, settings.feedback, settings.dataset
    )
    outside = {
        pair_key(pair)
        for one in statuses
        if one.event.id not in known
        for pair in (one.made, one.pair)
        if pair is not None
    }
    return sum(
        decision.sequence > last and decision.verdict != "comment" and decision.pair_key not in outside
        for decision in decisions
    )


def _known_corrections(settings: Settings, store: ArtifactStore) -> set[str]:
    """Return the ids of the corrections that can train by what the last runs of the two assets stored."""
    events, decisions = store.current("feedback_events"), store.current("review_decisions")
    if events is None:
        return set()
    statuses = correction_statuses(
        store.read_records(events, FeedbackEvent),
        _chunks(store),
        store.read_records(decisions, Decision) if decisions else [],
        settings.feedback,
        settings.dataset,
    )
    return {one.event.id for one in statuses if one.status == "accepted"}


def _chunks(store: ArtifactStore) -> list[Chunk]:
    ref = store.current("chunks")
    return store.read_records(ref, Chunk) if ref else []


def _state(settings: Settings, store: ArtifactStore, feedback_log: FeedbackLog, reviews: ReviewStore) -> str:
    """Return a hash of everything that a look at the corrections depends on.

    While it stays the same, the sensor need not look again: this hash takes milliseconds, a look at a thousand
    corrections seconds.
    """
    refs = [store.current(name) for name in ("chunks", "feedback_events", "review_decisions")]
    built = [ref.sha256 if ref else "" for ref in refs]
    numbers = [str(feedback_log.newest_correction()), str(reviews.newest_sequence())]
    return content_id(settings.fingerprint("feedback", "dataset"), *numbers, *built)
