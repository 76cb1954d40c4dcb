"""An embedder for many threads: what they ask for at the same moment is embedded in one batch, by one of them.

Threads that each run a forward pass of their own share the cores, read the same weights from memory again and again,
and each keep buffers of their own: eight questions at once took 64 ms in one batch and 142 ms one by one on a core with
AVX2 (benchmarks/serving/README.md).
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from ragtune.ports import Embedder, Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]
    Vectors = npt.NDArray[np.float32]

KEPT_TEXTS = 256
"""Texts whose vectors are kept, 0.4 MB: a question is embedded once for the search, the lines and a second try. Chosen
by hand: more than the requests that are in progress at once."""
_MOST_AT_ONCE = 64
"""Texts in one batch, if more than one thread waits; a call with more goes straight to the embedder. Chosen by hand: a
longer batch would let its first question wait for its last."""


@dataclass(slots=True)
class _Call:
    """What one thread asks for, and what came of it."""

    texts: tuple[str, ...]
    vectors: "Vectors | None" = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.vectors is not None or self.error is not None


class SharedEmbedder(Embedder):
    """Embeds with another embedder, whose questions and passages must be read alike; safe for several threads."""

    def __init__(self, embedder: Embedder, kept_texts: int = KEPT_TEXTS) -> None:
        self.name, self.dimension, self.max_tokens = embedder.name, embedder.dimension, embedder.max_tokens
        self._embedder, self._most = embedder, kept_texts
        self._kept: OrderedDict[str, Vector] = OrderedDict()
        self._waiting: deque[_Call] = deque()
        self._computing = Lock()

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return the vectors of the texts; see Embedder. A failure of one call does not spoil the others."""
        if not texts or len(texts) > _MOST_AT_ONCE:
            return self._embedder.embed(texts, progress)
        call = _Call(tuple(texts))
        self._waiting.append(call)
        with self._computing:
            # Whoever had the lock before may have computed this call as well. If not, it waits still.
            while not call.is_done:
                self._compute(list(self._next_batch()))
        if call.error is not None:
            raise call.error
        assert call.vectors is not None, "a call that is done has vectors or an error"
        return call.vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens in each text; see Embedder."""
        return self._embedder.count_tokens(texts)

    def _next_batch(self) -> Iterator[_Call]:
        count = 0
        while self._waiting and (not count or count + len(self._waiting[0].texts) <= _MOST_AT_ONCE):
            call = self._waiting.popleft()
            count += len(call.texts)
            yield call

    def _compute(self, calls: Sequence[_Call]) -> None:
        import numpy as np

        texts = dict.fromkeys(text for call in calls for text in call.texts)
        known = {text: self._kept[text] for text in texts if text in self._kept}
        new = [text for text in texts if text not in known]
        try:
            if new:
                known |= zip(new, self._embedder.embed(new), strict=True)
        except Exception as error:  # noqa: BLE001 - it is raised where the text was asked for
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:
                self._compute([call])
            return
        for call in calls:
            call.vectors = np.stack([known[text] for text in call.texts])
        for text in texts:
            self._kept[text] = known[text]
            self._kept.move_to_end(text)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
