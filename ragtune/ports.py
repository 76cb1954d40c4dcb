"""The interfaces between the core and what it runs on: embedders, search indexes, chat models, engines.

Each is a small abstract class. `backends` has an implementation that runs embedded and one that talks to a server,
and one suite of contract tests runs over both.
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
"""Called as progress(what, done, total) during long work; `total` is 0 if it is not known."""


def silent(what: str, done: int, total: int) -> None:
    """Ignore progress."""


class Embedder(ABC):
    """Turns texts into vectors of length 1."""

    name: str
    dimension: int
    max_tokens: int

    @abstractmethod
    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return the vectors of the texts, in order.

        Returns:
            An array of shape (len(texts), dimension), with rows of length 1.
        """

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens in each text, special tokens included, before the embedder truncates it."""

    def embed_questions(self, questions: Sequence[str]) -> "Vectors":
        """Return the vectors of questions, shape and length as in `embed`.

        Some models were trained with a mark before questions and another one before passages.
        """
        return self.embed(questions)


class TokenEmbedder(Embedder):
    """An embedder that also gives a vector per token."""

    @abstractmethod
    def token_vectors(self, texts: Sequence[str]) -> "list[Vectors]":
        """Return for each text its token vectors: an array of shape (tokens, dimension) with rows of length 1.

        Tokens that the tokenizer adds, such as [CLS], are left out; an empty text has no token.
        """


@dataclass(frozen=True, slots=True)
class IndexQuery:
    """A query to a search index: by `vector` if there is one, otherwise by the words of `text`.

    `where` limits the hits to chunks whose metadata fields equal these values. The field `names` is a list; it has to
    contain the value.
    """

    text: str = ""
    vector: "npt.NDArray[np.float32] | None" = None
    limit: int = 10
    where: Mapping[str, str] | None = None


class SearchIndex(ABC):
    """Stores chunks with their vectors and finds them by words or by vector.

    `scratch` is a folder in which an interrupted update leaves its work. `location` is a path or URL for messages.
    """

    scratch: Path
    location: str

    @abstractmethod
    def versions(self) -> dict[str, tuple[str, str]]:
        """Return {chunk id: (document id, chunk version)} of all chunks that readers see now.

        It is empty if another embedder made the stored vectors.
        """

    @abstractmethod
    def state(self) -> str:
        """Return a text that changes whenever readers see other chunks; "" before the first update. It takes no scan.

        An index that was deleted and built again has another state, too.
        """

    @abstractmethod
    def vectors(self, ids: Sequence[str]) -> "dict[str, npt.NDArray[np.float32]]":
        """Return the stored vectors of these chunks."""

    @abstractmethod
    def apply(self, added: Iterable[tuple[Chunk, "npt.NDArray[np.float32]"]], deleted: Sequence[str]) -> None:
        """Add chunks (or replace those with the same id) and delete others, as one step.

        A search sees the old state or the new one, never a mixture.
        """

    @abstractmethod
    def search(self, queries: Sequence[IndexQuery]) -> list[list[Hit]]:
        """Return the hits of each query, best first. Words are scored by BM25, vectors by cosine similarity."""

    @abstractmethod
    def size_bytes(self) -> int:
        """Return the size of the index on disk; 0 before the first update."""

    @abstractmethod
    def updating(self) -> AbstractContextManager[None]:
        """Hold the right to write. A second writer waits, then sees what the first one wrote."""

    def chunk_ids(self) -> dict[str, str]:
        """Return {chunk id: document id} of all chunks that readers see now."""
        return {chunk: document for chunk, (document, _) in self.versions().items()}

    def search_text(self, query: str, limit: int, where: Mapping[str, str] | None = None) -> list[Hit]:
        """Return up to `limit` hits by BM25, best first; see IndexQuery for `where`."""
        return self.search([IndexQuery(text=query, limit=limit, where=where)])[0]

    def search_vector(
        self, vector: "npt.NDArray[np.float32]", limit: int, where: Mapping[str, str] | None = None
    ) -> list[Hit]:
        """Return up to `limit` hits by cosine similarity, best first."""
        return self.search([IndexQuery(vector=vector, limit=limit, where=where)])[0]


class EvidenceModel(ABC):
    """Says how likely it is that a text answers a question: the only score of support in the product.

    The probability of a text depends on the question and on this text alone, not on its neighbours or their order.
    `name` identifies the model with its weights; stored results of the model carry this name.
    """

    name: str

    @abstractmethod
    def probabilities(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return for each text the probability, from 0 to 1, that it answers the question."""

    @abstractmethod
    def threshold(self, refused_share: float) -> float:
        """Return the threshold below which a question is refused: the probability of its best text is lower.

        Args:
            refused_share: share (0 to 1) of answerable questions that this threshold refuses.
        """


class ChatModel(ABC):
    """Replies to a conversation; the model is a local engine's or any OpenAI-compatible server's."""

    name: str

    @abstractmethod
    def complete(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> Completion:
        """Return the model's reply.

        Raises:
            EngineError: there is no complete reply; the message says what arrived.
        """


class RunningEngine(ABC):
    """A running model server: a local process, or a server that somebody else runs."""

    url: str
    api_key: str
    model_name: str
    log_path: Path

    @abstractmethod
    def chat(self) -> ChatModel:
        """Return a chat model that talks to this engine."""

    @abstractmethod
    def alive(self) -> bool:
        """Return whether the server still answers."""

    @abstractmethod
    def memory_bytes(self) -> int:
        """Return the peak memory of the engine's processes, GPU memory included; 0 for somebody else's server."""

    @abstractmethod
    def stop(self) -> None:
        """End the server's processes and wait for them. Calling it twice is harmless."""


class Engine(ABC):
    """Starts model servers."""

    @abstractmethod
    def launch(self, model: Path, name: str, at_once: int = 1) -> RunningEngine:
        """Start a server for a model folder and wait until it is healthy.

        Args:
            model: folder with the weights.
            name: the name under which the server offers the model.
            at_once: number of servers that share the processor at the same time.
        """

    @abstractmethod
    def running(self, model: Path, name: str, at_once: int = 1) -> AbstractContextManager[RunningEngine]:
        """Launch a server for the length of a `with` block; see `launch` for the arguments."""


class PairWriter(ABC):
    """Writes question and answer pairs from chunks."""

    name: str

    @abstractmethod
    def write(self, chunks: Sequence[Chunk], progress: Progress = silent) -> list[QAPair]:
        """Return pairs whose answer spans occur in their chunks. The same chunks and seed give the same pairs."""


__all__ = [
    "ChatModel",
    "Embedder",
    "Engine",
    "EvidenceModel",
    "Hit",
    "IndexQuery",
    "IndexUpdate",
    "PairWriter",
    "Progress",
    "RunningEngine",
    "SearchIndex",
    "TokenEmbedder",
    "silent",
]
