"""Three operations that are cheap on a CPU; exact, and checked against the libraries' own.

PyTorch's attention is slow backwards on a CPU (ten times its forward), PEFT's adapted layer adds
several passes over full-size tensors, and llm-compressor's GPTQ spends most of its time between the
small operations of one column. Import this module only inside functions: it needs torch.
"""

from types import MethodType
from typing import Any

import torch

ATTENTION = "ragtune_causal"
_BLOCK = 128
_KEEP_BYTES = 64 << 20


class _AdaptedLinear(torch.autograd.Function):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ with W frozen, in x's precision; A and B may be kept in float32."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        a16, b16 = a.to(x.dtype), b.to(x.dtype)
        inner = torch.mm(rows, a16.t()).mul_(scale)
        y = torch.nn.functional.linear(rows, weight, bias).addmm_(inner, b16.t())
        ctx.save_for_backward(rows, weight, a16, b16, inner)
        ctx.scale, ctx.shape, ctx.precision = scale, x.shape, a.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        rows, weight, a16, b16, inner = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        d_inner = torch.mm(dy, b16).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(dy, weight).addmm_(d_inner, a16).view(ctx.shape)
        da = torch.mm(d_inner.t(), rows).to(ctx.precision)
        db = torch.mm(dy.t(), inner).to(ctx.precision)
        return dx, None, None, da, db, None


def fuse_adapters(model: Any, adapter: str = "default") -> int:
    """Let every LoRA layer of a PEFT model compute in one operation; return how many do.

    Only layers without dropout, DoRA or a bias of their own are touched, so the result is the same.
    """
    from peft.tuners.lora import Linear

    fused = 0
    for layer in model.modules():
        if not isinstance(layer, Linear) or adapter not in layer.lora_A or layer.lora_variant:
            continue
        if not isinstance(layer.lora_dropout[adapter], torch.nn.Identity) or layer.lora_B[adapter].bias is not None:
            continue
        setattr(layer, "forward", MethodType(_adapted_forward, layer))  # noqa: B010 (mypy: a method)
        fused += 1
    return fused


def _adapted_forward(layer: Any, x: Any) -> Any:
    base, name = layer.get_base_layer(), layer.active_adapters[0]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _AdaptedLinear.apply(x, base.weight, base.bias, a, b, layer.scaling[name])


