"""Says what becomes of each correction of an answer: a training pair, or the reason why it is none.

One function, `correction_statuses`, decides. The dataset, the queue of the reviewers, the sensor that requests
trainings and the answer to the author all call it, so they never disagree.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

from ragtune.dataset.answer_spans import closest_sentence, literal_span
from ragtune.dataset.checks.personal import suspected_personal_data
from ragtune.dataset.checks.quality import question_key, rejection_reason
from ragtune.dataset.reviews.decisions import REVIEWED, Decision, newest_verdicts
from ragtune.dataset.reviews.outcome import reviewed_versions, winning_decision
from ragtune.records import Chunk, FeedbackEvent, QAPair, content_id
from ragtune.settings import DatasetSettings, FeedbackSettings
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

WRITER, CORRECTION = "feedback", "correction"
Status = Literal["accepted", "waiting", "rejected", "replaced", "over_cap", "held_back", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
_CHECKED = 20_000
"""Corrections whose checks are remembered, about 60 MB. Chosen by hand: a thousand take seconds to check again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionStatus:
    """What became of a correction, why, and since when (UTC, ISO 8601).

    `made` is the pair in the author's words, None if the correction failed a check. `pair` is the same pair as
    reviewers left it.

    - `accepted`: it is in the dataset that is built next;
    - `waiting`: it needs the approval of a reviewer;
    - `rejected`: a reviewer rejected it;
    - `replaced`: another correction of the same question is used;
    - `over_cap`: its key, or the dataset, has no place for it;
    - `held_back`: it holds personal data or a secret, and nobody gets it to review;
    - `failed`: it failed another check.
    """

    event: FeedbackEvent
    status: Status
    reason: str
    since: str
    made: QAPair | None = None
    pair: QAPair | None = None

    @property
    def is_reviewable(self) -> bool:
        """Whether reviewers see it: it waits for them, or they may change what they decided about it."""
        return self.made is not None and self.status not in ("replaced", "over_cap")


def correction_statuses(
    events: Sequence[FeedbackEvent],
    chunks: Sequence[Chunk],
    decisions: Sequence[Decision],
    feedback: FeedbackSettings,
    dataset: DatasetSettings,
) -> list[CorrectionStatus]:
    """Return what became of each correction among the events, in their order (oldest first).

    Args:
        events: the feedback; events without a correction are left out.
        chunks: the passages that are in the index now.
        decisions: the verdicts of reviewers.
        feedback: whether a correction needs approval, and how many of one key may train.
        dataset: how many verdicts settle a pair, and how many pairs fit into the dataset.
    """
    chunk_by_id = {chunk.id: chunk for chunk in chunks if not chunk.duplicate_of}
    verdicts = newest_verdicts(decisions)
    statuses = [
        _reviewed(_checked_status(event, chunk_by_id), chunk_by_id, verdicts, dataset.reviews_per_pair)
        for event in events
        if event.correction
    ]
    statuses = _without_repeats(statuses)
    statuses = _within_cap(statuses, feedback.per_key)
    if not feedback.approval:
        statuses = [
            replace(one, status="accepted", reason="it passed the checks; feedback.approval is off")
            if one.status == "waiting" and one.pair is not None
            else one
            for one in statuses
        ]
    return _one_for_each_question(statuses, dataset.max_pairs)


def trainable_pairs(statuses: Sequence[CorrectionStatus]) -> list[QAPair]:
    """Return the pairs of the accepted corrections, as reviewers left them."""
    return [one.pair for one in statuses if one.status == "accepted" and one.pair is not None]


def feedback_ids(pairs: Sequence[QAPair]) -> tuple[str, ...]:
    """Return the ids of the feedback events that the pairs were made from, sorted."""
    return tuple(sorted({pair.feedback_id for pair in pairs if pair.feedback_id}))


def _checked_status(event: FeedbackEvent, chunk_by_id: Mapping[str, Chunk]) -> CorrectionStatus:
    """Return `waiting` with the pair if the correction passes the checks of the dataset."""
    if not chunk_by_id:
        reason = "no passage was read for training yet; `ragtune materialize` reads them"
        return CorrectionStatus(event=event, status="waiting", reason=reason, since=event.created_at)
    shown = dict.fromkeys((*event.cited_chunk_ids, *event.chunk_ids))
    pair, status, reason = _checked(event, tuple(chunk_by_id[name] for name in shown if name in chunk_by_id))
    return CorrectionStatus(event=event, status=status, reason=reason, since=event.created_at, made=pair, pair=pair)


@lru_cache(maxsize=_CHECKED)
def _checked(event: FeedbackEvent, passages: tuple[Chunk, ...]) -> tuple[QAPair | None, Status, str]:
    question, answer = collapse_whitespace(event.question), collapse_whitespace(event.correction)
    if kind := suspected_personal_data(f"{question} {answer}"):
        return None, "held_back", f"it holds personal data or a secret: {kind}"
    if not passages:
        return None, "failed", "none of the passages that were shown is still in the index"
    pair, chunk = _pair(event, passages)
    if reason := rejection_reason(pair, chunk):
        return None, "failed", reason
    return pair, "waiting", "no reviewer has decided about it yet"


