"""Prepares a trained adapter for keeping in a repository: `python -m ragtune.model.adapters ADAPTER OUT`."""

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


def keep_adapter(adapter: Path, out: Path) -> int:
    """Write the adapter in bf16, half its size, with its report and without a tokenizer; return its bytes.

    Raises ModelError when `adapter` is not whole.
    """
    import torch
    from safetensors.torch import load_file, save_file

    missing = [name for name in (WEIGHTS, CONFIG, REPORT) if not (adapter / name).is_file()]
    if missing:
        raise ModelError(f"{adapter} lacks {', '.join(missing)}.", expected="an adapter that a training finished")
    config = json.loads((adapter / CONFIG).read_text())
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(adapter / WEIGHTS).items()}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    write_json(out / CONFIG, {**config, **dict.fromkeys(_MACHINE)})
    shutil.copyfile(adapter / REPORT, out / REPORT)
    return (out / WEIGHTS).stat().st_size


if __name__ == "__main__":
    sys.stdout.write(f"{keep_adapter(Path(sys.argv[1]), Path(sys.argv[2])):,} bytes\n")
