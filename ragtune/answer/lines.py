"""Scores the lines of passages by how similar their meaning is to that of a question."""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

from ragtune.knowledge.excerpts import split_lines
from ragtune.ports import Embedder
from ragtune.records import Chunk

if TYPE_CHECKING:
    from ragtune.ports import Vectors

_KEPT_CHUNKS = 4096
"""Chunks whose vectors are kept: about 25 MB at 8 lines of 384 numbers of 16 bits. Chosen by hand, not measured."""


class LineSimilarity:
    """Compares a question with every line of some passages by their vectors.

    A line is embedded together with the title and the heading of its passage, because "It closes at five" says little
    without them. Vectors of lines are kept for the passages used last. Safe for several threads.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self._kept: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = Lock()

    def __call__(self, question: str, chunks: Sequence[Chunk]) -> list[list[float]]:
        """Return for each chunk the cosine of the question to each of its lines, in the order of `split_lines`."""
        import numpy as np

        keys = [chunk.embedded_text for chunk in chunks]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: chunk for key, chunk in zip(keys, chunks, strict=True) if key not in known}
        lines = {key: _lines_in_context(chunk) for key, chunk in new.items()}
        vectors = self.embedder.embed([question, *(line for group in lines.values() for line in group)])
        place = 1
        for key, group in lines.items():
            known[key] = vectors[place : place + len(group)].astype(np.float16)
            place += len(group)
        with self._lock:
            for key in keys:
                self._kept[key] = known[key]
                self._kept.move_to_end(key)
            while len(self._kept) > _KEPT_CHUNKS:
                self._kept.popitem(last=False)
        return [[float(score) for score in known[key].astype(np.float32) @ vectors[0]] for key in keys]


def _lines_in_context(chunk: Chunk) -> list[str]:
    head = " > ".join([chunk.title, *chunk.headings[-1:]])
    return [f"{head}: {line}" for line in split_lines(chunk.text)]
