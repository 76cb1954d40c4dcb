"""Finds near-duplicate documents and questions: MinHash proposes candidates, exact Jaccard similarity decides.

Documents are compared by their word triples. A cluster is everything that a chain of near duplicates connects.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ragtune.dataset.extractive.wording import WORDINGS
from ragtune.dataset.sentences import STOP_WORDS
from ragtune.records import Document

PERMUTATIONS = 128
"""datasketch's default; tests/test_splits.py compares what it finds with a comparison of all pairs."""
_WORD = re.compile(r"[^\W_]+")
_TOKEN = re.compile(r"[\w.]*\w")
# A template's own words say nothing about what is asked.
_ASKING = frozenset(
    word.lower()
    for templates in WORDINGS.values()
    for template in templates
    for word in _TOKEN.findall(re.sub(r"\{\w+\}", " ", template))
)


def shingles(text: str, size: int = 3) -> frozenset[str]:
    """Return the distinct runs of `size` lower-case words; a text that is not longer is one shingle."""
    words = _WORD.findall(text.lower())
    if len(words) <= size:
        return frozenset([" ".join(words)]) if words else frozenset()
    return frozenset(" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the size of the intersection divided by that of the union, or 0.0 for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def near_pairs(texts: Sequence[str], threshold: float, seed: int = 1) -> Iterator[tuple[int, int]]:
    """Yield the positions (smaller one first) of every two texts whose Jaccard similarity is at least `threshold`.

    datasketch's MinHash proposes candidates at a lower threshold, so that few are missed; the exact similarity of
    their word triples decides.
    """
    from datasketch import MinHash, MinHashLSH

    sets = [shingles(text) for text in texts]
    # Few rows per band favour recall over precision, because the exact comparison follows. Chosen by hand.
    rows = 2 if threshold < 0.5 else 4
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(PERMUTATIONS // rows, rows))
    for position, triples in enumerate(sets):
        if not triples:
            continue
        sketch = MinHash(num_perm=PERMUTATIONS, seed=seed)
        sketch.update_batch([triple.encode() for triple in sorted(triples)])
        for other in sorted(index.query(sketch)):
            smaller, larger = sorted((len(sets[other]), len(triples)))
            # Sets of very different sizes cannot be that similar, and comparing sizes is cheap.
            if smaller >= threshold * larger and jaccard(sets[other], triples) >= threshold:
                yield other, position
        index.insert(position, sketch)


def clusters(documents: Sequence[Document], threshold: float, links: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Return {document id: name of its cluster}; the name is the smallest document id in the cluster.

    `links` are ids of further documents to join, two by two, such as those with near-duplicate questions.
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
    for a, b in links:
        if a in parent and b in parent:
            join(a, b)
    return {name: root(name) for name in parent}


def question_words(question: str) -> frozenset[str]:
    """Return the words that say what a question is about, without those that only ask; identifiers stay whole."""
    words = (word.lower() for word in _TOKEN.findall(question))
    return frozenset(word for word in words if word not in STOP_WORDS and word not in _ASKING)


def near_questions(questions: Sequence[str], threshold: float = 0.8) -> Iterator[tuple[int, int]]:
    """Yield the positions of every two questions about the same thing: equal identifiers and mostly equal words.

    Words that only ask do not count. So `What is X?` and `What does X do?` are near, and the same question about X
    and about Y is not.
    """
    word_sets = [question_words(question) for question in questions]
    positions_by_word: dict[str, list[int]] = defaultdict(list)
    for position, words in enumerate(word_sets):
        # Long words are rare. Near questions nearly always share one of their two longest.
        longest = sorted(words, key=lambda word: (-len(word), word))[:2]
        candidates: set[int] = set()
        for word in longest:
            candidates.update(positions_by_word[word])
            positions_by_word[word].append(position)
        for other in sorted(candidates):
            if jaccard(word_sets[other], words) >= threshold:
                yield other, position
