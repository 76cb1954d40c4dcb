"""LoRA adapters as folders: starts a training from an earlier adapter, and exports one to a repository.

The export is a command: `python -m ragtune.model.training.adapters ADAPTER OUT [SHARE]`.
"""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError
from ragtune.model.base.finite import require_finite
from ragtune.model.base.merge import lora_scale
from ragtune.model.training.report import REPORT
from ragtune.model_settings import TrainingSettings
from ragtune.store.artifacts import write_json

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Settings of an adapter that only describe the machine on which it was trained.
_MACHINE_FIELDS = ("base_model_name_or_path", "peft_version")


def earlier_adapter(settings: TrainingSettings) -> Path | None:
    """Return the weight file of the adapter in `training.start_from`, or None if training starts from zero.

    Raises ModelError if there is no adapter, or if its kind, its scale or the layers that it adapts do not fit the
    settings.
    """
    if not settings.start_from:
        return None
    folder = Path(settings.start_from)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"{folder} holds no adapter.",
            expected=f"{CONFIG} and {WEIGHTS}",
            fix="correct training.start_from, or leave it empty to train a new adapter",
        )
    config = json.loads((folder / CONFIG).read_text())
    rank, alpha, rslora = int(config["r"]), config["lora_alpha"], bool(config.get("use_rslora"))
    if (rslora, bool(config.get("use_dora"))) != (settings.use_rslora, settings.use_dora):
        raise ModelError(
            f"The adapter in {folder} has use_rslora: {rslora} and use_dora: {config.get('use_dora')}.",
            expected=f"use_rslora: {settings.use_rslora} and use_dora: {settings.use_dora}, as in the settings",
            fix="set training.use_rslora and training.use_dora to those of the adapter",
        )
    scales = lora_scale(rank, alpha, rslora), lora_scale(settings.rank, settings.alpha, rslora)
    if rank > settings.rank or not math.isclose(*scales):
        raise ModelError(
            f"The adapter in {folder} has rank {rank} and alpha {alpha}, which is a scale of {scales[0]:g}.",
            expected=f"at most training.rank {settings.rank}, and the scale {scales[1]:g} of training.alpha",
            fix="set training.rank to that of the adapter or a larger one, and training.alpha to keep the scale",
        )
    return folder / WEIGHTS


def load_adapter(model: Any, weights: Path) -> None:
    """Load the weights of an earlier adapter into a PEFT model; raise ModelError if they do not fit or are not finite.

    If the model has a larger rank, the adapter fills the first part of each matrix. The rest of A stays as it was
    drawn and the rest of B zero, so that the model begins as the earlier adapter left it.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    earlier, current = load_file(weights), get_peft_model_state_dict(model)
    require_finite(earlier.items(), weights)
    tensors = {name: _widened(tensor, current[name]) if name in current else tensor for name, tensor in earlier.items()}
    try:
        mismatch = set_peft_model_state_dict(model, tensors)
    except RuntimeError as error:
        raise ModelError(f"The adapter {weights} belongs to another base model: {error}") from error
    missing = [name for name in mismatch.missing_keys if "lora_" in name]
    if missing or mismatch.unexpected_keys:
        raise ModelError(
            f"The adapter {weights} does not fit the base model: {len(missing)} tensors are missing, "
            f"{len(mismatch.unexpected_keys)} are unknown.",
            expected="an adapter of the same base model and of the layers in training.target_modules",
        )


def _widened(tensor: Any, into: Any) -> Any:
    """Return `into` with the tensor in its first rows and columns, or the tensor itself if it does not fit."""
    if tensor.dim() != into.dim() or any(a > b for a, b in zip(tensor.shape, into.shape, strict=True)):
        return tensor
    wide = into.detach().clone()
    wide[: tensor.shape[0], : tensor.shape[1]] = tensor
    return wide


def export_adapter(adapter: Path, out: Path, share: float = 1.0) -> int:
    """Write the adapter to `out` in bf16 with its report but without a tokenizer, and return its size in bytes.

    With a share below 1, its weights are averaged with those of the adapter in `out`, from which it was trained:
    the average loses less of what the earlier adapter could do (Wortsman et al. 2022, "Robust fine-tuning of
    zero-shot models"). Raises ModelError if `adapter`, or `out` when averaging, is incomplete.
    """
    import torch
    from safetensors.torch import load_file, save_file

    for folder in (adapter, *([out] if share < 1 else [])):
        missing = [name for name in (WEIGHTS, CONFIG, REPORT) if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder} lacks {', '.join(missing)}.", expected="the adapter of a finished training")
    config = json.loads((adapter / CONFIG).read_text())
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.float() for name, tensor in load_file(adapter / WEIGHTS).items()}
    if share < 1:
        earlier = load_file(out / WEIGHTS)
        for name, tensor in tensors.items():
            # The part by which a larger rank widened the earlier adapter: there B was zero, and A does not matter.
            rest = torch.zeros_like(tensor) if "lora_B" in name else tensor
            tensors[name] = share * tensor + (1 - share) * _widened(earlier[name].float(), rest)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    write_json(out / CONFIG, {**config, **dict.fromkeys(_MACHINE_FIELDS)})
    shutil.copyfile(adapter / REPORT, out / REPORT)
    return (out / WEIGHTS).stat().st_size


if __name__ == "__main__":
    source, target, *shares = sys.argv[1:]
    sys.stdout.write(f"{export_adapter(Path(source), Path(target), *map(float, shares)):,} bytes\n")
