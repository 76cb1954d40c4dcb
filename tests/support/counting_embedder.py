"""A quick embedder for tests that counts what it embeds: hashed words, so that like texts are near."""

import hashlib
from collections.abc import Sequence

import numpy as np

from ragtune.ports import Embedder, Progress, silent


class CountingEmbedder(Embedder):
    """Bags of hashed words in 32 dimensions; `embedded` lists every text it was given."""

    max_tokens = 256

    def __init__(self, name: str = "words", dimension: int = 32) -> None:
        self.name, self.dimension = name, dimension
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Return one unit vector per text."""
        self.embedded += texts
        vectors = np.full((len(texts), self.dimension), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, hashlib.sha256(word.encode()).digest()[0] % self.dimension] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of words."""
        return [len(text.split()) for text in texts]
