"""The seams: what the core needs from the outside, one small ABC each.

Every seam has an embedded and a server implementation in `backends`, and one contract
test suite that runs over both.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragtune.records import Chunk, Completion, Hit, IndexUpdate, Message, QAPair

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total) during long work."""


def silent(what: str, done: int, total: int) -> None:
    """Report progress to nobody."""


class Embedder(ABC):
    """Turns texts into unit vectors."""

    name: str
    dimension: int
    max_tokens: int

    @abstractmethod
    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return an array of shape (len(texts), dimension), rows of length 1, in the given order."""

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens the embedder would read of each text, special tokens included."""


Rerank = Callable[[str, Sequence[str]], Sequence[float]]
"""Called as rerank(question, texts); returns how well each text answers the question, more is better."""
Reword = Callable[[Sequence[str]], Sequence[Sequence[str]]]
"""Called as reword(questions); returns for each question the same in other words."""


@dataclass(frozen=True, slots=True)
class IndexQuery:
    """One question to an index: by words (`text`) or, when given, by `vector`.

    `where` keeps the chunks whose metadata fields equal these values (`names`: contains the value).
    """

    text: str = ""
    vector: "npt.NDArray[np.float32] | None" = None
    limit: int = 10
    where: Mapping[str, str] | None = None


class SearchIndex(ABC):
    """Stores chunks with their vectors and finds them by words or by vector.

    `scratch` is a folder for the work of an update that was interrupted; `location` says where the index is.
    """

    scratch: Path
    location: str

    @abstractmethod
    def versions(self) -> dict[str, tuple[str, str]]:
        """Return {chunk id: (document id, chunk version)} of everything a reader sees now.

        It is empty when the stored vectors are another embedder's.
        """

    @abstractmethod
    def vectors(self, ids: Sequence[str]) -> "dict[str, npt.NDArray[np.float32]]":
        """Return the stored vectors of these chunks."""

    @abstractmethod
    def apply(self, added: Iterable[tuple[Chunk, "npt.NDArray[np.float32]"]], deleted: Sequence[str]) -> None:
        """Add (or replace by id) and delete in one step for readers: a search sees the old or the new state."""

    @abstractmethod
    def search(self, queries: Sequence[IndexQuery]) -> list[list[Hit]]:
        """Return for each query its hits, best first: BM25 for words, cosine similarity for vectors."""

    @abstractmethod
    def size_bytes(self) -> int:
        """Return how much disk the index takes, 0 before the first update."""

    @abstractmethod
    def updating(self) -> AbstractContextManager[None]:
        """Hold the right to write; a second writer waits, then sees what the first one did."""

    def chunk_ids(self) -> dict[str, str]:
        """Return {chunk id: document id} of everything a reader sees now."""
        return {chunk: document for chunk, (document, _) in self.versions().items()}

    def search_text(self, query: str, limit: int, where: Mapping[str, str] | None = None) -> list[Hit]:
        """Return up to `limit` hits by BM25, best first; `where` filters on metadata equality."""
        return self.search([IndexQuery(text=query, limit=limit, where=where)])[0]

    def search_vector(
        self, vector: "npt.NDArray[np.float32]", limit: int, where: Mapping[str, str] | None = None
    ) -> list[Hit]:
        """Return up to `limit` hits by cosine similarity, best first."""
        return self.search([IndexQuery(vector=vector, limit=limit, where=where)])[0]


class ChatModel(ABC):
    """Answers a conversation: a local engine or any OpenAI-compatible server."""

    name: str

    @abstractmethod
    def complete(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> Completion:
        """Return the model's reply; raise EngineError with what was seen when there is none."""


class RunningEngine(ABC):
    """A model server that answers on a loopback port."""

    url: str
    api_key: str
    model_name: str
    log_path: Path

    @abstractmethod
    def chat(self) -> ChatModel:
        """Return a chat model that talks to this engine."""

    @abstractmethod
    def alive(self) -> bool:
        """Return whether the process still runs and answers its health check."""

    @abstractmethod
    def memory_bytes(self) -> int:
        """Return the peak resident memory of the engine's process tree (GPU memory on CUDA)."""

    @abstractmethod
    def stop(self) -> None:
        """End the process tree and wait for it; calling it twice is harmless."""


class Engine(ABC):
    """Starts model servers."""

    @abstractmethod
    def launch(self, model: Path, name: str, at_once: int = 1) -> RunningEngine:
        """Start a server for the model folder under the served name and wait until it is healthy.

        `at_once` such servers share the processor.
        """

    @abstractmethod
    def running(self, model: Path, name: str, at_once: int = 1) -> AbstractContextManager[RunningEngine]:
        """Launch, yield and always stop; `at_once` servers share the processor."""


class PairWriter(ABC):
    """Writes question and answer pairs from chunks."""

    name: str

    @abstractmethod
    def write(self, chunks: Sequence[Chunk], progress: Progress = silent) -> list[QAPair]:
        """Return pairs whose answer spans stand in their chunks; same chunks and seed, same pairs."""


__all__ = [
    "ChatModel",
    "Embedder",
    "Engine",
    "Hit",
    "IndexQuery",
    "IndexUpdate",
    "PairWriter",
    "Progress",
    "RunningEngine",
    "SearchIndex",
    "silent",
]
