"""Merges a LoRA adapter into its base model, one tensor at a time.

The sum is computed in float32 and rounded once to the base model's precision. Only one weight file is in memory
at a time, so that a large sharded model needs no more memory than its largest file.
"""

import json
import math
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
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# Options of PEFT under which the merged weight is not simply base + scale * B A.
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")


def merge_adapter(base: Path, adapter: Path, out: Path, progress: Progress = silent) -> Path:
    """Write the base model with the adapter added to its weights to `out`, in the base's format, and return `out`.

    Raises ModelError if the adapter is not plain LoRA, belongs to another base model or has unused tensors, or if a
    weight of the base, of the adapter or of their sum is NaN or infinite.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    check_model_folder(base)
    scale = _scale(adapter)
    matrices = _lora_matrices(adapter)
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
            for name in tensors.keys() & matrices.keys():
                tensors[name] = _merged_weight(name, tensors[name], matrices[name], scale)
                merged_names.add(name)
            require_finite(tensors.items(), file)
            save_file(tensors, scratch / file.name, metadata=metadata)
        unused = matrices.keys() - merged_names
        if unused:
            raise ModelError(
                f"{len(unused)} of the adapter's {len(matrices)} layers are not in {base}, such as {min(unused)}.",
                fix="merge the adapter with the base model it was trained on",
            )
    progress("merging the adapter", len(files), len(files))
    return out


def with_adapter(tensors: dict[str, Any], adapter: Path) -> dict[str, Any]:
    """Return the tensors of a model with a LoRA adapter added, in the model's precision.

    Raises ModelError if the adapter is not plain LoRA or has a layer that the model lacks.
    """
    scale, matrices = _scale(adapter), _lora_matrices(adapter)
    if unused := matrices.keys() - tensors.keys():
        raise ModelError(f"{len(unused)} of the adapter's {len(matrices)} layers are not in the model: {min(unused)}.")
    return {
        name: _merged_weight(name, tensor, matrices[name], scale) if name in matrices else tensor
        for name, tensor in tensors.items()
    }


def _scale(adapter: Path) -> float:
    """Return the factor of the adapter's product B A: alpha / rank, or alpha / sqrt(rank) with rank-stabilised LoRA."""
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise ModelError(f"{adapter} holds no adapter_config.json.", expected="a LoRA adapter in PEFT's format")
    config: dict[str, Any] = json.loads(path.read_text())
    options = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or options:
        raise ModelError(f"{adapter} is not a plain LoRA adapter ({', '.join(options) or config.get('peft_type')}).")
    rank = int(config["r"])
    return float(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _lora_matrices(adapter: Path) -> dict[str, tuple[Any, Any]]:
    """Return {name of the base model's weight: (A, B)} with A (rank, in) and B (out, rank)."""
    from safetensors.torch import load_file

    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(f"{adapter} holds no adapter_model.safetensors.", expected="a LoRA adapter in PEFT's format")
    tensors = load_file(path)
    layers = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
    matrices = {f"{layer.removeprefix(_PREFIX)}.weight": (tensors[layer + _A], tensors[layer + _B]) for layer in layers}
    if not matrices or len(matrices) * 2 != len(tensors):
        raise ModelError(f"{path} holds {len(tensors)} tensors, {len(matrices)} of them pairs of LoRA matrices.")
    require_finite(tensors.items(), path)
    return matrices


def _merged_weight(name: str, weight: Any, matrices: tuple[Any, Any], scale: float) -> Any:
    a, b = matrices
    if weight.shape != (b.shape[0], a.shape[1]):
        raise ModelError(
            f"The adapter changes {name} of shape {(b.shape[0], a.shape[1])}, the base has {tuple(weight.shape)}.",
            fix="merge the adapter with the base model it was trained on",
        )
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype).contiguous()
