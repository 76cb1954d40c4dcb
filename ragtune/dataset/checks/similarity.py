"""What an embedder and an index say of pairs: whether a question finds its passage, and which questions mean the same.

Embedder and index come in as functions, so that this layer knows neither.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ragtune.dataset.checks.baseline import token_overlap
from ragtune.records import Hit, QAPair

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

Embed = Callable[[Sequence[str]], "Vectors"]
"""Returns an array of shape (texts, dimension), rows of length 1."""
Search = Callable[[Sequence[str], int], list[list[Hit]]]
"""Returns up to so many hits for each text, best first."""
REACH = 10
SAME_ANSWER = 0.8
FEWEST_ANSWER_WORDS = 4
_ROWS = 1024


def remembered(embed: Embed) -> Embed:
    """Return an embedder that embeds each text once, however often it is asked."""
    import numpy as np

    known: dict[str, npt.NDArray[np.float32]] = {}

    def once(texts: Sequence[str]) -> "Vectors":
        new = list(dict.fromkeys(text for text in texts if text not in known))
        known.update(zip(new, embed(new) if new else (), strict=True))
        return np.stack([known[text] for text in texts])

    return once


def with_retrievability(pairs: Sequence[QAPair], search: Search) -> list[QAPair]:
    """Return the pairs in their order; answerable ones have the score `retrievable` in 0..1.

    It is 1 / rank of the pair's own chunk among the first ten hits for its question, 0.0 when it is not there.
    """
    asked = [pair for pair in pairs if pair.answerable]
    found = search([pair.question for pair in asked], REACH) if asked else []
    ranks = {}
    for pair, hits in zip(asked, found, strict=True):
        ids = [hit.chunk.id for hit in hits]
        ranks[pair.id] = round(1 / (ids.index(pair.chunk_id) + 1), 3) if pair.chunk_id in ids else 0.0
    return [_scored(pair, "retrievable", ranks[pair.id]) if pair.id in ranks else pair for pair in pairs]


def with_nearness(pairs: Sequence[QAPair], embed: Embed) -> list[QAPair]:
    """Return the pairs in their order with the score `nearest`: the cosine to the most similar other question."""
    import numpy as np

    best = np.zeros(len(pairs), dtype=np.float32)
    for first, similar in _similarities(pairs, embed):
        rows = np.arange(len(similar))
        similar[rows, first + rows] = 0.0
        best[first : first + len(similar)] = similar.max(axis=1)
    return [
        _scored(pair, "nearest", round(min(max(float(value), 0.0), 1.0), 3))
        for pair, value in zip(pairs, best, strict=True)
    ]


def same_meaning(pairs: Sequence[QAPair], embed: Embed, threshold: float) -> list[tuple[str, str]]:
    """Return ids of pairs that ask nearly the same and are answered nearly the same, in the order of the pairs.

    Questions are near from that cosine on. Answers of fewer than four words say too little to count: two
    functions may share a default and nothing else.
    """
    import numpy as np

    told = [pair for pair in pairs if pair.answerable and len(pair.answer.split()) >= FEWEST_ANSWER_WORDS]
    found = []
    for first, similar in _similarities(told, embed):
        for row, column in np.argwhere(similar >= threshold):
            one, other = told[first + row], told[column]
            if first + row < column and token_overlap(one.answer, other.answer) >= SAME_ANSWER:
                found.append((one.id, other.id))
    return found


def _similarities(pairs: Sequence[QAPair], embed: Embed) -> "Iterator[tuple[int, Vectors]]":
    """Yield (first row, cosines of some rows with all) over the questions, so that memory stays small."""
    if pairs:
        vectors = embed([pair.question for pair in pairs])
        for first in range(0, len(pairs), _ROWS):
            yield first, vectors[first : first + _ROWS] @ vectors.T


def _scored(pair: QAPair, name: str, value: float) -> QAPair:
    return replace(pair, scores={**pair.scores, name: value})
