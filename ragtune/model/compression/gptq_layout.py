"""Writes INT4 weights in the layout of AutoGPTQ and GPTQModel, which more engines and tools read than ours.

The numbers are the same as in the layout of compressed-tensors; only their packing differs.
"""

import json
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError
from ragtune.model.compression.weights import GPTQ, PACKED, convert_weights, levels_of, storage_format

_BITS, _PER_WORD = 4, 8
_STORED_ZERO = 7
"""Zero points of a symmetric format are 8. The first version of the layout stores them minus 1."""


def to_gptq_layout(packed: Path, out: Path) -> Path:
    """Write an INT4 model of `quantize_w4a16` to `out` in AutoGPTQ's layout, and return `out`.

    Raises ModelError if the model is not symmetric: engines read nothing else in this layout.
    """
    config: dict[str, Any] = json.loads((packed / "config.json").read_text())
    if storage_format(packed) != PACKED:
        raise ModelError(f"{packed} holds no packed INT4 weights.", expected="a folder that quantize_w4a16 wrote")
    [group] = config["quantization_config"]["config_groups"].values()
    weights = group["weights"]
    if not weights["symmetric"]:
        raise ModelError(
            f"{packed} is asymmetric.", expected="symmetric INT4 weights", fix="set quantization.symmetric: true"
        )
    config["quantization_config"] = {
        "quant_method": GPTQ,
        "checkpoint_format": GPTQ,
        "bits": _BITS,
        "group_size": weights["group_size"],
        "sym": True,
        "desc_act": False,
        "lm_head": False,
    }
    return convert_weights(packed, out, config, lambda tensors: _converted(tensors, weights["group_size"]))


def _converted(tensors: dict[str, Any], group_size: int) -> dict[str, Any]:
    """Return the tensors of a file with each packed layer in AutoGPTQ's layout."""
    import torch

    converted: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if part == "weight_packed":
            rows, columns = (int(size) for size in tensors[f"{layer}.weight_shape"])
            scales = tensors[f"{layer}.weight_scale"]
            # Both layouts store levels of 0 to 15. Ours packs along the inputs of (out, in), AutoGPTQ's of (in, out).
            levels = levels_of(tensor)[:, :columns]
            zeros = torch.full((columns // group_size, rows), _STORED_ZERO, dtype=torch.int32)
            converted[f"{layer}.qweight"] = _packed(levels).t().contiguous()
            converted[f"{layer}.qzeros"] = _packed(zeros)
            converted[f"{layer}.scales"] = scales.t().contiguous().half()
            converted[f"{layer}.g_idx"] = (torch.arange(columns) // group_size).int()
        elif part not in ("weight_scale", "weight_shape", "weight_zero_point"):
            converted[name] = tensor
    return converted


def _packed(levels: Any) -> Any:
    """Return words (rows, columns / 8) of levels (rows, columns) from 0 to 15, the first in the lowest bits."""
    import torch

    shifts = torch.arange(0, 32, _BITS, dtype=torch.int64)
    words = (levels.reshape(levels.shape[0], -1, _PER_WORD).to(torch.int64) << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