class _CausalAttention(torch.autograd.Function):
    """Causal attention by blocks of queries, each over the keys it may see.

    q (B, K, G, L, D) holds G query heads per key head, k and v (B, K, S, D); the last query sees
    the last key. Probabilities are kept for the way back while they are small.
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, scale: float, hidden: Any) -> Any:
        batch, kv_heads, group, length, width = q.shape
        q = (q * scale).contiguous()
        k, v = k.reshape(batch * kv_heads, -1, width), v.reshape(batch * kv_heads, -1, width)
        out = torch.empty_like(q)
        keep = q.numel() // width * k.shape[1] * q.element_size() <= _KEEP_BYTES
        kept = []
        for start in range(0, length, _BLOCK):
            stop = min(start + _BLOCK, length)
            p = _probabilities(_rows(q, start, stop), k, start, stop, length, hidden)
            piece = torch.bmm(p, v[:, : p.shape[-1]])
            out[:, :, :, start:stop] = piece.view(batch, kv_heads, group, stop - start, width)
            if keep:
                kept.append(p)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.scale, ctx.kept, ctx.hidden = scale, keep, hidden
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        batch, kv_heads, group, length, width = q.shape
        d_out = grads[0]
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, start in enumerate(range(0, length, _BLOCK)):
            stop = min(start + _BLOCK, length)
            rows, d_rows = _rows(q, start, stop), _rows(d_out, start, stop)
            p = kept[i] if ctx.kept else _probabilities(rows, k, start, stop, length, ctx.hidden)
            seen = p.shape[-1]
            dv[:, :seen] += torch.bmm(p.transpose(1, 2), d_rows)
            dp = torch.bmm(d_rows, v[:, :seen].transpose(1, 2))
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            dk[:, :seen] += torch.bmm(ds.transpose(1, 2), rows)
            d_block = torch.bmm(ds, k[:, :seen]).view(batch, kv_heads, group, stop - start, width)
            dq[:, :, :, start:stop] = d_block
        shape = (batch, kv_heads, -1, width)
        return dq.mul_(ctx.scale), dk.view(shape), dv.view(shape), None, None


def _rows(x: Any, start: int, stop: int) -> Any:
    """Return the queries start to stop of every head, as (batch × key heads, group × queries, width)."""
    batch, kv_heads, group, _, width = x.shape
    return x[:, :, :, start:stop].reshape(batch * kv_heads, group * (stop - start), width)


def _probabilities(rows: Any, k: Any, start: int, stop: int, length: int, hidden: Any) -> Any:
    seen = k.shape[1] - length + stop
    scores = torch.bmm(rows, k[:, :seen].transpose(1, 2))
    size = stop - start
    if hidden is not None:
        scores.view(hidden.shape[0], -1, size, seen).masked_fill_(hidden[:, None, start:stop, :seen], float("-inf"))
    later = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1)
    scores.view(scores.shape[0], -1, size, seen)[..., seen - size :].masked_fill_(later, float("-inf"))
    return torch.softmax(scores, -1)


def causal_attention(q: Any, k: Any, v: Any, scale: float, hidden: Any = None) -> Any:
    """Return softmax(scale q kᵀ) v under the causal rule, of q's shape.

    q (batch, heads, queries, width); k and v (batch, key heads, keys, width), heads a multiple of
    key heads, keys at least queries. `hidden` (batch, queries, keys) is true where a query must not
    look at a key before it.
    """
    batch, heads, length, width = q.shape
    grouped = q.reshape(batch, k.shape[1], heads // k.shape[1], length, width)
    return _CausalAttention.apply(grouped, k, v, scale, hidden).view(batch, heads, length, width)


def register_attention() -> str:
    """Make the attention known to transformers under the returned name.

    It ignores padding, which is right where sequences are padded at their end: no real token looks
    at a later one. A mask of shape (batch, 1, queries, keys) that the caller gives is obeyed.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention_layer)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    return ATTENTION


def _attention_layer(
    _module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, dropout: float = 0.0, **_: Any
) -> tuple[Any, None]:
    if dropout:
        raise NotImplementedError("attention dropout")
    hidden = None if mask is None else ~mask[:, 0]
    return causal_attention(query, key, value, scaling, hidden).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def register_gptq() -> None:
    """Let llm-compressor use `gptq_block` for blocks of a weight on a CPU; calling it again changes nothing."""
    from compressed_tensors.utils.impl_backend import ImplBackend

    if gptq_block.__name__ not in ImplBackend._fn_registry:
        ImplBackend.register("gptq_block_update", _is_int_on_cpu, 0)(gptq_block)


def gptq_block(
    weights: Any, inverse: Any, kept: Any, errors: Any, losses: Any, *, quant_args: Any, i1: int, **grid: Any
) -> None:
    """Quantise one block of columns in place, each error spread over the columns behind it (GPTQ, algorithm 1).

    `weights`, and the results `kept`, `errors` and `losses`, are (batch, rows, columns) in float32; `inverse`
    is the factor of the inverse Hessian, (batch, columns, columns). The results are those of llm-compressor's
    own loop. The block is turned round, so that a column is one run of memory.
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
        kept[b], errors[b], losses[b] = grid_values.t(), error.t(), error.t().square()


def _is_int_on_cpu(weights: Any, *_: Any, quant_args: Any, **__: Any) -> bool:
    on_cpu: bool = weights.dim() == 3 and weights.device.type == "cpu" and quant_args.type == "int"
    return on_cpu
