"""Compares questions by their embeddings: how near the nearest one is, and which of them are paraphrases.

The embedder comes in as a function, so that this module knows no model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ragtune.dataset.checks.word_overlap import token_overlap
from ragtune.records import QAPair

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

Embed = Callable[[Sequence[str]], "Vectors"]
"""Takes texts; returns an array of shape (texts, dimension) whose rows have length 1."""
MIN_ANSWER_F1 = 0.8
"""Token F1 from which two answers say the same; chosen by hand, not measured."""
MIN_ANSWER_WORDS = 4
"""Shorter answers (`int`, `True`) are equal by chance; chosen by hand, not measured."""
_BLOCK_ROWS = 1024
"""Questions that are compared with all others at once; bounds memory, changes no result."""


def cached_embedder(embed: Embed) -> Embed:
    """Return a function that embeds each distinct text once, however often it is called."""
    import numpy as np

    vectors: dict[str, npt.NDArray[np.float32]] = {}

    def embed_once(texts: Sequence[str]) -> "Vectors":
        new = list(dict.fromkeys(text for text in texts if text not in vectors))
        vectors.update(zip(new, embed(new) if new else (), strict=True))
        return np.stack([vectors[text] for text in texts])

    return embed_once


def with_nearness(pairs: Sequence[QAPair], embed: Embed) -> list[QAPair]:
    """Return the pairs in their order with the score `nearest`: the cosine to the most similar other question."""
    import numpy as np

    nearest = np.zeros(len(pairs), dtype=np.float32)
    for first, cosines in _cosine_blocks(pairs, embed):
        rows = np.arange(len(cosines))
        cosines[rows, first + rows] = 0.0
        nearest[first : first + len(cosines)] = cosines.max(axis=1)
    return [
        replace(pair, scores={**pair.scores, "nearest": round(min(max(float(value), 0.0), 1.0), 3)})
        for pair, value in zip(pairs, nearest, strict=True)
    ]


def paraphrase_pairs(pairs: Sequence[QAPair], embed: Embed, min_cosine: float) -> list[tuple[str, str]]:
    """Return the ids of every two pairs that ask nearly the same and have nearly the same answer.

    Questions count as near from `min_cosine` on. Pairs whose answer has fewer than four words are left out: two
    functions may share a default value and nothing else.
    """
    import numpy as np

    candidates = [pair for pair in pairs if pair.answerable and len(pair.answer.split()) >= MIN_ANSWER_WORDS]
    matches = []
    for first, cosines in _cosine_blocks(candidates, embed):
        for row, column in np.argwhere(cosines >= min_cosine):
            pair, other = candidates[first + row], candidates[column]
            if first + row < column and token_overlap(pair.answer, other.answer) >= MIN_ANSWER_F1:
                matches.append((pair.id, other.id))
    return matches


def _cosine_blocks(pairs: Sequence[QAPair], embed: Embed) -> "Iterator[tuple[int, Vectors]]":
    """Yield (number of the first row, cosines of a block of questions with all questions), block by block."""
    if pairs:
        vectors = embed([pair.question for pair in pairs])
        for first in range(0, len(pairs), _BLOCK_ROWS):
            yield first, vectors[first : first + _BLOCK_ROWS] @ vectors.T
