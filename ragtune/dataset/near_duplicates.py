"""Finds near-duplicate documents and questions: MinHash proposes, exact Jaccard decides.

Documents are compared by word triples; a cluster is everything that a chain of near
duplicates connects.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ragtune.dataset.question_words import question_words
from ragtune.records import Document

PERMUTATIONS = 128
_WORD = re.compile(r"[^\W_]+")


def shingles(text: str, size: int = 3) -> frozenset[str]:
    """Return the distinct runs of `size` lower-case words; a shorter text is one shingle."""
    words = _WORD.findall(text.lower())
    if len(words) <= size:
        return frozenset([" ".join(words)]) if words else frozenset()
    return frozenset(" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the size of the intersection over the size of the union; 0.0 for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def near_pairs(texts: Sequence[str], threshold: float, seed: int = 1) -> Iterator[tuple[int, int]]:
    """Yield index pairs (smaller first) whose word triples have at least that Jaccard similarity.

    MinHash with datasketch proposes (at a lower threshold, so that few are missed), exact Jaccard decides.
    """
    from datasketch import MinHash, MinHashLSH

    sets = [shingles(text) for text in texts]
    # Few rows to a band: recall over precision, because the exact comparison follows.
    rows = 2 if threshold < 0.5 else 4
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(PERMUTATIONS // rows, rows))
    for place, found in enumerate(sets):
        if not found:
            continue
        sketch = MinHash(num_perm=PERMUTATIONS, seed=seed)
        sketch.update_batch([shingle.encode() for shingle in sorted(found)])
        for other in sorted(index.query(sketch)):
            smaller, larger = sorted((len(sets[other]), len(found)))
            if smaller >= threshold * larger and jaccard(sets[other], found) >= threshold:
                yield other, place
        index.insert(place, sketch)


def clusters(documents: Sequence[Document], threshold: float, also: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Return {document id: cluster name}; the name is the smallest id in the cluster.

    `also` joins further pairs of document ids, such as those that near-duplicate questions connect.
    """
    parent = {document.id: document.id for document in documents}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    def join(a: str, b: str) -> None:
        low, high = sorted((root(a), root(b)))
        parent[high] = low

    for i, j in near_pairs([document.text for document in documents], threshold):
        join(documents[i].id, documents[j].id)
    for a, b in also:
        if a in parent and b in parent:
            join(a, b)
    return {name: root(name) for name in parent}


def near_questions(questions: Sequence[str], threshold: float = 0.8) -> Iterator[tuple[int, int]]:
    """Yield index pairs of questions about the same thing: equal identifiers and mostly equal words.

    The wording of a template does not count, so `What is X?` and `What does X do?` are near, and the
    same question about X and Y is not.
    """
    words = [question_words(question) for question in questions]
    by_word: dict[str, list[int]] = defaultdict(list)
    for place, found in enumerate(words):
        rare = sorted(found, key=lambda word: (-len(word), word))[:2]
        seen: set[int] = set()
        for word in rare:
            seen.update(by_word[word])
            by_word[word].append(place)
        for other in sorted(seen):
            if jaccard(words[other], found) >= threshold:
                yield other, place
