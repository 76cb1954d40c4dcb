"""Follows a verdict to the training pair that it became and to released versions, and a version back to verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass

from ragtune.dataset.corrections import CorrectionStatus
from ragtune.errors import FeedbackError
from ragtune.records import FeedbackEvent, QAPair, RegisteredModel, ResponseRecord, SplitItem

NO_CORRECTION, IN_DATASET, RELEASED = "no_correction", "in_dataset", "released"
"""What may become of a verdict in addition to `ragtune.dataset.corrections.STATUSES`."""


@dataclass(frozen=True, slots=True)
class Built:
    """What was built so far: the pairs with their splits, the version of that dataset, and the released models."""

    items: Sequence[SplitItem] = ()
    dataset: str = ""
    models: Sequence[RegisteredModel] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackTrace:
    """A verdict, the response that it is about, the pairs of the dataset made from it with their splits, and versions.

    `status`, `reason` and `since` say what became of it. `dataset` is the version of the dataset with the pairs, ""
    if there are none. `versions` are the released models whose training data had such a pair.
    """

    event: FeedbackEvent
    response: ResponseRecord | None
    pairs: tuple[tuple[QAPair, str], ...]
    versions: tuple[str, ...]
    status: str
    reason: str
    since: str
    dataset: str = ""


def trace_feedback(
    feedback_id: str,
    event: FeedbackEvent | None,
    response: ResponseRecord | None,
    statuses: Sequence[CorrectionStatus],
    built: Built,
) -> FeedbackTrace:
    """Return what became of a verdict; raise FeedbackError if there is none with this id.

    Args:
        feedback_id: of the verdict.
        event: the verdict, None if there is none.
        response: what the verdict is about.
        statuses: what became of each correction.
        built: the current dataset and the released versions.
    """
    if event is None:
        raise FeedbackError(f"There is no verdict '{feedback_id}'.", "the `id` of a response of /v1/feedback")
    pairs = tuple((item.pair, item.split) for item in built.items if item.pair.feedback_id == feedback_id)
    versions = tuple(model.version for model in built.models if feedback_id in model.manifest.feedback_ids)
    status, reason, since = _status(event, statuses)
    splits = " and ".join(sorted({split for _, split in pairs}))
    if status == "accepted" and versions:
        status, reason = RELEASED, f"{reason}; version {', '.join(versions)} learned from it"
    elif status == "accepted" and pairs:
        status, reason = IN_DATASET, f"{reason}; it is in the split {splits} of dataset {built.dataset}"
    elif status == "accepted":
        reason = f"{reason}; it is in the dataset that is built next"
    return FeedbackTrace(
        event=event,
        response=response,
        pairs=pairs,
        versions=versions,
        status=status,
        reason=reason,
        since=since,
        dataset=built.dataset if pairs else "",
    )


def _status(event: FeedbackEvent, statuses: Sequence[CorrectionStatus]) -> tuple[str, str, str]:
    """Return what was decided about a verdict, why and when; not whether a dataset or model has it already."""
    own = next((one for one in statuses if one.event.id == event.id), None)
    if own is None:
        return NO_CORRECTION, "a verdict without a correction is counted, and trains nothing", event.created_at
    return own.status, own.reason, own.since


def feedback_of_version(model: RegisteredModel, events: Sequence[FeedbackEvent]) -> list[FeedbackEvent]:
    """Return the verdicts that a released version learned from, oldest first."""
    ids = set(model.manifest.feedback_ids)
    return [event for event in events if event.id in ids]
