"""Clusters near-duplicate documents and finds questions about the same thing.

Documents are compared by their word triples; a cluster is everything that a chain of near duplicates connects.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from ragtune.dataset.question_words import question_words
from ragtune.records import Document
from ragtune.text.shingles import jaccard, near_pairs


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
