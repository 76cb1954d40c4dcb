"""Splits text into sentences.

Sentences are offsets into the text, so that an answer stays a span of its passage.
"""

import re
from collections.abc import Iterator, Mapping

Span = tuple[int, int]
"""Start and end offsets, the end exclusive."""

ABBREVIATIONS: Mapping[str, tuple[str, ...]] = {
    "en": ("e.g", "i.e", "etc", "vs", "cf", "approx", "resp", "Eq", "Fig", "Sec", "No", "Dr", "Mr", "St"),
}
"""Abbreviations whose full stop ends no sentence, by ISO 639-1 code; all of them hold in every text."""

_ABBREVIATED = "|".join(re.escape(word) for words in ABBREVIATIONS.values() for word in words)
# An abbreviation, an initial ("J. Smith"), or the number of a list item ("1. Install it").
_NO_END = re.compile(rf"\b(?:{_ABBREVIATED}|[A-Z])\.$|^\(?\d+\.$")
# Scripts without spaces have none behind a sentence either.
_END = re.compile(r"[.!?؟۔।][\"'`’”»)\]]*(?=\s|$)|[。！？｡]+[\"'`’”)\]」』）】》〉]*")
# What may stand before the first letter of a sentence, and markup that a sentence may begin with.
_OPENING = " \t\n\"'“‘([«「『（【《〈¿¡"
_MARKUP = "`*_"
# A blank line, or a line end before a list item.
_BLOCK_END = re.compile(r"\n\s*\n|\n\s*(?:[-*+]|\d+[.)]) ")


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> Iterator[Span]:
    """Yield the spans of the sentences between two offsets, without white space around them.

    A sentence ends at a full stop, question mark or exclamation mark before white space, except inside brackets
    and backticks, after an abbreviation, and before anything but a capital, a digit or markup. The marks 。！？ need
    no white space. Blank lines and list items end a sentence too.
    """
    end = len(text) if end is None else end
    position = start
    while position < end:
        while position < end and text[position].isspace():
            position += 1
        if position >= end:
            return
        stop = _sentence_end(text, position, end)
        last = stop
        while last > position and text[last - 1].isspace():
            last -= 1
        if last > position:
            yield position, last
        position = stop


def line_sentence_spans(text: str) -> Iterator[Span]:
    """Yield the spans of the sentences of every line; here a line end always ends a sentence."""
    start = 0
    for line in text.splitlines(keepends=True):
        yield from sentence_spans(text, start, start + len(line))
        start += len(line)


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, without white space around them."""
    return [text[start:end] for start, end in sentence_spans(text)]


def brackets_closed(text: str) -> bool:
    """Return whether no bracket or backtick is left open."""
    pairs = ("()", "[]") if text.isascii() else ("()", "[]", "（）", "「」", "『』")
    return text.count("`") % 2 == 0 and all(text.count(pair[0]) <= text.count(pair[1]) for pair in pairs)


def _sentence_end(text: str, start: int, end: int) -> int:
    block_end = _BLOCK_END.search(text, start, end)
    limit = block_end.start() if block_end else end
    for mark in _END.finditer(text, start, limit):
        if _NO_END.search(text[start : mark.start() + 1]) or not brackets_closed(text[start : mark.end()]):
            continue
        following = text[mark.end() : limit].lstrip(_OPENING)
        if not following or _begins_sentence(following[0]):
            return mark.end()
    return limit


def _begins_sentence(character: str) -> bool:
    return character in _MARKUP or (character.isalnum() and not character.islower())
