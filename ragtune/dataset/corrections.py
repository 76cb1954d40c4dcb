"""Turns people's corrections into question and answer pairs, to pass the same checks as written ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ragtune.records import Chunk, FeedbackEvent, QAPair, content_id
from ragtune.text.sentences import line_sentence_spans
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

WRITER, CORRECTION = "feedback", "correction"


@dataclass(frozen=True, slots=True)
class Corrections:
    """The pairs, and the events that could not become one, each with the reason."""

    pairs: list[QAPair] = field(default_factory=list)
    dropped: list[tuple[FeedbackEvent, str]] = field(default_factory=list)


def corrected_pairs(events: Sequence[FeedbackEvent], chunks: Sequence[Chunk]) -> Corrections:
    """Return a pair per corrected question, its chunk the shown passage that says most of the answer.

    The newest correction of a question wins. Where the answer does not stand in the passage word
    for word, the span is that of the sentence that shares most words with it.
    """
    passages = {chunk.id: chunk for chunk in chunks if not chunk.duplicate_of}
    newest = {collapse_whitespace(event.question).lower(): event for event in events if event.correction}
    result = Corrections()
    for event in newest.values():
        shown = [passages[name] for name in (*event.cited_chunk_ids, *event.chunk_ids) if name in passages]
        if not shown:
            result.dropped.append((event, "none of the passages that were shown is still in the index"))
            continue
        result.pairs.append(_pair(event, shown))
    return result


def feedback_ids(pairs: Sequence[QAPair]) -> tuple[str, ...]:
    """Return the feedback rows behind the pairs, sorted."""
    return tuple(sorted({pair.feedback_id for pair in pairs if pair.feedback_id}))


def _pair(event: FeedbackEvent, shown: Sequence[Chunk]) -> QAPair:
    question, answer = collapse_whitespace(event.question), collapse_whitespace(event.correction)
    words = content_words(answer)
    chunk = max(shown, key=lambda one: (_literal(answer, one.text) is not None, len(words & content_words(one.text))))
    return QAPair(
        id=content_id(chunk.id, question, answer),
        question=question,
        answer=answer,
        kind=CORRECTION,
        document_id=chunk.document_id,
        chunk_id=chunk.id,
        span=_literal(answer, chunk.text) or _closest(words, chunk.text),
        topic=chunk.topic,
        writer=WRITER,
        feedback_id=event.id,
    )


def _literal(answer: str, text: str) -> tuple[int, int] | None:
    """Return where the answer stands in the text, whatever the white space and the last full stop."""
    words = [re.escape(word) for word in answer.rstrip(".").split()]
    found = re.search(r"\s+".join(words), text, re.IGNORECASE) if words else None
    return found.span() if found else None


def _closest(words: frozenset[str], text: str) -> tuple[int, int]:
    spans = line_sentence_spans(text)
    return max(spans, key=lambda span: len(words & content_words(text[slice(*span)])), default=(0, 0))
