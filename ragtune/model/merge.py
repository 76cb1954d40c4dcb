"""Folds an adapter into its base model, one tensor at a time.

The sum is taken in float32 and rounded to the base's precision once; no more than one weight
file is in memory, so a large model needs no more than its largest file.
"""

import json
import math
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError
from ragtune.model.capacity import require_disk
from ragtune.model.folders import atomic_folder, copy_companions
from ragtune.model.pretrained import check_model_folder
from ragtune.ports import Progress, silent
from ragtune.store.artifacts import MANIFEST

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")


def merge_adapter(base: Path, adapter: Path, out: Path, progress: Progress = silent) -> Path:
    """Write base plus adapter to `out` in the base's format and return it.

    Raises ModelError when the adapter is not plain LoRA, is not of this base or leaves a tensor unused.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    check_model_folder(base)
    scale = _scale(adapter)
    parts = _adapter_parts(adapter)
    files = sorted(base.glob("*.safetensors"))
    require_disk(out, int(sum(file.stat().st_size for file in files) * 1.1), "Merging")
    used: set[str] = set()
    with atomic_folder(out) as scratch:
        copy_companions(base, scratch, leave_out=(MANIFEST,))
        for done, file in enumerate(files):
            progress("merging the adapter", done, len(files))
            with safe_open(file, framework="pt") as stream:
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
                metadata = stream.metadata()
            for name in tensors.keys() & parts.keys():
                tensors[name] = _added(name, tensors[name], parts[name], scale)
                used.add(name)
            save_file(tensors, scratch / file.name, metadata=metadata)
        if used != parts.keys():
            raise ModelError(
                f"{len(parts.keys() - used)} of the adapter's {len(parts)} layers are not in {base}, "
                f"such as {min(parts.keys() - used)}.",
                fix="merge the adapter with the base model it was trained on",
            )
    progress("merging the adapter", len(files), len(files))
    return out


def _scale(adapter: Path) -> float:
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise ModelError(f"{adapter} holds no adapter_config.json.", expected="a LoRA adapter in PEFT's format")
    config: dict[str, Any] = json.loads(path.read_text())
    odd = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or odd:
        raise ModelError(f"{adapter} is no plain LoRA adapter ({', '.join(odd) or config.get('peft_type')}).")
    rank = int(config["r"])
    return float(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _adapter_parts(adapter: Path) -> dict[str, tuple[Any, Any]]:
    """Return {name of the base's weight: (A, B)} with A (rank, in) and B (out, rank)."""
    from safetensors.torch import load_file

    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(f"{adapter} holds no adapter_model.safetensors.", expected="a LoRA adapter in PEFT's format")
    tensors = load_file(path)
    names = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
    parts = {f"{name.removeprefix(_PREFIX)}.weight": (tensors[name + _A], tensors[name + _B]) for name in names}
    if not parts or len(parts) * 2 != len(tensors):
        raise ModelError(f"{path} holds {len(tensors)} tensors, {len(parts)} of them pairs of LoRA matrices.")
    return parts


def _added(name: str, weight: Any, part: tuple[Any, Any], scale: float) -> Any:
    a, b = part
    if weight.shape != (b.shape[0], a.shape[1]):
        raise ModelError(
            f"The adapter changes {name} of shape {(b.shape[0], a.shape[1])}, the base has {tuple(weight.shape)}.",
            fix="merge the adapter with the base model it was trained on",
        )
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype).contiguous()
