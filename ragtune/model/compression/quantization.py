"""Quantises a merged model: INT4 weights by GPTQ or AWQ, INT8 weights and activations, or a mix of both.

llm-compressor writes both in the format that vLLM loads. The result is then read again from the file headers, because
a model that was silently left unquantised looks the same from outside.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError
from ragtune.model.base.capacity import (
    ANY_MACHINE,
    GIB,
    Machine,
    chosen_device,
    require_disk,
    require_memory,
    use_threads,
)
from ragtune.model.base.conversations import Conversation, render_chat
from ragtune.model.base.finite import require_finite_folder
from ragtune.model.base.folder_checks import check_model_folder
from ragtune.model.base.folders import atomic_folder, copy_companions
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.compression.gptq_layout import to_gptq_layout
from ragtune.model.compression.mixed import layers_in_int8, measured_units
from ragtune.model.compression.rounding import check_group_size, int4_weights
from ragtune.model.compression.weights import GPTQ, inspect_weights
from ragtune.model_settings import QuantizationSettings
from ragtune.ports import Progress, silent
from ragtune.store.artifacts import MANIFEST

# Linear layers in one block of a Llama: four of attention, three of the feed-forward network.
_LINEAR_LAYERS = 7
# Conversations on which layers are compared before mixing: each layer reads all of them. Chosen by hand, not measured.
_MEASURED = 4
# Memory that quantising takes, in multiples of the bf16 weights; chosen by hand, not measured.
MEMORY_PER_WEIGHT = 4


def quantize_w4a16(
    merged: Path,
    calibration: Sequence[Conversation],
    settings: QuantizationSettings,
    out: Path,
    machine: Machine = ANY_MACHINE,
    progress: Progress = silent,
) -> Path:
    """Write the model with 4-bit weights to `out` by GPTQ (Frantar et al. 2023) and return `out`.

    `calibration` holds complete conversations like those that the model will meet; only the first
    `settings.calibration_samples` are used. Raises SettingsError if the group size does not divide the width of
    every layer, ModelError if the result is not INT4 or a weight before or after is NaN or infinite.
    """
    samples = _checked_samples(merged, calibration, settings)
    recipe = _gptq({"group_0": _int4_scheme(settings)})
    progress(f"quantising to INT4 with {len(samples)} samples", 0, 1)
    _compress(merged, out, recipe, samples, machine, progress)
    _require_precision(out, "w4a16")
    if settings.format == GPTQ:
        to_gptq_layout(out, out)
    progress("quantising to INT4", 1, 1)
    return out


def quantize_awq(
    merged: Path,
    calibration: Sequence[Conversation],
    settings: QuantizationSettings,
    out: Path,
    machine: Machine = ANY_MACHINE,
    progress: Progress = silent,
) -> Path:
    """Write the model with 4-bit weights to `out` by AWQ (Lin et al. 2024) and return `out`.

    The channels that matter most for the activations are scaled before rounding. Arguments and errors are those of
    `quantize_w4a16`.
    """
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    samples = _checked_samples(merged, calibration, settings)
    rounding = QuantizationModifier(config_groups={"group_0": _int4_scheme(settings)}, ignore=["lm_head"])
    progress(f"quantising to INT4 by AWQ with {len(samples)} samples", 0, 1)
    with _without_pinned_memory():
        _compress(merged, out, [AWQModifier(duo_scaling="both"), rounding], samples, machine, progress)
    _require_precision(out, "w4a16")
    progress("quantising to INT4 by AWQ", 1, 1)
    return out


def quantize_mixed(
    merged: Path,
    calibration: Sequence[Conversation],
    settings: QuantizationSettings,
    out: Path,
    machine: Machine = ANY_MACHINE,
    progress: Progress = silent,
) -> Path:
    """Write the model to `out` by GPTQ with 8 bits for the layers that lose most in 4, and return `out`.

    The weight files take at most the share `settings.mixed_size` of the merged ones. Other arguments and errors are
    those of `quantize_w4a16`; raises SettingsError if that size cannot be met by mixing.
    """
    from compressed_tensors.quantization import preset_name_to_scheme

    samples = _checked_samples(merged, calibration, settings)
    in_int8 = _layers_in_int8(merged, samples[:_MEASURED], settings, progress)
    groups = {
        "int8": preset_name_to_scheme("W8A8", [f"re:^{re.escape(name)}$" for name in in_int8]),
        "int4": _int4_scheme(settings),
    }
    progress(f"quantising to INT4 and {len(in_int8)} layers to INT8", 0, 1)
    _compress(merged, out, _gptq(groups), samples, machine, progress)
    _require_precision(out, "mixed")
    progress("quantising to INT4 and INT8", 1, 1)
    return out


def _layers_in_int8(
    merged: Path, samples: Sequence[Conversation], settings: QuantizationSettings, progress: Progress
) -> list[str]:
    """Return the layers that stay in 8 bits within the size of the settings."""
    import torch

    require_finite_folder(merged)
    tokens = _calibration_dataset(load_tokenizer(merged), samples)["input_ids"]
    model = load_model(merged)
    units = measured_units(model, [torch.tensor([row]) for row in tokens], int4_weights(settings), progress)
    weights = inspect_weights(merged)
    quantized = {f"{layer}.weight" for unit in units for layer in unit.layers}
    other = weights["bytes"] - 2 * sum(p.numel() for name, p in model.named_parameters() if name in quantized)
    return layers_in_int8(units, other, int(weights["bytes"] * settings.mixed_size))


def _checked_samples(
    merged: Path, calibration: Sequence[Conversation], settings: QuantizationSettings
) -> Sequence[Conversation]:
    """Return the samples for calibration; raise if there are none, or if the groups do not divide the model."""
    check_group_size(check_model_folder(merged), settings.group_size)
    if not calibration:
        raise ModelError(
            "Quantisation got no calibration samples.", expected="conversations", fix="pass training examples"
        )
    return calibration[: settings.calibration_samples]


def quantize_w8a8(merged: Path, out: Path, machine: Machine = ANY_MACHINE, progress: Progress = silent) -> Path:
    """Write the model with 8-bit weights to `out` and return `out`.

    The engine rounds activations to 8 bits as well, with one scale per token that it computes at run time; so no
    calibration is needed. Raises ModelError if the result is not INT8 or a weight before or after is NaN or infinite.
    """
    from llmcompressor.modifiers.quantization import QuantizationModifier

    check_model_folder(merged)
    progress("quantising to INT8", 0, 1)
    recipe = QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"])
    _compress(merged, out, recipe, (), machine, progress)
    _require_precision(out, "w8a8")
    progress("quantising to INT8", 1, 1)
    return out


def _require_precision(folder: Path, precision: str) -> None:
    """Raise ModelError unless every linear layer of the decoder is stored in the given precision, in finite numbers."""
    require_finite_folder(folder)
    weights = inspect_weights(folder)
    count = weights["packed_int4"] + weights["int8"]
    if weights["precision"] != precision or count % check_model_folder(folder)["num_hidden_layers"]:
        raise ModelError(
            f"The model written to {folder} is {weights['precision']}: {weights['packed_int4']} INT4, "
            f"{weights['int8']} INT8 and {weights['plain']} unquantised layers.",
            expected=f"every linear layer as {precision}",
        )


def _gptq(config_groups: dict[str, Any]) -> Any:
    """Return the recipe of GPTQ with our inner loop; `config_groups` are {name: llm-compressor's scheme}."""
    from llmcompressor.modifiers.gptq import GPTQModifier

    from ragtune.model.compression.gptq_kernel import register_gptq

    register_gptq()
    return GPTQModifier(config_groups=config_groups, ignore=["lm_head"])


def _int4_scheme(settings: QuantizationSettings) -> Any:
    from compressed_tensors.quantization import QuantizationScheme

    return QuantizationScheme(targets=["Linear"], weights=int4_weights(settings))


def _compress(
    merged: Path, out: Path, recipe: Any, samples: Sequence[Conversation], machine: Machine, progress: Progress
) -> None:
    """Apply an llm-compressor recipe, calibrated on `samples` if there are any, and write the folder atomically."""
    import torch

    device = chosen_device(machine.device)
    use_threads(machine.threads)
    require_finite_folder(merged)
    weight_bytes = sum(path.stat().st_size for path in merged.glob("*.safetensors"))
    require_memory(weight_bytes * MEMORY_PER_WEIGHT + GIB, "Quantising")
    require_disk(out, weight_bytes, "quantising")
    layers = _LINEAR_LAYERS * int(check_model_folder(merged)["num_hidden_layers"])
    with _log_as_progress(layers, progress):
        from llmcompressor import oneshot

        # On CUDA, llm-compressor itself moves one layer after the other to the device.
        model = load_model(merged, "cpu")
        if samples:
            dataset = _calibration_dataset(load_tokenizer(merged), samples)
            oneshot(
                model=model,
                dataset=dataset,
                recipe=recipe,
                max_seq_length=max(len(row) for row in dataset["input_ids"]),
                num_calibration_samples=len(samples),
                shuffle_calibration_samples=False,
                **({"pipeline": "sequential"} if device == "cuda" else {}),
            )
        else:
            oneshot(model=model, recipe=recipe)
        with atomic_folder(out) as scratch:
            # Scales and unquantised weights are stored in bf16, in whatever format the processor computed.
            model.to(torch.bfloat16).save_pretrained(scratch, save_compressed=True)
            names = tuple(path.name for path in scratch.iterdir())
            copy_companions(merged, scratch, leave_out=(*names, MANIFEST, "model.safetensors.index.json"))


def _calibration_dataset(tokenizer: Any, samples: Sequence[Conversation]) -> Any:
    from datasets import Dataset

    rows = [
        tokenizer(render_chat(tokenizer, sample.messages), add_special_tokens=False)["input_ids"] for sample in samples
    ]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})


@contextmanager
def _without_pinned_memory() -> Iterator[None]:
    """Keep llm-compressor 0.14 from pinning memory for a device that is not there, which ends AWQ on a CPU."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    pin = IntermediatesCache.pin_memory
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = pin


@contextmanager
def _log_as_progress(layers: int, progress: Progress) -> Iterator[None]:
    """Report llm-compressor's log lines as progress, and silence its warning about offloading: nothing is offloaded."""
    import llmcompressor  # noqa: F401 (it configures its log on import, so this must come before logger.remove)
    from loguru import logger

    done = 0

    def report(line: str) -> None:
        nonlocal done
        if match := re.match(r"Quantizing (\d+) module", line):
            done += int(match[1])
            progress("quantising layers", done, layers)

    logger.remove()
    sink = logger.add(report, level="INFO", format="{message}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded modules")
            yield
    finally:
        logger.remove(sink)
