"""Finds passages that say again what an earlier one said, so that they are not indexed twice.

Equal wording is found by hash, near-equal wording by MinHash and then checked exactly. Two
passages that differ in a number, a name or code are never duplicates of each other.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace

from ragtune.records import Chunk, content_id

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


def mark_duplicates(chunks: Sequence[Chunk], named: Set[str] = frozenset()) -> list[Chunk]:
    """Return the chunks in order, repeated ones with `duplicate_of` set to the first of their kind.

    Text under another heading is another text. Chunks in `named` (ids) and very short ones
    mean something only under their title, so they are compared with it.
    """
    originals: dict[str, str] = {}
    paragraphs: dict[str, str] = {}
    words = [_WORD.findall(chunk.text.lower()) for chunk in chunks]
    result: list[Chunk] = []
    for chunk, own in zip(chunks, words, strict=True):
        strict = chunk.id in named or len(own) < _SHORT
        context = (chunk.title, *chunk.heading_path) if strict else chunk.heading_path[-1:]
        original = originals.setdefault(content_id(*context, "\n", " ".join(chunk.text.lower().split())), chunk.id)
        if original == chunk.id and not strict:
            original = _known_paragraphs(chunk, paragraphs) or chunk.id
        result.append(replace(chunk, duplicate_of="" if original == chunk.id else original))
    free = [n for n, own in enumerate(words) if len(own) >= _SHORT and chunks[n].id not in named]
    return _mark_near(result, words, [n for n in free if not result[n].duplicate_of])


def _known_paragraphs(chunk: Chunk, paragraphs: dict[str, str]) -> str:
    """Return the chunk of another document that holds the last of this chunk's paragraphs, if all are known."""
    heading = " ".join(chunk.heading_path[-1:])
    texts = [" ".join(_WORD.findall(part.lower())) for part in re.split(r"\n\s*\n", chunk.text)]
    keys = [f"{heading}\n{text}" for text in texts if text]
    owners = [paragraphs.get(key, "") for key in keys]
    if keys and all(owners) and all(owner.split(" ")[0] != chunk.document_id for owner in owners):
        return owners[-1].split(" ")[1]
    for key in keys:
        paragraphs.setdefault(key, f"{chunk.document_id} {chunk.id}")
    return ""


def _mark_near(chunks: list[Chunk], words: Sequence[list[str]], candidates: Sequence[int]) -> list[Chunk]:
    import numpy as np
    from datasketch import MinHash, MinHashLSH

    shingles = {n: _shingles(words[n]) for n in candidates}
    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_BANDS)
    blank = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
    result = list(chunks)
    for n in candidates:
        sketch = blank.copy()
        sketch.update_batch(np.fromiter(shingles[n], dtype=np.uint64))
        for other in sorted(index.query(sketch)):
            if _jaccard(shingles[n], shingles[other]) >= _JACCARD and _facts(chunks[n]) == _facts(chunks[other]):
                result[n] = replace(chunks[n], duplicate_of=chunks[other].id)
                break
        else:
            index.insert(n, sketch, check_duplication=False)
    return result


def _facts(chunk: Chunk) -> tuple[tuple[str, ...], Counter[str]]:
    """Return what may not differ between duplicates: the heading, and names, numbers and code."""
    return chunk.heading_path[-1:], Counter(_HARD.findall(chunk.text))


def _shingles(words: Sequence[str]) -> set[int]:
    return {zlib.crc32(" ".join(words[at : at + _SHINGLE]).encode()) for at in range(max(len(words) - _SHINGLE + 1, 1))}


def _jaccard(a: set[int], b: set[int]) -> float:
    both = len(a & b)
    return both / (len(a) + len(b) - both)
