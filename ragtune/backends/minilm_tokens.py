"""Token vectors of all-MiniLM-L6-v2: its last hidden states, one per token, for metrics that align tokens.

A module of its own, because an edit of minilm.py counts as another embedder, for which every passage is embedded again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragtune.backends.minilm import (
    EPSILON,
    TOKENS_PER_BATCH,
    WIDTH,
    MiniLmEmbedder,
    Network,
    _apply_layer,
    _truncated,
    length_sorted_batches,
)
from ragtune.ports import TokenEmbedder

if TYPE_CHECKING:
    from ragtune.ports import Vectors


class TokenNetwork(Network):
    """The layers of the embedder without its mean over the tokens."""

    def states(self, tokens: Sequence[Sequence[int]]) -> "list[Vectors]":
        """Return for each text the last hidden state of every token, at length 1, of shape (tokens, 384)."""
        import torch
        from torch.nn import functional

        longest = max(len(ids) for ids in tokens)
        padded = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in tokens], device=self.device)
        lengths = torch.tensor([len(ids) for ids in tokens], device=self.device)
        real = torch.arange(longest, device=self.device)[None] < lengths[:, None]
        with torch.inference_mode():
            state = functional.layer_norm(self.words[padded] + self.places[:longest], (WIDTH,), *self.norm, EPSILON)
            for norms, products in self.layers:
                state = _apply_layer(norms, products, state, real[:, None, None, :])
            vectors = functional.normalize(state.float(), dim=2).cpu().numpy()
        return [vectors[row, : len(ids)] for row, ids in enumerate(tokens)]


class MiniLmTokens(MiniLmEmbedder, TokenEmbedder):
    """The packaged embedder, with one vector per token in addition to one per text. It computes in float32 on a CPU."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads=threads, device="cpu", precision="float32")
        self._states: TokenNetwork | None = None

    def token_vectors(self, texts: Sequence[str]) -> "list[Vectors]":
        """Return the vectors of each text's tokens; see TokenEmbedder."""
        import numpy as np
        import torch

        if self._states is None:
            self._states = TokenNetwork(torch.float32, "cpu")
        tokens = [_truncated(ids, self.max_tokens) for ids in self._token_ids(texts)]
        vectors = [np.zeros((0, WIDTH), dtype=np.float32) for _ in texts]
        for batch in length_sorted_batches([len(ids) for ids in tokens], self.batch_size, TOKENS_PER_BATCH):
            states = self._states.states([tokens[position] for position in batch])
            for position, state in zip(batch, states, strict=True):
                vectors[position] = state[1:-1]  # without [CLS] and [SEP]
        return vectors
