"""Finds the words in a passage that a claim of an answer rests on, so that a page can mark them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ragtune.text.sentences import line_sentence_spans
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

_WORD = re.compile(r"\w+(?:[.'_-]\w+)*")
_QUOTES = "\"'“”‘’ "


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text, marked or not."""

    text: str
    marked: bool = False


def marked(text: str, claim: str) -> list[Segment]:
    """Return the text in segments; those that the claim rests on are marked.

    A claim that stands in the text word for word is marked whole. Otherwise the words that it shares with the sentences
    that have most of them are marked. Joined, the segments are the text.
    """
    span = literal_span(text, claim)
    return cut(text, [span] if span else list(_shared_words(text, claim)))


def literal_span(text: str, claim: str) -> tuple[int, int] | None:
    """Return where the text has the claim word for word, whatever the white space and the quotes around it, or None."""
    words = collapse_whitespace(claim).strip(_QUOTES).rstrip(".").split()
    if not words:
        return None
    match = re.search(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE)
    return match.span() if match else None


def _shared_words(text: str, claim: str) -> Iterator[tuple[int, int]]:
    """Yield the runs of words that the claim shares with the sentences that have at least half as many as the best."""
    wanted = content_words(claim)
    sentences = list(line_sentence_spans(text))
    shares = [len(wanted & content_words(text[start:end])) for start, end in sentences]
    most = max(shares, default=0)
    for (start, end), share in zip(sentences, shares, strict=True):
        if not share or 2 * share < most:
            continue
        run: tuple[int, int] | None = None
        for match in _WORD.finditer(text, start, end):
            if not content_words(match[0]) & wanted:
                continue
            if run and not text[run[1] : match.start()].strip():
                run = (run[0], match.end())
                continue
            if run:
                yield run
            run = match.span()
        if run:
            yield run


def cut(text: str, spans: Sequence[tuple[int, int]]) -> list[Segment]:
    """Return the text in segments; those at the spans, which are in order, are marked."""
    segments, copied = [], 0
    for start, end in spans:
        segments += [Segment(text[copied:start]), Segment(text[start:end], marked=True)]
        copied = end
    segments.append(Segment(text[copied:]))
    return [segment for segment in segments if segment.text]
