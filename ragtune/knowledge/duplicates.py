"""Finds passages that say the same as an earlier one, so that they are not indexed twice.

Two passages say the same if they have the same words, numbers and signs in the same order, below the same title and
headings. Case, white space, punctuation, invisible characters and markup do not count, except for the case of units and
options. Everything else does: a page that differs in a city, a date, a `not`, or in `-v` and `-V` is another text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ragtune.records import Chunk, content_id
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.segments import combining_marks

_CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_TOKEN = re.compile(
    r"(?<!\w)[-+]?\d+(?:[.,:/]\d+)*"  # numbers, dates and times
    rf"|[\w{combining_marks()}]+"
    r"|(?<=\w)(?:\+\+|\#)|[=!<>]=|->|[$€£¥₹₽%‰°±≤≥≠]"
    r"|(?<=\S )[<>=+*/&](?= \S)"  # an operator; at the start of a line `>`, `+` and `*` are markup
    r"|(?<=\w)\+|~~"  # the grade `A+`, and struck words
    r"|(?<=\w)-(?=\w)|(?<=\S)[/\\](?=\w)|[~!](?=\w)|[?？؟]"  # `5-7`, `and/or`, `~5`, `!ready`, a question
    "|[\u2190-\u2bff\U0001f000-\U0001faff]"  # arrows, stars, ticks, crosses and pictures
)
_CASED = re.compile(r"(?:(?<=\d)|(?<=\d )|(?<=\s-)|(?<=^-))[^\W\d_]{1,2}\b", re.MULTILINE)
"""A unit or an option, whose case says something: `5 mW` and `5 MW`, `-v` and `-V`."""
_EMPHASIS = re.compile(r"(?<!\w)_{1,3}(?=\w)|(?<=\w)_{1,3}(?!\w)")


def fingerprint(chunk: Chunk) -> str:
    """Return a hash of what a passage says; equal hashes mean that two passages say the same."""
    return _wording([chunk.title, *chunk.heading_path], chunk.text)


def same_under_other_titles(passages: Sequence[Chunk], others: Iterable[Chunk]) -> dict[str, list[Chunk]]:
    """Return {id of a passage: the others that say the same below the same headings, but under another title}.

    These are not duplicates: `Open from 9 to 5` under `Kiel` is no copy of what stands under `Bremen`, and each is
    found by the words of its own title.
    """
    prints = {passage.id: (_wording_without_title(passage), passage) for passage in passages}
    wanted = {wording for wording, _ in prints.values()}
    by_wording: dict[str, list[Chunk]] = {}
    for other in others:
        if (wording := _wording_without_title(other)) in wanted:
            by_wording.setdefault(wording, []).append(other)
    same = {
        passage_id: [other for other in by_wording.get(wording, ()) if other.title != passage.title]
        for passage_id, (wording, passage) in prints.items()
    }
    return {passage_id: with_text for passage_id, with_text in same.items() if with_text}


def _wording_without_title(chunk: Chunk) -> str:
    """Return a hash of what a passage says below its title, which may be the first line of its text as well."""
    first, _, rest = chunk.text.partition("\n")
    is_title = first.startswith("#") and first.lstrip("#").strip() == chunk.title
    return _wording(chunk.headings, rest if is_title else chunk.text)


def _wording(headings: Sequence[str], text: str) -> str:
    return content_id(*(" ".join(_tokens(heading)) for heading in headings), "\n", *_tokens(text))


def mark_duplicates(chunks: Sequence[Chunk], prints: Sequence[str]) -> list[Chunk]:
    """Return the chunks in order; repeated ones have `duplicate_of` set to the first chunk with their fingerprint."""
    originals: dict[str, str] = {}
    result = []
    for chunk, wording in zip(chunks, prints, strict=True):
        original = originals.setdefault(wording, chunk.id)
        result.append(chunk if original == chunk.id else replace(chunk, duplicate_of=original))
    return result


def _tokens(text: str) -> Iterator[str]:
    """Yield the words, numbers and signs of prose, and the lines of code as they are."""
    start = 0
    for block in _CODE_BLOCK.finditer(text):
        yield from _prose_tokens(text[start : block.start()])
        yield from (line.rstrip() for line in block[0].split("\n") if line.strip())
        start = block.end()
    yield from _prose_tokens(text[start:])


def _prose_tokens(text: str) -> list[str]:
    text = _EMPHASIS.sub("", normalize_for_search(text))
    cased = {match.start() for match in _CASED.finditer(text)}
    return [match[0] if match.start() in cased else match[0].lower() for match in _TOKEN.finditer(text)]
