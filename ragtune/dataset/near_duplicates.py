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
    return frozenset(word for word in words if word not in STOP_WORDS["en"] and word not in _ASKING)


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
