"""The INT4 format of the settings, and rounding to it without calibration: QAT trains with it, mixing decides by it."""

import hashlib
from typing import Any

from ragtune.errors import SettingsError
from ragtune.model_settings import QuantizationSettings, TrainingSettings

# Group sizes that the error message may suggest: the usual powers of two.
_GROUP_SIZES = (16, 32, 64, 128, 256)


def int4_weights(settings: QuantizationSettings) -> Any:
    """Return compressed-tensors' description of the INT4 weights."""
    from compressed_tensors.quantization import QuantizationArgs

    return QuantizationArgs(
        num_bits=4, type="int", strategy="group", group_size=settings.group_size, symmetric=settings.symmetric
    )


def check_group_size(config: dict[str, Any], group_size: int) -> None:
    """Raise SettingsError if a width in a model's configuration is not a multiple of `quantization.group_size`."""
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    widths = {config["hidden_size"], config["intermediate_size"], config["num_attention_heads"] * head_dim}
    indivisible = sorted(width for width in widths if width % group_size)
    if indivisible:
        valid = [size for size in _GROUP_SIZES if all(width % size == 0 for width in widths)]
        raise SettingsError(
            f"quantization.group_size is {group_size}, which does not divide the layer widths {indivisible}.",
            expected=f"one of {valid}",
            fix="correct quantization.group_size",
        )


def check_rounding(config: dict[str, Any], settings: TrainingSettings, rounding: QuantizationSettings | None) -> None:
    """Raise SettingsError if `training.qat` has no INT4 format, or one that does not fit the base model.

    `config` is the configuration of the base model.
    """
    if not settings.qat:
        return
    if rounding is None:
        raise SettingsError(
            "training.qat is true, and the training got no INT4 format to round to.",
            expected="the settings of quantisation",
            fix="pass them as TrainingJob.rounding, or set training.qat: false",
        )
    check_group_size(config, rounding.group_size)


def rounded_fingerprint(fingerprint: str, rounding: QuantizationSettings | None) -> str:
    """Return the fingerprint of a training together with the INT4 format that it rounds to, if it does."""
    if rounding is None:
        return fingerprint
    return hashlib.sha256(f"{fingerprint} {rounding.group_size} {rounding.symmetric}".encode()).hexdigest()


def round_to_nearest(weight: Any, scheme: Any) -> Any:
    """Return the numbers that a weight (out, in) stands for after each is rounded to its nearest level, in bf16.

    Each group gets the scale and zero point that cover its smallest and largest weight. The arithmetic is that of
    llm-compressor on a bf16 model, so the results are equal. Gradients do not flow through it.
    """
    import torch
    from compressed_tensors.quantization.utils import calculate_qparams, calculate_range

    with torch.no_grad():
        groups = weight.detach().bfloat16().reshape(-1, scheme.group_size)
        # A column per group, so that each operation runs over consecutive memory.
        columns = groups.t().contiguous()
        step, zero = calculate_qparams(*torch.aminmax(columns, dim=0), scheme)
        least, most = (float(bound) for bound in calculate_range(scheme, weight.device))
        zero = zero.to(columns.dtype)
        columns.div_(step).add_(zero).clamp_(least, most).round_().sub_(zero).mul_(step)
        return columns.t().reshape(weight.shape)
