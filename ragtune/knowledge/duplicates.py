"""Finds passages that say again what an earlier one said, so that they are not indexed twice.

Equal wording is found by hash, near-equal wording by MinHash and then checked exactly. Two
passages that differ in a number, a name or code are never duplicates of each other.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from ragtune.records import Chunk, content_id

if TYPE_CHECKING:
    from datasketch import MinHash

_JACCARD = 0.9
_PERMUTATIONS = 64
_SHINGLE = 3
_SHORT = 12
_WORD = re.compile(r"\w+")
# Bands and rows of the locality-sensitive hash: a pair at Jaccard 0.9 is missed once in 26 million.
_BANDS = (16, 4)
_HARD = re.compile(
    r"```.*?```|`[^`\n]+`|[-+]?[\w.]*(?:\d|\w[._]\w|[a-z][A-Z])[\w.]*|\b[A-Z]{2,}\b|[=!<>]=|->", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a passage is compared by: hashes of its whole wording, of each paragraph, and of its MinHash bands.

    The latter two are empty for passages that are only compared whole.
    """

    wording: str
    paragraphs: tuple[str, ...] = ()
    bands: tuple[int, ...] = ()


def fingerprints(chunks: Sequence[Chunk], named: Set[str] = frozenset()) -> list[Fingerprint]:
    """Return the fingerprint of each passage, which depends on nothing but that passage.

    Text under another heading is another text. Chunks in `named` (ids) and very short ones
    mean something only under their title, so they are compared with it, and only whole.
    """
    return [_fingerprint(chunk, chunk.id in named) for chunk in chunks]


def mark_duplicates(chunks: Sequence[Chunk], prints: Sequence[Fingerprint]) -> list[Chunk]:
    """Return the chunks in order, repeated ones with `duplicate_of` set to the first of their kind."""
    originals: dict[str, str] = {}
    paragraphs: dict[str, Chunk] = {}
    result: list[Chunk] = []
    for chunk, own in zip(chunks, prints, strict=True):
        original = originals.setdefault(own.wording, chunk.id)
        if original == chunk.id and own.paragraphs:
            original = _known_paragraphs(chunk, own.paragraphs, paragraphs) or chunk.id
        result.append(chunk if original == chunk.id else replace(chunk, duplicate_of=original))
    return _mark_near(result, prints)


def _fingerprint(chunk: Chunk, named: bool) -> Fingerprint:
    words = _WORD.findall(chunk.text.lower())
    strict = named or len(words) < _SHORT
    context = (chunk.title, *chunk.heading_path) if strict else chunk.heading_path[-1:]
    wording = content_id(*context, "\n", " ".join(chunk.text.lower().split()))
    if strict:
        return Fingerprint(wording)
    heading = " ".join(chunk.heading_path[-1:])
    texts = [" ".join(_WORD.findall(part.lower())) for part in re.split(r"\n\s*\n", chunk.text)]
    return Fingerprint(wording, tuple(content_id(heading, text) for text in texts if text), _bands(_shingles(words)))


def _bands(shingles: set[int]) -> tuple[int, ...]:
    import numpy as np

    sketch = _blank_sketch().copy()
    sketch.update_batch(np.fromiter(shingles, dtype=np.uint64))
    return tuple(zlib.crc32(row.tobytes()) for row in sketch.hashvalues.reshape(_BANDS))


@cache
def _blank_sketch() -> "MinHash":
    from datasketch import MinHash

    return MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)


def _known_paragraphs(chunk: Chunk, keys: Sequence[str], paragraphs: dict[str, Chunk]) -> str:
    """Return the chunk of another document that holds the last of this chunk's paragraphs, if all are known."""
    owners = [paragraphs.get(key) for key in keys]
    known = [owner for owner in owners if owner is not None and owner.document_id != chunk.document_id]
    if len(known) == len(keys):
        return known[-1].id
    for key in keys:
        paragraphs.setdefault(key, chunk)
    return ""


def _mark_near(chunks: list[Chunk], prints: Sequence[Fingerprint]) -> list[Chunk]:
    """Mark passages near to an earlier one; those that share a band with it are compared exactly."""
    seen: dict[tuple[int, int], list[int]] = {}
    result = list(chunks)
    for n, own in enumerate(prints):
        if chunks[n].duplicate_of or not own.bands:
            continue
        keys = [*enumerate(own.bands)]
        near = {other for key in keys for other in seen.get(key, ())}
        same = next((other for other in sorted(near) if _say_the_same(chunks[n], chunks[other])), None)
        if same is None:
            for key in keys:
                seen.setdefault(key, []).append(n)
        else:
            result[n] = replace(chunks[n], duplicate_of=chunks[same].id)
    return result


def _say_the_same(one: Chunk, other: Chunk) -> bool:
    words = (_WORD.findall(chunk.text.lower()) for chunk in (one, other))
    return _jaccard(*map(_shingles, words)) >= _JACCARD and _facts(one) == _facts(other)


def _facts(chunk: Chunk) -> tuple[tuple[str, ...], Counter[str]]:
    """Return what may not differ between duplicates: the heading, and names, numbers and code."""
    return chunk.heading_path[-1:], Counter(_HARD.findall(chunk.text))


def _shingles(words: Sequence[str]) -> set[int]:
    return {zlib.crc32(" ".join(words[at : at + _SHINGLE]).encode()) for at in range(max(len(words) - _SHINGLE + 1, 1))}


def _jaccard(a: set[int], b: set[int]) -> float:
    both = len(a & b)
    return both / (len(a) + len(b) - both)
