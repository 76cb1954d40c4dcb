"""Finds passages that repeat an earlier one, so that they are not indexed twice.

Equal wording is found by hash, near-equal wording by MinHash and then checked exactly. Two
passages that differ in a number, a name or code are never duplicates of each other.
"""

import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from ragtune.records import Chunk, content_id
from ragtune.text.shingles import BandIndex, Bands, jaccard, minhash_bands, plain_words, shingles
from ragtune.text.whitespace import collapse_whitespace

# Chosen by hand: in a passage of 60 words one may differ, because a changed word changes three shingles.
_JACCARD = 0.9
# A pair at Jaccard 0.9 is missed once in 26 million.
_BANDS = Bands(16, 4)
# Chosen by hand; not sensitive. Below this a passage ("No.", "Deprecated.") depends on its title.
_SHORT_WORDS = 12
_FACT = re.compile(
    r"```.*?```|`[^`\n]+`|[-+]?[\w.]*(?:\d|\w[._]\w|[a-z][A-Z])[\w.]*|\b[A-Z]{2,}\b|[=!<>]=|->", re.DOTALL
)
_PARAGRAPH_END = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a passage is compared by: hashes of its whole wording, of each paragraph, and of its MinHash bands.

    Paragraphs and bands are empty for passages that are only compared whole.
    """

    wording: str
    paragraphs: tuple[str, ...] = ()
    bands: tuple[int, ...] = ()


def fingerprints(chunks: Sequence[Chunk], title_bound: Set[str] = frozenset()) -> list[Fingerprint]:
    """Return the fingerprint of each passage, which depends on that passage alone.

    Equal text under different headings gets different fingerprints. Very short chunks and those whose ids are in
    `title_bound` mean something only under their title, so they are compared with it, and only whole.
    """
    return [_fingerprint(chunk, chunk.id in title_bound) for chunk in chunks]


def mark_duplicates(chunks: Sequence[Chunk], prints: Sequence[Fingerprint]) -> list[Chunk]:
    """Return the chunks in order; repeated ones have `duplicate_of` set to the chunk that they repeat."""
    originals: dict[str, str] = {}
    paragraph_owners: dict[str, Chunk] = {}
    result: list[Chunk] = []
    for chunk, fingerprint in zip(chunks, prints, strict=True):
        original = originals.setdefault(fingerprint.wording, chunk.id)
        if original == chunk.id and fingerprint.paragraphs:
            original = _repeated_paragraphs(chunk, fingerprint.paragraphs, paragraph_owners) or chunk.id
        result.append(chunk if original == chunk.id else replace(chunk, duplicate_of=original))
    return _mark_near_duplicates(result, prints)


def _fingerprint(chunk: Chunk, title_bound: bool) -> Fingerprint:
    whole_only = title_bound or len(plain_words(chunk.text)) < _SHORT_WORDS
    context = (chunk.title, *chunk.heading_path) if whole_only else chunk.heading_path[-1:]
    wording = content_id(*context, "\n", collapse_whitespace(chunk.text.lower()))
    if whole_only:
        return Fingerprint(wording)
    heading = " ".join(chunk.heading_path[-1:])
    paragraphs = [" ".join(plain_words(part)) for part in _PARAGRAPH_END.split(chunk.text)]
    return Fingerprint(
        wording,
        tuple(content_id(heading, paragraph) for paragraph in paragraphs if paragraph),
        minhash_bands(shingles(chunk.text), _BANDS),
    )


def _repeated_paragraphs(chunk: Chunk, keys: Sequence[str], owners: dict[str, Chunk]) -> str:
    """Return the id of the chunk that holds the last paragraph, if other documents hold all paragraphs, else ""."""
    earlier = [owners.get(key) for key in keys]
    elsewhere = [owner for owner in earlier if owner is not None and owner.document_id != chunk.document_id]
    if len(elsewhere) == len(keys):
        return elsewhere[-1].id
    for key in keys:
        owners.setdefault(key, chunk)
    return ""


def _mark_near_duplicates(chunks: list[Chunk], prints: Sequence[Fingerprint]) -> list[Chunk]:
    """Mark passages nearly equal to an earlier one; those that share a MinHash band with it are compared exactly."""
    index = BandIndex()
    result = list(chunks)
    for place, fingerprint in enumerate(prints):
        if chunks[place].duplicate_of or not fingerprint.bands:
            continue
        candidates = index.candidates(fingerprint.bands)
        original = next((other for other in candidates if _near_duplicates(chunks[place], chunks[other])), None)
        if original is None:
            index.add(place, fingerprint.bands)
        else:
            result[place] = replace(chunks[place], duplicate_of=chunks[original].id)
    return result


def _near_duplicates(one: Chunk, other: Chunk) -> bool:
    return jaccard(shingles(one.text), shingles(other.text)) >= _JACCARD and _facts(one) == _facts(other)


def _facts(chunk: Chunk) -> tuple[tuple[str, ...], Counter[str]]:
    """Return what may not differ between duplicates: the heading, and names, numbers and code."""
    return chunk.heading_path[-1:], Counter(_FACT.findall(chunk.text))
