"""Checks that a model folder is complete and safe to load, without loading it."""

import json
import struct
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError

_FIX = "point base_model.name at a complete folder in Hugging Face format (safetensors)"
_FIX_FILE = "download or build the file again"


def check_model_folder(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model folder.

    Raises ModelError if a file is missing or cut short, if the weights are pickled, or if the model needs its
    own Python code: loading pickles or foreign code would run whatever the model's author put there.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelError(f"{folder} holds no config.json.", expected="a folder in Hugging Face format", fix=_FIX)
    try:
        config: dict[str, Any] = json.loads(config_path.read_text())
    except ValueError as error:
        raise ModelError(f"{config_path} is not JSON: {error}", fix=_FIX) from error
    if "auto_map" in config:
        raise ModelError(
            f"{folder} needs its own Python code (auto_map), which is never trusted.",
            expected="an architecture that transformers ships, such as LlamaForCausalLM",
            fix=_FIX,
        )
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
        raise ModelError(f"{folder} holds no tokenizer.", expected="tokenizer.json or tokenizer.model", fix=_FIX)
    _check_weights(folder)
    return config


def read_safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Return {tensor: {dtype, shape, data_offsets}} from a safetensors file without reading its data.

    Raises ModelError if the file is cut short or is not a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        raw = stream.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else size
        if length + 8 > size:
            raise ModelError(f"{path} is not a complete safetensors file ({size} bytes).", fix=_FIX_FILE)
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelError(f"{path} has a damaged header: {error}", fix=_FIX_FILE) from error
    header.pop("__metadata__", None)
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if 8 + length + end != size:
        raise ModelError(f"{path} has {size} bytes, its header promises {8 + length + end}.", fix=_FIX_FILE)
    return header


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} lacks the weight files {', '.join(missing)}.", fix=_FIX)
    if not names:
        pickles = [path.name for path in folder.glob("*.bin")]
        content = f"only pickled weights ({', '.join(pickles)})" if pickles else "no weights"
        raise ModelError(f"{folder} holds {content}.", expected="*.safetensors", fix=_FIX)
    for name in names:
        read_safetensors_header(folder / name)
