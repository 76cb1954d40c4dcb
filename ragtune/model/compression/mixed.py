"""Decides which layers stay in 8 bits if the rest has 4: those whose rounding changes the model's predictions most.

Layers that the engine fuses (query, key and value; gate and up) stay together, because a fused layer has one format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ragtune.errors import SettingsError
from ragtune.model.compression.rounding import round_to_nearest
from ragtune.ports import Progress, silent

_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that vLLM fuses in a Llama."""
_TAIL = 64
"""Tokens at the end of each conversation whose predictions are compared: the answer and what stands before it.

Chosen by hand; the predictions of all tokens over a vocabulary of 128,000 would fill the memory.
"""
_SCALE_BYTES, _ZERO_POINT_BYTES = 2, 0.5
"""Bytes of a bf16 scale, and of a packed 4-bit zero point."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers with one format. `loss` is the mean KL divergence in nats per token if they alone have 4 bits."""

    layers: tuple[str, ...]
    int4_bytes: int
    int8_bytes: int
    loss: float = 0.0


def measured_units(model: Any, samples: Sequence[Any], scheme: Any, progress: Progress = silent) -> list[Unit]:
    """Return the units of the decoder with their losses.

    Args:
        model: a causal language model of transformers, unquantised; it is left as it was.
        samples: token ids of conversations, each (1, tokens).
        scheme: the INT4 format.
        progress: reports how many units are measured.
    """
    import torch

    layers = {name: module for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)}
    groups = _groups([f"model.{name}" for name in layers])
    plain = _predictions(model, samples)
    units = []
    for done, names in enumerate(groups):
        progress("measuring what 4 bits cost", done, len(groups))
        weights = [layers[name.removeprefix("model.")].weight for name in names]
        kept = [weight.data for weight in weights]
        for weight in weights:
            weight.data = round_to_nearest(weight, scheme).to(weight.dtype)
        loss = _divergence(plain, _predictions(model, samples))
        for weight, data in zip(weights, kept, strict=True):
            weight.data = data
        units.append(Unit(names, *_bytes(kept, scheme), loss))
    progress("measuring what 4 bits cost", len(groups), len(groups))
    return units


def layers_in_int8(units: Sequence[Unit], other_bytes: int, budget: int) -> list[str]:
    """Return the layers that stay in 8 bits, so that all weights take at most `budget` bytes.

    Units with the largest loss per additional byte come first. `other_bytes` is what is not quantised. Raises
    SettingsError if the budget is too small for 4 bits everywhere, or large enough for 8.
    """
    smallest = other_bytes + sum(unit.int4_bytes for unit in units)
    largest = other_bytes + sum(unit.int8_bytes for unit in units)
    if not smallest < budget < largest:
        raise SettingsError(
            f"quantization.mixed_size allows {budget:,} bytes.",
            expected=f"more than {smallest:,} bytes (4 bits everywhere) and less than {largest:,} (8 bits everywhere)",
            fix="change quantization.mixed_size, or take `mixed` out of quantization.also",
        )
    chosen: list[str] = []
    left = budget - smallest
    for unit in sorted(units, key=lambda unit: -unit.loss / (unit.int8_bytes - unit.int4_bytes)):
        if unit.int8_bytes - unit.int4_bytes <= left:
            left -= unit.int8_bytes - unit.int4_bytes
            chosen += unit.layers
    return chosen


def _groups(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the names, those that the engine fuses together, in order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        fused = next((f"{parent}.{'+'.join(group)}" for group in _FUSED if last in group), name)
        groups.setdefault(fused, []).append(name)
    return [tuple(group) for group in groups.values()]


def _bytes(weights: Sequence[Any], scheme: Any) -> tuple[int, int]:
    """Return the bytes of the weights in 4 and in 8 bits, with their scales and zero points."""
    count, rows = sum(weight.numel() for weight in weights), sum(weight.shape[0] for weight in weights)
    per_group = _SCALE_BYTES + (0 if scheme.symmetric else _ZERO_POINT_BYTES)
    return int(count / 2 + count / scheme.group_size * per_group), count + rows * _SCALE_BYTES


def _predictions(model: Any, samples: Sequence[Any]) -> list[Any]:
    """Return the log-probabilities of the last tokens of each sample, (tokens, vocabulary)."""
    import torch

    with torch.inference_mode():
        return [torch.log_softmax(model(ids, logits_to_keep=_TAIL).logits[0].float(), dim=-1) for ids in samples]


def _divergence(plain: Sequence[Any], rounded: Sequence[Any]) -> float:
    """Return the mean over all tokens of KL(plain || rounded) in nats."""
    import torch

    each = [(p.exp() * (p - q)).sum(-1) for p, q in zip(plain, rounded, strict=True)]
    return float(torch.cat(each).mean())
