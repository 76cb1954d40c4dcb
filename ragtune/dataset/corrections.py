"""Turns users' corrections of answers into question and answer pairs, which pass the same checks as written pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ragtune.dataset.answer_spans import closest_sentence, literal_span
from ragtune.records import Chunk, FeedbackEvent, QAPair, content_id
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

WRITER, CORRECTION = "feedback", "correction"


@dataclass(frozen=True, slots=True)
class Corrections:
    """Pairs made from corrections, and the events that gave no pair, each with the reason."""

    pairs: list[QAPair] = field(default_factory=list)
    dropped: list[tuple[FeedbackEvent, str]] = field(default_factory=list)


def corrected_pairs(events: Sequence[FeedbackEvent], chunks: Sequence[Chunk]) -> Corrections:
    """Return a pair for each corrected question.

    The newest correction of a question wins. The pair's chunk is the passage, of those that the user saw, that
    contains the corrected answer or shares the most words with it. If no passage contains the answer word for word,
    the span is that of the sentence that shares the most words with it.
    """
    chunk_by_id = {chunk.id: chunk for chunk in chunks if not chunk.duplicate_of}
    newest = {collapse_whitespace(event.question).lower(): event for event in events if event.correction}
    result = Corrections()
    for event in newest.values():
        passages = [chunk_by_id[name] for name in (*event.cited_chunk_ids, *event.chunk_ids) if name in chunk_by_id]
        if not passages:
            result.dropped.append((event, "none of the passages that were shown is still in the index"))
            continue
        result.pairs.append(_pair(event, passages))
    return result


def feedback_ids(pairs: Sequence[QAPair]) -> tuple[str, ...]:
    """Return the ids of the feedback events that the pairs were made from, sorted."""
    return tuple(sorted({pair.feedback_id for pair in pairs if pair.feedback_id}))


def _pair(event: FeedbackEvent, passages: Sequence[Chunk]) -> QAPair:
    question, answer = collapse_whitespace(event.question), collapse_whitespace(event.correction)
    words = content_words(answer)

    def rank(chunk: Chunk) -> tuple[bool, int]:
        return literal_span(answer, chunk.text) is not None, len(words & content_words(chunk.text))

    chunk = max(passages, key=rank)
    return QAPair(
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
