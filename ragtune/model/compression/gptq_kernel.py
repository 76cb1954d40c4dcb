"""A faster inner loop for llm-compressor's GPTQ on a CPU, with the same results.

llm-compressor spends most of its time between the small operations of one column. Import this module only inside
functions: it needs torch.
"""

from typing import Any

import torch


def register_gptq() -> None:
    """Make llm-compressor use `gptq_block` for weights on a CPU; calling it again changes nothing."""
    from compressed_tensors.utils.impl_backend import ImplBackend

    if gptq_block.__name__ not in ImplBackend._fn_registry:
        ImplBackend.register("gptq_block_update", _is_int_on_cpu, 0)(gptq_block)


def gptq_block(
    weights: Any, inverse: Any, quantized: Any, errors: Any, losses: Any, *, quant_args: Any, i1: int, **grid: Any
) -> None:
    """Quantise one block of columns, spreading the error of each over the columns after it (GPTQ, algorithm 1).

    The results equal those of llm-compressor's own loop, whose signature this is. The block is transposed first,
    so that each column lies in consecutive memory: that makes it four times as fast
    (docs/decisions/gptq-loop-on-a-cpu.md).

    Args:
        weights: (batch, rows, columns) in float32.
        inverse: factor of the inverse Hessian, (batch, columns, columns) in float32.
        quantized: receives the quantised weights, shaped like `weights`.
        errors: receives the error of each weight divided by its diagonal entry of `inverse`.
        losses: receives the squares of `errors`.
        quant_args: llm-compressor's description of the integer format.
        i1: position of the block's first column in the whole weight.
        grid: scales, zero points and group indices of the whole weight.
    """
    from compressed_tensors.quantization.utils import calculate_range
    from llmcompressor.modifiers.gptq.helpers import column_scale_window

    rows, columns = weights.shape[-2:]
    scales, zeros = column_scale_window(**grid, quant_args=quant_args, num_rows=rows, i1=i1, i2=i1 + columns)
    low, high = (float(bound) for bound in calculate_range(quant_args, weights.device))
    for b in range(weights.shape[0]):
        work, step = weights[b].t().contiguous(), scales[b].t().contiguous()
        zero = torch.zeros_like(step) if zeros is None else zeros[b].t().contiguous().to(step.dtype)
        fine_step, fine_zero = step.float(), zero.float()
        grid_values, error = torch.empty_like(work), torch.empty_like(work)
        for i in range(columns):
            level = work[i].div(fine_step[i]).add_(fine_zero[i]).clamp_(low, high).round_()
            grid_values[i] = level.to(step.dtype).sub_(zero[i]).mul_(step[i])
            torch.sub(work[i], grid_values[i], out=error[i]).div_(inverse[b, i, i])
            work[i + 1 :].addr_(inverse[b, i, i + 1 :], error[i], alpha=-1)
        quantized[b], errors[b], losses[b] = grid_values.t(), error.t(), error.t().square()


def _is_int_on_cpu(weights: Any, *_: Any, quant_args: Any, **__: Any) -> bool:
    on_cpu: bool = weights.dim() == 3 and weights.device.type == "cpu" and quant_args.type == "int"
    return on_cpu
