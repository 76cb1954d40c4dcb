"""The evidence model while it is trained: a LoRA adapter on the packaged MiniLM, and its contrastive loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragtune.backends.evidence.lists import CandidateList

if TYPE_CHECKING:
    from torch import Tensor

RANK, ALPHA = 32, 64
"""Rank and scale of the adapters: 2.7 MB in bfloat16. Chosen by hand, not measured."""
MOST_TOKENS = 64
"""Longer texts are cut off. Chosen by hand: 38 words and their context seldom have more."""
FIRST_SCALE, FIRST_NOTHING = 20.0, 9.0
"""Where training starts: the factor of the cosine, and the score of "nothing here answers it"."""


def encoder(folder: Path) -> Any:
    """Return the MiniLM in `folder` as a module with a fresh LoRA adapter on its linear layers."""
    from peft import LoraConfig, get_peft_model
    from transformers import BertModel

    bert = BertModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "key", "value", "dense"])
    return get_peft_model(bert, config)


class Tokens:
    """Tokenizes texts."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MOST_TOKENS)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]


def mean_states(bert: Any, tokens: Sequence[Sequence[int]], batch: int = 48) -> "Tensor":
    """Return the mean of the last hidden states of each text, shape (len(tokens), width)."""
    import torch

    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    parts = []
    for start in range(0, len(order), batch):
        chosen = [tokens[index] for index in order[start : start + batch]]
        longest = max(map(len, chosen))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in chosen])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in chosen])
        with torch.autocast("cpu", torch.bfloat16):
            states = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        states = states.float()
        parts.append((states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))
    inverse = torch.tensor(order).argsort()
    return torch.cat(parts)[inverse]


def towers_loss(bert: Any, extra: dict[str, "Tensor"], tokens: Tokens, lists: Sequence[CandidateList]) -> "Tensor":
    """Return the mean cross-entropy of the right candidate among all candidates of the batch and "nothing"."""
    import torch
    from torch.nn import functional

    asked = functional.normalize(mean_states(bert, tokens([item.question for item in lists])), dim=1)
    texts = [text for item in lists for text in item.candidates]
    units = functional.normalize(mean_states(bert, tokens(texts)), dim=1)
    scores = extra["scale"] * asked @ units.T
    logits = torch.cat([scores, extra["nothing"].expand(len(lists), 1)], dim=1)
    targets, offset = [], 0
    for item in lists:
        targets.append(offset + item.right.index(True) if any(item.right) else len(texts))
        offset += len(item.candidates)
    return functional.cross_entropy(logits, torch.tensor(targets))
