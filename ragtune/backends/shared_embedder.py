"""An embedder for many threads: what they ask for while all cores are busy is embedded in one batch.

Threads that each run a forward pass of their own share the cores and read the same weights again and again. Eight
questions together take a third less processor time than one by one (benchmarks/serving/embedding.json).
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Event, Lock
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
    done: Event = field(default_factory=Event)


class SharedEmbedder(Embedder):
    """Embeds with another embedder, whose questions and passages must be read alike; safe for several threads.

    Up to `at_once` threads compute at the same time; what is asked for in the meantime waits, and is then one batch.
    """

    def __init__(self, embedder: Embedder, at_once: int = 1, kept_texts: int = KEPT_TEXTS) -> None:
        self.name, self.dimension, self.max_tokens = embedder.name, embedder.dimension, embedder.max_tokens
        self._embedder, self._most = embedder, kept_texts
        self._kept: OrderedDict[str, Vector] = OrderedDict()
        self._waiting: deque[_Call] = deque()
        self._lock, self._computing = Lock(), BoundedSemaphore(at_once)

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return the vectors of the texts; see Embedder. A failure of one call does not spoil the others."""
        if not texts or len(texts) > _MOST_AT_ONCE:
            return self._embedder.embed(texts, progress)
        call = _Call(tuple(texts))
        with self._lock:
            self._waiting.append(call)
        while not call.done.is_set():
            with self._computing:
                batch = self._next_batch()
                try:
                    self._compute(batch)
                finally:  # nobody may wait for a thread that was interrupted
                    for one in batch:
                        if not one.done.is_set():
                            one.error = one.error or InterruptedError("the thread that embedded this text ended")
                            one.done.set()
            if not batch:  # another thread computes this call
                call.done.wait()
        if call.error is not None:
            raise call.error
        assert call.vectors is not None, "a call that is done has vectors or an error"
        return call.vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens in each text; see Embedder."""
        return self._embedder.count_tokens(texts)

    def _next_batch(self) -> list[_Call]:
        batch: list[_Call] = []
        count = 0
        with self._lock:
            while self._waiting and (not batch or count + len(self._waiting[0].texts) <= _MOST_AT_ONCE):
                batch.append(self._waiting.popleft())
                count += len(batch[-1].texts)
        return batch

    def _compute(self, calls: Sequence[_Call]) -> None:
        import numpy as np

        texts = list(dict.fromkeys(text for call in calls for text in call.texts))
        with self._lock:
            known = {text: self._kept[text] for text in texts if text in self._kept}
        new = [text for text in texts if text not in known]
        try:
            if new:
                known |= zip(new, self._embedder.embed(new), strict=True)
        except Exception as error:  # noqa: BLE001 - it is raised where the text was asked for
            if len(calls) > 1:
                for call in calls:
                    self._compute([call])
                return
            calls[0].error = error
        else:
            for call in calls:
                call.vectors = np.stack([known[text] for text in call.texts])
            self._keep(texts, known)
        for call in calls:
            call.done.set()

    def _keep(self, texts: Sequence[str], vectors: Mapping[str, "Vector"]) -> None:
        with self._lock:
            for text in texts:
                self._kept[text] = vectors[text]
                self._kept.move_to_end(text)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


def half_of(threads: int) -> int:
    """Return how many forward passes may run at once: half of the threads, because two embedders share the cores."""
    return max(1, threads // 2)
