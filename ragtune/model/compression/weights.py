"""Reads how a model folder stores its weights, and unpacks INT4 weights for engines that cannot read them."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError
from ragtune.model.base.capacity import require_disk
from ragtune.model.base.folder_checks import check_model_folder, read_safetensors_header
from ragtune.model.base.folders import atomic_folder, copy_companions
from ragtune.store.artifacts import MANIFEST

PACKED = "pack-quantized"
"""llm-compressor's name for INT4 weights packed into 32-bit words."""
GPTQ = "gptq"
"""The name of AutoGPTQ's layout of INT4 weights."""
MIXED = "mixed-precision"
"""llm-compressor's name for weights of which some layers are packed and others are INT8."""
_INT8 = "int-quantized"
_PACKED_WEIGHT = ".weight_packed"
_PACKED_TENSORS = (_PACKED_WEIGHT, ".qweight")
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1}
_INT4_IN_A_WORD = 8
# bf16 takes four times the bytes of INT4; one more for scales and layers that are not packed. By hand, not sensitive.
_UNPACKED_SIZE = 5


def storage_format(folder: Path) -> str:
    """Return the weight format that the configuration of a model folder names, or "" if it is not quantised."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    quantization = config.get("quantization_config", {})
    return str(quantization.get("format") or quantization.get("quant_method", ""))


def inspect_weights(folder: Path) -> dict[str, Any]:
    """Return what the weight files really contain, read from their headers.

    A model that was silently left unquantised has the same files and the same configuration as a quantised one,
    so only the headers can tell. Raises ModelError if a file is damaged.

    Returns:
        `precision` ("w4a16", "w8a8", "bf16" or "mixed"), `packed_int4` and `int8` (counts of quantised layers),
        `plain` (count of unquantised projections), `dtypes` {dtype: count of tensors}, `bytes` (all weight files),
        `quantized_bytes` (quantised layers alone) and `parameters` (count of weights, after unpacking).
    """
    tensors: dict[str, dict[str, Any]] = {}
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        tensors |= read_safetensors_header(file)
    if not tensors:
        raise ModelError(f"{folder} holds no weights.", expected="*.safetensors")
    sizes = {name: math.prod(tensor["shape"]) for name, tensor in tensors.items()}
    int4 = [name for name, t in tensors.items() if name.endswith(_PACKED_TENSORS) and t["dtype"] == "I32"]
    int8 = [name for name, t in tensors.items() if name.endswith(".weight") and t["dtype"] == "I8"]
    plain = [n for n, t in tensors.items() if n.endswith("proj.weight") and t["dtype"] in ("BF16", "F16", "F32")]
    quantized = {*int4, *int8}
    unquantized_size = sum(size for name, size in sizes.items() if name.endswith(".weight") and name not in quantized)
    return {
        "precision": _precision(len(int4), len(int8), len(plain)),
        "packed_int4": len(int4),
        "int8": len(int8),
        "plain": len(plain),
        "dtypes": dict(Counter(tensor["dtype"] for tensor in tensors.values())),
        "bytes": sum(file.stat().st_size for file in files),
        "quantized_bytes": sum(sizes[name] * _BYTES[tensors[name]["dtype"]] for name in quantized),
        "parameters": unquantized_size + sum(sizes[n] * _INT4_IN_A_WORD for n in int4) + sum(sizes[n] for n in int8),
    }


def unpack_w4a16(packed: Path, out: Path) -> Path:
    """Write a model to `out` with its INT4 weights as the bf16 numbers that they stand for, and return `out`.

    The result gives the same answers. It serves engines that have no INT4 kernel for their processor. INT8 layers of a
    mixed model stay INT8. Raises ModelError if the folder holds no INT4.
    """
    from compressed_tensors.quantization import QuantizationScheme

    config = check_model_folder(packed)
    if storage_format(packed) not in (PACKED, GPTQ, MIXED):
        raise ModelError(f"{packed} holds no packed INT4 weights.", expected="a folder that quantize_w4a16 wrote")
    quantization = config.pop("quantization_config")
    groups = quantization.get("config_groups", {})
    others = {name: group for name, group in groups.items() if group.get("format", PACKED) != PACKED}
    schemes = [QuantizationScheme.model_validate(group) for name, group in groups.items() if name not in others]
    if others:
        ignored = [*quantization["ignore"], *_packed_layers(packed)]
        config["quantization_config"] = {**quantization, "config_groups": others, "format": _INT8, "ignore": ignored}
    size = sum(file.stat().st_size for file in packed.glob("*.safetensors"))
    require_disk(out, _UNPACKED_SIZE * size, "unpacking INT4")
    return convert_weights(packed, out, config, lambda tensors: _unpacked(tensors, *schemes))


def convert_weights(
    source: Path, out: Path, config: dict[str, Any], convert: Callable[[dict[str, Any]], dict[str, Any]]
) -> Path:
    """Write a model folder to `out` with another configuration and converted weight files, and return `out`.

    `convert` gets and returns the tensors {name: tensor} of one file. `out` may be `source`.
    """
    from safetensors.torch import load_file, save_file

    with atomic_folder(out) as scratch:
        copy_companions(source, scratch, leave_out=(MANIFEST, "config.json", "model.safetensors.index.json"))
        for file in sorted(source.glob("*.safetensors")):
            save_file(convert(load_file(file)), scratch / file.name, metadata={"format": "pt"})
        (scratch / "config.json").write_text(json.dumps(config, indent=2))
    return out


def _unpacked(tensors: dict[str, Any], scheme: Any = None) -> dict[str, Any]:
    """Return the tensors of one file with unpacked weights; their scales and zero points are left out.

    `scheme` describes the packed weights of compressed-tensors; AutoGPTQ's need none.
    """
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor

    layers: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        layers[layer][part] = tensor
    unpacked: dict[str, Any] = {}
    for layer, parts in layers.items():
        plain = parts
        if "weight_packed" in parts:
            plain = _weight_and_bias(PackedQuantizationCompressor.decompress(parts, scheme))
        elif "qweight" in parts:
            plain = _weight_and_bias({**parts, "weight": _from_gptq(parts["qweight"], parts["scales"])})
        unpacked |= {f"{layer}.{part}": tensor.contiguous() for part, tensor in plain.items()}
    return unpacked


def _weight_and_bias(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: parts[name] for name in ("weight", "bias") if name in parts}


def _packed_layers(folder: Path) -> list[str]:
    """Return the names of the layers whose weights are packed, sorted."""
    names = [name for file in folder.glob("*.safetensors") for name in read_safetensors_header(file)]
    return sorted(name.removesuffix(_PACKED_WEIGHT) for name in names if name.endswith(_PACKED_WEIGHT))


def levels_of(words: Any) -> Any:
    """Return the levels from 0 to 15 of packed words (rows, columns / 8), as (rows, columns), the lowest bits first."""
    import torch

    return ((words.unsqueeze(-1) >> torch.arange(0, 32, 4, dtype=torch.int32)) & 0xF).flatten(-2)


def _from_gptq(words: Any, scales: Any) -> Any:
    """Return the bf16 weight (out, in) of AutoGPTQ's words (in / 8, out) and scales (groups, out), symmetric."""
    levels = levels_of(words.t().contiguous()) - 8
    group_size = levels.shape[1] // scales.shape[0]
    return (levels.float() * scales.t().float().repeat_interleave(group_size, dim=1)).bfloat16()


def _precision(int4: int, int8: int, plain: int) -> str:
    present = [name for name, count in (("w4a16", int4), ("w8a8", int8), ("bf16", plain)) if count]
    return present[0] if len(present) == 1 else "mixed"
