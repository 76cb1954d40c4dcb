"""Clusters near-duplicate documents and finds questions about the same thing.

Documents are compared by their word triples; a cluster is everything that a chain of near duplicates connects.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ragtune.dataset.extractive.wording import WORDINGS
from ragtune.records import Document
from ragtune.text.shingles import jaccard, near_pairs
from ragtune.text.words import STOP_WORDS

_TOKEN = re.compile(r"[\w.]*\w")
# A template's own words say nothing about what is asked.
_ASKING = frozenset(
    word.lower()
    for templates in WORDINGS.values()
    for template in templates
    for word in _TOKEN.findall(re.sub(r"\{\w+\}", " ", template))
)


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


def question_words(question: str) -> frozenset[str]:
    """Return what a question is about: identifiers whole, other words without the asking ones."""
    words = (word.lower() for word in _TOKEN.findall(question))
    return frozenset(word for word in words if word not in STOP_WORDS["en"] and word not in _ASKING)


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