def _pair(event: FeedbackEvent, passages: Sequence[Chunk]) -> tuple[QAPair, Chunk]:
    """Return the pair of a correction with its passage.

    It is the passage, of those that the user saw, that contains the corrected answer or shares the most words with
    it. If it does not contain the answer word for word, the span is that of the sentence that shares the most words.
    """
    question, answer = collapse_whitespace(event.question), collapse_whitespace(event.correction)
    words = content_words(answer)

    def rank(chunk: Chunk) -> tuple[bool, int]:
        return literal_span(answer, chunk.text) is not None, len(words & content_words(chunk.text))

    chunk = max(passages, key=rank)
    pair = QAPair(
        id=content_id(chunk.id, question, answer),
        question=question,
        answer=answer,
        kind=CORRECTION,
        document_id=chunk.document_id,
        chunk_id=chunk.id,
        span=literal_span(answer, chunk.text) or closest_sentence(words, chunk.text),
        topic=chunk.topic,
        writer=WRITER,
        feedback_id=event.id,
    )
    return pair, chunk


def _reviewed(
    one: CorrectionStatus,
    chunk_by_id: Mapping[str, Chunk],
    verdicts_by_key: Mapping[str, Mapping[str, Decision]],
    verdicts_needed: int,
) -> CorrectionStatus:
    """Return the status after the reviews; a reviewer's own words have to pass the checks, too."""
    if one.made is None:
        return one
    chunk = chunk_by_id[one.made.chunk_id]
    versions = list(reviewed_versions(one.made, verdicts_by_key, chunk.text, verdicts_needed))
    pair, verdicts = versions[-1]
    decision = winning_decision(verdicts, verdicts_needed)
    if decision is None and len(versions) > 1:
        decision = winning_decision(versions[-2][1], verdicts_needed)
    if decision is None:
        conflict = len(verdicts) >= verdicts_needed
        return replace(one, reason="the reviewers disagree about it") if conflict else one
    if decision.verdict == "reject":
        why = f"rejected by {decision.reviewer}" + (f": {decision.comment}" if decision.comment else "")
        return replace(one, status="rejected", reason=why, since=decision.created_at)
    how = "accepted" if len(versions) == 1 else "corrected and accepted"
    kind = suspected_personal_data(f"{pair.question} {pair.answer}") if len(versions) > 1 else ""
    if reason := kind or rejection_reason(pair, chunk):
        why = f"as {decision.reviewer} corrected it: {reason}"
        return replace(one, status="failed", reason=why, since=decision.created_at)
    return replace(
        one,
        status="accepted",
        reason=f"{how} by {decision.reviewer}",
        since=decision.created_at,
        pair=replace(pair, scores={**pair.scores, REVIEWED: 1.0}),
    )


def _without_repeats(statuses: Sequence[CorrectionStatus]) -> list[CorrectionStatus]:
    """Let a key's newer correction of a question replace its older ones that nobody decided about."""
    newest: dict[tuple[str, str], str] = {}
    for one in statuses:
        if one.status in ("waiting", "accepted"):
            newest[one.event.user, _question(one.event)] = one.event.id
    result = []
    for one in statuses:
        newer = newest.get((one.event.user, _question(one.event)), one.event.id)
        if one.status == "waiting" and newer != one.event.id:
            one = _replaced(one, newer)
        result.append(one)
    return result


def _within_cap(statuses: Sequence[CorrectionStatus], per_key: int) -> list[CorrectionStatus]:
    """Leave each key the places that it has: accepted corrections first, then the oldest.

    A rejected correction takes no place, so the next one of its key moves up.
    """
    result = list(statuses)
    places: Counter[str] = Counter()
    for wanted in ("accepted", "waiting"):
        for number, one in enumerate(result):
            if one.status != wanted:
                continue
            places[one.event.user] += 1
            if places[one.event.user] > per_key:
                reason = f"its key has {per_key} other corrections in training or in review (feedback.per_key)"
                result[number] = replace(one, status="over_cap", reason=reason)
    return result


def _one_for_each_question(statuses: Sequence[CorrectionStatus], most: int) -> list[CorrectionStatus]:
    """Keep one accepted correction of a question, and `most` altogether; those that a reviewer accepted come first.

    Among these the newest wins. So nobody replaces an approved correction with one that nobody has read.
    """
    result = list(statuses)
    accepted = [number for number, one in enumerate(result) if one.status == "accepted"]
    keys: dict[tuple[str, ...], str] = {}
    questions: dict[str, str] = {}
    kept = 0
    for number in sorted(accepted, key=lambda number: _rank(result[number]), reverse=True):
        one = result[number]
        pair = one.pair
        if pair is None:
            continue
        key, question = question_key(pair)
        if other := keys.get(key) or questions.get(question):
            result[number] = _replaced(one, other)
        elif kept == most:
            reason = f"the dataset takes {most} pairs (dataset.max_pairs), and newer corrections fill it"
            result[number] = replace(one, status="over_cap", reason=reason)
        else:
            keys[key] = questions[question] = one.event.id
            kept += 1
    return result


def _rank(one: CorrectionStatus) -> tuple[bool, int]:
    return one.pair is not None and REVIEWED in one.pair.scores, one.event.sequence


def _replaced(one: CorrectionStatus, other: str) -> CorrectionStatus:
    return replace(one, status="replaced", reason=f"{other} corrects the same question, and is used instead")


def _question(event: FeedbackEvent) -> str:
    return collapse_whitespace(event.question).lower()
