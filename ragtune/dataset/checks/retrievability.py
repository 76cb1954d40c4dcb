"""Scores whether a search with the question finds the passage that the pair was written from.

The search comes in as a function, so that this module knows no index.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from ragtune.records import Hit, QAPair

Search = Callable[[Sequence[str], int], list[list[Hit]]]
"""Takes queries and a limit; returns at most that many hits for each query, best first."""
MAX_RANK = 10
"""Chosen by hand; the index's own recall is reported at 10 too."""


def with_retrievability(pairs: Sequence[QAPair], search: Search) -> list[QAPair]:
    """Return the pairs in their order; each answerable one gets the score `retrievable` in 0..1.

    The score is 1 / rank of the pair's own chunk among the first ten hits for its question, and 0.0 if the chunk
    is not among them.
    """
    answerable = [pair for pair in pairs if pair.answerable]
    results = search([pair.question for pair in answerable], MAX_RANK) if answerable else []
    scores = {}
    for pair, hits in zip(answerable, results, strict=True):
        ids = [hit.chunk.id for hit in hits]
        scores[pair.id] = round(1 / (ids.index(pair.chunk_id) + 1), 3) if pair.chunk_id in ids else 0.0
    return [
        replace(pair, scores={**pair.scores, "retrievable": scores[pair.id]}) if pair.id in scores else pair
        for pair in pairs
    ]
