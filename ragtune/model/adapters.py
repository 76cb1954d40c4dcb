"""Prepares a trained adapter for keeping in a repository: `python -m ragtune.model.adapters ADAPTER OUT [SHARE]`."""

import json
import shutil
import sys
from pathlib import Path

from ragtune.errors import ModelError
from ragtune.model.sft import REPORT
from ragtune.store.artifacts import write_json

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_MACHINE = ("base_model_name_or_path", "peft_version")
"""Settings of the adapter that only say where it was trained."""


def keep_adapter(adapter: Path, out: Path, share: float = 1.0) -> int:
    """Write the adapter in bf16, half its size, with its report and without a tokenizer; return its bytes.

    With a share below 1 its weights are averaged with those in `out`, from which it was trained further: that
    keeps more of what those could do (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").

    Raises ModelError when `adapter` is not whole, or `out` is not where it is to be averaged.
    """
    import torch
    from safetensors.torch import load_file, save_file

    for folder in (adapter, *([out] if share < 1 else [])):
        missing = [name for name in (WEIGHTS, CONFIG, REPORT) if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder} lacks {', '.join(missing)}.", expected="an adapter that a training finished")
    config = json.loads((adapter / CONFIG).read_text())
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.float() for name, tensor in load_file(adapter / WEIGHTS).items()}
    if share < 1:
        before = load_file(out / WEIGHTS)
        tensors = {name: share * tensor + (1 - share) * before[name].float() for name, tensor in tensors.items()}
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    write_json(out / CONFIG, {**config, **dict.fromkeys(_MACHINE)})
    shutil.copyfile(adapter / REPORT, out / REPORT)
    return (out / WEIGHTS).stat().st_size


if __name__ == "__main__":
    given, kept, *shares = sys.argv[1:]
    sys.stdout.write(f"{keep_adapter(Path(given), Path(kept), *map(float, shares)):,} bytes\n")
