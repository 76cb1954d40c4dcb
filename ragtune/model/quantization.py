"""Two quantised forms of one merged model: INT4 weights by GPTQ, and INT8 weights and activations.

llm-compressor writes both in the format that vLLM loads. What was written is read back from the
file headers, because a model that was silently left unquantised looks just the same from outside.
"""

import json
import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError, SettingsError
from ragtune.model.capacity import GIB, chosen_device, require_disk, require_memory, use_threads
from ragtune.model.folders import atomic_folder, copy_companions
from ragtune.model.pretrained import (
    Conversation,
    check_model_folder,
    load_model,
    load_tokenizer,
    read_safetensors_header,
    render_chat,
)
from ragtune.ports import Progress, silent
from ragtune.settings import QuantizationSettings
from ragtune.store.artifacts import MANIFEST

PACKED = "pack-quantized"
"""llm-compressor's name for INT4 weights, eight in a word."""
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1}
_LINEAR = 7
"""Linear layers in one block of a Llama."""
_PACKED = 8
"""INT4 values in one 32-bit word."""


def quantize_w4a16(
    merged: Path,
    calibration: Sequence[Conversation],
    settings: QuantizationSettings,
    out: Path,
    device: str = "auto",
    threads: int = 0,
    progress: Progress = silent,
) -> Path:
    """Write the model with 4-bit weights by GPTQ (Frantar et al. 2023) to `out` and return it.

    `calibration` holds whole conversations as the model meets them in use; the first ones are taken. Raises
    SettingsError when the group size does not divide the layers, ModelError when the result is not INT4.
    """
    from llmcompressor.modifiers.gptq import GPTQModifier

    from ragtune.model.kernels import register_gptq

    register_gptq()
    config = check_model_folder(merged)
    _check_group_size(config, settings.group_size)
    if not calibration:
        raise ModelError("GPTQ got no calibration samples.", expected="conversations", fix="pass training examples")
    recipe = GPTQModifier(config_groups={"group_0": _int4_scheme(settings)}, ignore=["lm_head"])
    samples = calibration[: settings.calibration_samples]
    progress(f"quantising to INT4 with {len(samples)} samples", 0, 1)
    _compress(merged, out, recipe, device, threads, progress, samples)
    _require(out, "w4a16", config)
    progress("quantising to INT4", 1, 1)
    return out


def quantize_w8a8(merged: Path, out: Path, device: str = "auto", threads: int = 0, progress: Progress = silent) -> Path:
    """Write the model with 8-bit weights and activations scaled per token at run time to `out`; no calibration.

    Raises ModelError when the result is not INT8.
    """
    from llmcompressor.modifiers.quantization import QuantizationModifier

    config = check_model_folder(merged)
    progress("quantising to INT8", 0, 1)
    recipe = QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"])
    _compress(merged, out, recipe, device, threads, progress)
    _require(out, "w8a8", config)
    progress("quantising to INT8", 1, 1)
    return out


def unpack_w4a16(packed: Path, out: Path) -> Path:
    """Write an INT4 model as the bf16 numbers that its weights stand for, and return `out`.

    It answers like the packed one and is as large as an unquantised model: for an engine that has no kernel
    for INT4 on its processor. Raises ModelError when the folder is not INT4.
    """
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from safetensors.torch import load_file, save_file

    config = check_model_folder(packed)
    if storage_format(packed) != PACKED:
        raise ModelError(f"{packed} holds no packed INT4 weights.", expected="a folder that quantize_w4a16 wrote")
    [group] = config.pop("quantization_config")["config_groups"].values()
    scheme = QuantizationScheme.model_validate(group)
    require_disk(out, 5 * sum(path.stat().st_size for path in packed.glob("*.safetensors")), "Unpacking INT4")
    with atomic_folder(out) as scratch:
        copy_companions(packed, scratch, leave_out=(MANIFEST, "config.json", "model.safetensors.index.json"))
        for file in sorted(packed.glob("*.safetensors")):
            layers: dict[str, dict[str, Any]] = defaultdict(dict)
            for name, tensor in load_file(file).items():
                layer, _, part = name.rpartition(".")
                layers[layer][part] = tensor
            whole: dict[str, Any] = {}
            for layer, parts in layers.items():
                found = PackedQuantizationCompressor.decompress(parts, scheme) if "weight_packed" in parts else parts
                whole |= {f"{layer}.{part}": found[part].contiguous() for part in ("weight", "bias") if part in found}
            save_file(whole, scratch / file.name, metadata={"format": "pt"})
        (scratch / "config.json").write_text(json.dumps(config, indent=2))
    return out


