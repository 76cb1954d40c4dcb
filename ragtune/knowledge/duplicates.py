"""Finds passages that say the same as an earlier one, so that they are not indexed twice.

Two passages say the same if they have the same words, numbers and signs in the same order, below the same title and
headings. Case, white space, punctuation, invisible characters and markup do not count. Everything else does: a page
that differs in a city, a date or a `not` is another text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ragtune.records import Chunk, content_id
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.segments import combining_marks

_CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_TOKEN = re.compile(
    r"(?<!\w)[-+]?\d+(?:[.,:/]\d+)*"  # numbers, dates and times
    rf"|[\w{combining_marks()}]+"
    r"|(?<=\w)(?:\+\+|\#)|[=!<>]=|->|[$€£¥₹₽%‰°±≤≥≠]"
    r"|(?<=\S )[<>=+](?= \S)"  # a comparison; at the start of a line `>` and `+` are markup
)
_EMPHASIS = re.compile(r"(?<!\w)_{1,3}(?=\w)|(?<=\w)_{1,3}(?!\w)")


def fingerprint(chunk: Chunk) -> str:
    """Return a hash of what a passage says; equal hashes mean that two passages say the same."""
    parts = [" ".join(_tokens(part)) for part in (chunk.title, *chunk.heading_path)]
    return content_id(*parts, "\n", *_tokens(chunk.text))


def mark_duplicates(chunks: Sequence[Chunk], prints: Sequence[str]) -> list[Chunk]:
    """Return the chunks in order; repeated ones have `duplicate_of` set to the first chunk with their fingerprint."""
    originals: dict[str, str] = {}
    result = []
    for chunk, wording in zip(chunks, prints, strict=True):
        original = originals.setdefault(wording, chunk.id)
        result.append(chunk if original == chunk.id else replace(chunk, duplicate_of=original))
    return result


def _tokens(text: str) -> Iterator[str]:
    """Yield the words, numbers and signs of prose in lower case, and the lines of code as they are."""
    start = 0
    for block in _CODE_BLOCK.finditer(text):
        yield from _prose_tokens(text[start : block.start()])
        yield from (line.rstrip() for line in block[0].split("\n") if line.strip())
        start = block.end()
    yield from _prose_tokens(text[start:])


def _prose_tokens(text: str) -> list[str]:
    return _TOKEN.findall(_EMPHASIS.sub("", normalize_for_search(text).lower()))
