"""Merges a LoRA or DoRA adapter into its base model, one tensor at a time.

The sum is computed in float32 and rounded once to the base model's precision. Only one weight file is in memory
at a time, so that a large sharded model needs no more memory than its largest file.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError
from ragtune.model.base.capacity import require_disk
from ragtune.model.base.finite import require_finite
from ragtune.model.base.folder_checks import check_model_folder
from ragtune.model.base.folders import atomic_folder, copy_companions
from ragtune.ports import Progress, silent
from ragtune.store.artifacts import MANIFEST

# How PEFT names the tensors of a LoRA adapter.
_PREFIX, _A, _B, _MAGNITUDE = "base_model.model.", ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
# Options of PEFT under which the merged weight is neither that of LoRA nor that of DoRA.
_UNSUPPORTED = ("fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")


@dataclass(frozen=True, slots=True)
class _Layer:
    """The adapter of one layer: A (rank, in), B (out, rank), and with DoRA the length of each weight row (out)."""

    a: Any
    b: Any
    magnitude: Any = None


def merge_adapter(base: Path, adapter: Path, out: Path, progress: Progress = silent) -> Path:
    """Write the base model with the adapter added to its weights to `out`, in the base's format, and return `out`.

    Raises ModelError if the adapter is neither LoRA nor DoRA, belongs to another base model or has unused tensors, or
    if a weight of the base, of the adapter or of their sum is NaN or infinite.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    check_model_folder(base)
    scale, layers = _scale(adapter), _layers(adapter)
    files = sorted(base.glob("*.safetensors"))
    # A tenth more than the weights, for the tokenizer and the other files; chosen by hand, not sensitive.
    require_disk(out, int(sum(file.stat().st_size for file in files) * 1.1), "merging")
    merged_names: set[str] = set()
    with atomic_folder(out) as scratch:
        copy_companions(base, scratch, leave_out=(MANIFEST,))
        for done, file in enumerate(files):
            progress("merging the adapter", done, len(files))
            with safe_open(file, framework="pt") as stream:
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
                metadata = stream.metadata()
            for name in tensors.keys() & layers.keys():
                tensors[name] = _merged_weight(name, tensors[name], layers[name], scale)
                merged_names.add(name)
            require_finite(tensors.items(), file)
            save_file(tensors, scratch / file.name, metadata=metadata)
        unused = layers.keys() - merged_names
        if unused:
            raise ModelError(
                f"{len(unused)} of the adapter's {len(layers)} layers are not in {base}, such as {min(unused)}.",
                fix="merge the adapter with the base model it was trained on",
            )
    progress("merging the adapter", len(files), len(files))
    return out


def with_adapter(tensors: dict[str, Any], adapter: Path) -> dict[str, Any]:
    """Return the tensors of a model with a LoRA or DoRA adapter added, in the model's precision.

    Raises ModelError if the adapter is neither or has a layer that the model lacks.
    """
    scale, layers = _scale(adapter), _layers(adapter)
    if unused := layers.keys() - tensors.keys():
        raise ModelError(f"{len(unused)} of the adapter's {len(layers)} layers are not in the model: {min(unused)}.")
    return {
        name: _merged_weight(name, tensor, layers[name], scale) if name in layers else tensor
        for name, tensor in tensors.items()
    }


def lora_scale(rank: int, alpha: float, rank_stabilised: bool = False) -> float:
    """Return the factor of the product B A: alpha / rank, or alpha / sqrt(rank) with rank-stabilised LoRA."""
    return alpha / (math.sqrt(rank) if rank_stabilised else rank)


def _scale(adapter: Path) -> float:
    """Return the factor of the adapter's product B A; raise ModelError if it is neither LoRA nor DoRA."""
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise ModelError(f"{adapter} holds no adapter_config.json.", expected="a LoRA adapter in PEFT's format")
    config: dict[str, Any] = json.loads(path.read_text())
    options = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or options:
        kind = ", ".join(options) or config.get("peft_type")
        raise ModelError(f"{adapter} is neither a LoRA nor a DoRA adapter ({kind}).")
    return lora_scale(int(config["r"]), config["lora_alpha"], bool(config.get("use_rslora")))


def _layers(adapter: Path) -> dict[str, _Layer]:
    """Return {name of the base model's weight: its adapter}."""
    from safetensors.torch import load_file

    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(f"{adapter} holds no adapter_model.safetensors.", expected="a LoRA adapter in PEFT's format")
    tensors = load_file(path)
    names = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
    layers = {
        f"{name.removeprefix(_PREFIX)}.weight": _Layer(
            tensors[name + _A], tensors[name + _B], tensors.get(name + _MAGNITUDE)
        )
        for name in names
    }
    per_layer = 3 if any(name.endswith(_MAGNITUDE) for name in tensors) else 2
    if not layers or len(layers) * per_layer != len(tensors):
        raise ModelError(f"{path} holds {len(tensors)} tensors, which are not {per_layer} for each adapted layer.")
    require_finite(tensors.items(), path)
    return layers


def _merged_weight(name: str, weight: Any, layer: _Layer, scale: float) -> Any:
    """Return W + s B A, with DoRA scaled so that each row has the learnt length (Liu et al. 2024, equation 5)."""
    a, b = layer.a, layer.b
    if weight.shape != (b.shape[0], a.shape[1]):
        raise ModelError(
            f"The adapter changes {name} of shape {(b.shape[0], a.shape[1])}, the base has {tuple(weight.shape)}.",
            fix="merge the adapter with the base model it was trained on",
        )
    merged = weight.float() + scale * (b.float() @ a.float())
    if layer.magnitude is not None:
        merged *= (layer.magnitude.float() / merged.norm(dim=1))[:, None]
    return merged.to(weight.dtype).contiguous()
