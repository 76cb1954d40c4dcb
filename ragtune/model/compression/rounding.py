"""The INT4 format of the settings, and rounding to it without calibration: QAT trains with it, mixing decides by it."""

from typing import Any

from ragtune.model_settings import QuantizationSettings


def int4_weights(settings: QuantizationSettings) -> Any:
    """Return compressed-tensors' description of the INT4 weights."""
    from compressed_tensors.quantization import QuantizationArgs

    return QuantizationArgs(
        num_bits=4, type="int", strategy="group", group_size=settings.group_size, symmetric=settings.symmetric
    )


def round_to_nearest(weight: Any, scheme: Any) -> Any:
    """Return the numbers that a weight (out, in) stands for after each is rounded to its nearest level, in bf16.

    Each group gets the scale and zero point that cover its smallest and largest weight. The arithmetic is that of
    llm-compressor on a bf16 model, so the results are equal. Gradients do not flow through it.
    """
    import torch
    from compressed_tensors.quantization import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    with torch.no_grad():
        weight = weight.detach().bfloat16()
        low, high = torch.aminmax(weight.unflatten(-1, (-1, scheme.group_size)), dim=-1)
        return fake_quantize(weight, *calculate_qparams(low, high, scheme), scheme)
