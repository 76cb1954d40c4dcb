"""Compares texts by their word triples: MinHash proposes pairs, exact Jaccard similarity decides.

Broder 1997, "On the resemblance and containment of documents".
"""

import zlib
from collections.abc import Iterator, Sequence, Set
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ragtune.text.normal_form import normalize_for_search
from ragtune.text.segments import split_words

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE_WORDS = 3
"""Words of a shingle. Chosen by hand; Jaccard thresholds are meant for this length."""


class Bands(NamedTuple):
    """The shape of a locality-sensitive hash: two texts become candidates if one whole band is equal.

    A pair at Jaccard similarity s is missed with probability (1 - s ** rows) ** number.
    """

    number: int
    rows: int


class BandIndex:
    """Finds, among the items added so far, those that share a band with a new one."""

    def __init__(self) -> None:
        self._items: dict[tuple[int, int], list[int]] = {}

    def candidates(self, bands: Sequence[int]) -> list[int]:
        """Return the items that share at least one band, in ascending order."""
        return sorted({item for key in enumerate(bands) for item in self._items.get(key, ())})

    def add(self, item: int, bands: Sequence[int]) -> None:
        """Make an item a candidate of those that are looked up later."""
        for key in enumerate(bands):
            self._items.setdefault(key, []).append(item)


def plain_words(text: str) -> list[str]:
    """Return the words of a text in search form and lower case, without punctuation."""
    return split_words(normalize_for_search(text).lower())


def shingles(text: str, size: int = SHINGLE_WORDS) -> frozenset[int]:
    """Return the hashes of all runs of `size` words; a text of fewer words is one shingle, an empty one has none."""
    words = plain_words(text)
    runs = range(max(len(words) - size + 1, 1)) if words else ()
    return frozenset(zlib.crc32(" ".join(words[start : start + size]).encode()) for start in runs)


def jaccard(a: Set[object], b: Set[object]) -> float:
    """Return the size of the intersection over the size of the union; 0.0 for two empty sets."""
    shared = len(a & b)
    union = len(a) + len(b) - shared
    return shared / union if union else 0.0


def minhash_bands(hashes: Set[int], shape: Bands) -> tuple[int, ...]:
    """Return one hash per band of the MinHash signature; the same set always gives the same bands."""
    import numpy as np

    sketch = _empty_sketch(shape.number * shape.rows).copy()
    sketch.update_batch(np.fromiter(hashes, dtype=np.uint64))
    return tuple(zlib.crc32(band.tobytes()) for band in sketch.hashvalues.reshape(shape))


def near_pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield the index pairs, smaller first, of texts whose shingles have at least that Jaccard similarity."""
    shape = _bands_for(threshold)
    shingle_sets = [shingles(text) for text in texts]
    index = BandIndex()
    for place, hashes in enumerate(shingle_sets):
        if not hashes:
            continue
        bands = minhash_bands(hashes, shape)
        for other in index.candidates(bands):
            smaller, larger = sorted((len(shingle_sets[other]), len(hashes)))
            if smaller >= threshold * larger and jaccard(shingle_sets[other], hashes) >= threshold:
                yield other, place
        index.add(place, bands)


def _bands_for(threshold: float) -> Bands:
    """Return bands that miss at most 1 pair in 4,000 at thresholds of 0.35 and more.

    Few rows give many candidates, which costs little because the exact comparison follows.
    """
    return Bands(64, 2) if threshold < 0.7 else Bands(32, 4)


@cache
def _empty_sketch(permutations: int) -> "MinHash":
    from datasketch import MinHash

    return MinHash(num_perm=permutations, seed=1, hashfunc=int)