def storage_format(folder: Path) -> str:
    """Return how the configuration of a model folder says its weights are stored; empty when unquantised."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return str(config.get("quantization_config", {}).get("format", ""))


def inspect_weights(folder: Path) -> dict[str, Any]:
    """Return what the weight files really hold, read from their headers.

    `precision` ("w4a16", "w8a8", "bf16" or "mixed"), `packed_int4` and `int8` (quantised layers),
    `plain` (other matrices), `dtypes` {dtype: tensors}, `bytes` (weight files), `quantized_bytes`,
    `parameters` (weights, unpacked). Raises ModelError for a damaged file.
    """
    tensors: dict[str, dict[str, Any]] = {}
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        tensors |= read_safetensors_header(file)
    if not tensors:
        raise ModelError(f"{folder} holds no weights.", expected="*.safetensors")
    sizes = {name: math.prod(tensor["shape"]) for name, tensor in tensors.items()}
    int4 = [name for name, t in tensors.items() if name.endswith(".weight_packed") and t["dtype"] == "I32"]
    int8 = [name for name, t in tensors.items() if name.endswith(".weight") and t["dtype"] == "I8"]
    plain = [n for n, t in tensors.items() if n.endswith("proj.weight") and t["dtype"] in ("BF16", "F16", "F32")]
    quantized = {*int4, *int8}
    others = sum(size for name, size in sizes.items() if name.endswith(".weight") and name not in quantized)
    return {
        "precision": _precision(len(int4), len(int8), len(plain)),
        "packed_int4": len(int4),
        "int8": len(int8),
        "plain": len(plain),
        "dtypes": dict(Counter(tensor["dtype"] for tensor in tensors.values())),
        "bytes": sum(file.stat().st_size for file in files),
        "quantized_bytes": sum(sizes[name] * _BYTES[tensors[name]["dtype"]] for name in quantized),
        "parameters": others + sum(sizes[n] * _PACKED for n in int4) + sum(sizes[n] for n in int8),
    }


def _precision(int4: int, int8: int, plain: int) -> str:
    kinds = [name for name, count in (("w4a16", int4), ("w8a8", int8), ("bf16", plain)) if count]
    return kinds[0] if len(kinds) == 1 else "mixed"


def _require(folder: Path, precision: str, config: dict[str, Any]) -> None:
    """Raise ModelError unless every linear layer of the decoder is in the given precision."""
    found = inspect_weights(folder)
    count = found["packed_int4"] if precision == "w4a16" else found["int8"]
    if found["precision"] != precision or count % config["num_hidden_layers"]:
        raise ModelError(
            f"What was written to {folder} is {found['precision']}: {found['packed_int4']} INT4, {found['int8']} INT8 "
            f"and {found['plain']} unquantised layers.",
            expected=f"every linear layer as {precision}",
        )


def _check_group_size(config: dict[str, Any], group_size: int) -> None:
    width = config["num_attention_heads"] * config.get(
        "head_dim", config["hidden_size"] // config["num_attention_heads"]
    )
    columns = {config["hidden_size"], config["intermediate_size"], width}
    odd = sorted(size for size in columns if size % group_size)
    if odd:
        fits = [size for size in (16, 32, 64, 128, 256) if all(column % size == 0 for column in columns)]
        raise SettingsError(
            f"quantization.group_size is {group_size}, which does not divide the layer widths {odd}.",
            expected=f"one of {fits}",
            fix="correct quantization.group_size",
        )


def _int4_scheme(settings: QuantizationSettings) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weights = QuantizationArgs(
        num_bits=4, type="int", strategy="group", group_size=settings.group_size, symmetric=settings.symmetric
    )
    return QuantizationScheme(targets=["Linear"], weights=weights)


def _compress(
    merged: Path,
    out: Path,
    recipe: Any,
    device: str,
    threads: int,
    progress: Progress,
    samples: Sequence[Conversation] = (),
) -> None:
    """Run one llm-compressor recipe and write the result as a whole folder."""
    import torch

    chosen = chosen_device(device)
    use_threads(threads)
    weights = sum(path.stat().st_size for path in merged.glob("*.safetensors"))
    require_memory(int(weights * 4 + GIB), "Quantising")
    require_disk(out, weights, "Quantising")
    layers = _LINEAR * int(check_model_folder(merged)["num_hidden_layers"])
    with _heard(layers, progress):
        from llmcompressor import oneshot

        # On CUDA llm-compressor itself moves one layer after the other to the device.
        model = load_model(merged, "cpu")
        if samples:
            data = _calibration(load_tokenizer(merged), samples)
            oneshot(
                model=model,
                dataset=data,
                recipe=recipe,
                max_seq_length=max(len(row) for row in data["input_ids"]),
                num_calibration_samples=len(samples),
                shuffle_calibration_samples=False,
                **({"pipeline": "sequential"} if chosen == "cuda" else {}),
            )
        else:
            oneshot(model=model, recipe=recipe)
        with atomic_folder(out) as scratch:
            # Scales and what stays unquantised are kept in bf16, whatever the processor computed in.
            model.to(torch.bfloat16).save_pretrained(scratch, save_compressed=True)
            own = tuple(path.name for path in scratch.iterdir())
            copy_companions(merged, scratch, leave_out=(*own, MANIFEST, "model.safetensors.index.json"))


def _calibration(tokenizer: Any, samples: Sequence[Conversation]) -> Any:
    from datasets import Dataset

    rows = [
        tokenizer(render_chat(tokenizer, sample.messages), add_special_tokens=False)["input_ids"] for sample in samples
    ]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})


@contextmanager
def _heard(layers: int, progress: Progress) -> Iterator[None]:
    """Turn llm-compressor's log into progress, and silence a warning about offloading where nothing is offloaded."""
    import llmcompressor  # noqa: F401 (it configures the log when it loads)
    from loguru import logger

    done = 0

    def hear(line: str) -> None:
        nonlocal done
        if found := re.match(r"Quantizing (\d+) module", line):
            done += int(found[1])
            progress("quantising layers", done, layers)

    logger.remove()
    listener = logger.add(hear, level="INFO", format="{message}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded modules")
            yield
    finally:
        logger.remove(listener)
