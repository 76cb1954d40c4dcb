"""Applies reviewers' decisions to a dataset: rejected pairs leave, corrections replace the writer's text."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ragtune.dataset.reviews.decisions import REVIEWED, Decision, newest_verdicts, pair_key
from ragtune.records import Chunk, QAPair, content_id

WRITER = "review"
"""The `writer` of a pair whose text a reviewer corrected."""


@dataclass(frozen=True, slots=True)
class ReviewOutcome:
    """A dataset after its reviews.

    `rejected` has each pair with the reason. `conflicts` are pairs with enough verdicts and no majority.
    `orphans` are decisions on pairs that the dataset no longer contains.
    """

    pairs: list[QAPair]
    accepted: int
    rejected: list[tuple[QAPair, str]]
    corrected: list[QAPair]
    undecided: list[QAPair]
    conflicts: list[tuple[QAPair, tuple[Decision, ...]]]
    orphans: list[Decision]


def apply_reviews(
    pairs: Sequence[QAPair], decisions: Iterable[Decision], chunks: Sequence[Chunk] = (), verdicts_needed: int = 1
) -> ReviewOutcome:
    """Return the dataset after its reviews.

    A pair is decided once it has `verdicts_needed` verdicts. If reviewers disagree, the majority wins; a tie leaves
    the pair as it is and is listed as a conflict. A corrected pair can be reviewed again. Pairs that people accepted
    or corrected get the score `reviewed`.
    """
    verdicts_by_key = newest_verdicts(decisions)
    texts = {chunk.id: chunk.text for chunk in chunks}
    result = ReviewOutcome([], 0, [], [], [], [], [])
    accepted = 0
    matched: set[str] = set()
    for pair in pairs:
        versions = list(reviewed_versions(pair, verdicts_by_key, texts.get(pair.chunk_id, ""), verdicts_needed))
        matched.update(pair_key(version) for version, _ in versions)
        last, verdicts = versions[-1]
        is_corrected = len(versions) > 1
        winner = winning_decision(verdicts, verdicts_needed)
        if winner is None and len(verdicts) >= verdicts_needed:
            result.conflicts.append((last, verdicts))
        elif winner is None and not is_corrected:
            result.undecided.append(last)
        if winner is not None and winner.verdict == "reject":
            result.rejected.append((last, winner.comment or f"rejected by {winner.reviewer}"))
            continue
        accepted += winner is not None and winner.verdict == "accept"
        if winner is not None or is_corrected:
            last = replace(last, scores={**last.scores, REVIEWED: 1.0})
        if is_corrected:
            result.corrected.append(last)
        result.pairs.append(last)
    orphans = [
        decision for key, verdicts in verdicts_by_key.items() if key not in matched for decision in verdicts.values()
    ]
    return replace(result, accepted=accepted, orphans=sorted(orphans, key=lambda decision: decision.sequence))


def reviewed_versions(
    pair: QAPair, verdicts_by_key: Mapping[str, Mapping[str, Decision]], text: str, verdicts_needed: int
) -> Iterator[tuple[QAPair, tuple[Decision, ...]]]:
    """Yield the pair, then each correction of it, with the verdicts on that version.

    Stops before a version that it has already yielded, so corrections that undo each other do not loop.
    """
    keys: set[str] = set()
    while (key := pair_key(pair)) not in keys:
        keys.add(key)
        verdicts = tuple(verdicts_by_key.get(key, {}).values())
        yield pair, verdicts
        winner = winning_decision(verdicts, verdicts_needed)
        if winner is not None and winner.verdict == "correct":
            pair = _correct(pair, winner, text)


def _correct(pair: QAPair, decision: Decision, text: str) -> QAPair:
    """Return the pair with the reviewer's words; the span moves to the new answer if `text` contains it."""
    question, answer = decision.question or pair.question, decision.answer or pair.answer
    start = text.find(answer) if answer else -1
    return replace(
        pair,
        id=content_id(pair.chunk_id, question, answer),
        question=question,
        answer=answer,
        answerable=bool(answer),
        span=(start, start + len(answer)) if start >= 0 else pair.span,
        writer=WRITER,
    )


def winning_decision(verdicts: Collection[Decision], verdicts_needed: int) -> Decision | None:
    """Return the newest decision of the majority, or None if there is a tie or fewer than `verdicts_needed`.

    Corrections count as equal only if they say the same.
    """
    if len(verdicts) < verdicts_needed:
        return None
    groups: dict[tuple[str, str, str], list[Decision]] = defaultdict(list)
    for decision in verdicts:
        text = (decision.question, decision.answer) if decision.verdict == "correct" else ("", "")
        groups[(decision.verdict, *text)].append(decision)
    sizes = sorted((len(group) for group in groups.values()), reverse=True)
    if not sizes or (len(sizes) > 1 and sizes[0] == sizes[1]):
        return None
    largest = next(group for group in groups.values() if len(group) == sizes[0])
    return max(largest, key=lambda decision: decision.sequence)
