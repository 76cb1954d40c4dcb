"""Follows a verdict to the training pair that it became and to released versions, and a version back to verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass

from ragtune.errors import FeedbackError
from ragtune.records import FeedbackEvent, QAPair, RegisteredModel, ResponseRecord, SplitItem


@dataclass(frozen=True, slots=True)
class FeedbackTrace:
    """A verdict, the response that it is about, the pairs of the dataset made from it with their splits, and versions.

    `versions` are the released models whose training data had such a pair.
    """

    event: FeedbackEvent
    response: ResponseRecord | None
    pairs: tuple[tuple[QAPair, str], ...]
    versions: tuple[str, ...]


def trace_feedback(
    feedback_id: str,
    events: Sequence[FeedbackEvent],
    responses: dict[str, ResponseRecord],
    items: Sequence[SplitItem],
    models: Sequence[RegisteredModel],
) -> FeedbackTrace:
    """Return what became of a verdict; raise FeedbackError if there is none with this id.

    Args:
        feedback_id: of the verdict.
        events: all verdicts.
        responses: at least the one that the verdict is about.
        items: the pairs of the current dataset with their splits.
        models: the released versions.
    """
    event = next((event for event in events if event.id == feedback_id), None)
    if event is None:
        raise FeedbackError(f"There is no verdict '{feedback_id}'.", "the `id` of a response of /v1/feedback")
    return FeedbackTrace(
        event=event,
        response=responses.get(event.response_id),
        pairs=tuple((item.pair, item.split) for item in items if item.pair.feedback_id == feedback_id),
        versions=tuple(model.version for model in models if feedback_id in model.manifest.feedback_ids),
    )


def feedback_of_version(model: RegisteredModel, events: Sequence[FeedbackEvent]) -> list[FeedbackEvent]:
    """Return the verdicts that a released version learned from, oldest first."""
    ids = set(model.manifest.feedback_ids)
    return [event for event in events if event.id in ids]
