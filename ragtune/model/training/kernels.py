"""Attention and LoRA layers that train faster on a CPU than the libraries' own; exact, and tested against those.

On a CPU, PyTorch's attention takes ten times as long backward as forward, and PEFT's adapted layer makes several
passes over full-size tensors. Import this module only inside functions: it needs torch.
"""

from types import MethodType
from typing import Any

import torch

ATTENTION = "ragtune_causal"
# Queries that are computed together: fewer make small matrix products, more compute scores above the diagonal that
# the causal mask then discards. Chosen by hand, not measured.
_BLOCK = 128
# Probabilities are stored for the backward pass up to this size and computed a second time above it. Chosen by hand,
# not measured.
_STORED_BYTES = 64 << 20


class _AdaptedLinear(torch.autograd.Function):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ with frozen W, computed in x's number format; A and B may be stored in float32."""

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
    """Make the LoRA layers of a PEFT model compute in one operation; return how many layers were changed.

    Layers with dropout, DoRA or an adapter bias stay as they are, because `_AdaptedLinear` does not compute those.
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
    """Causal attention by blocks of queries, each over the keys that it may see.

    q is (B, K, G, L, D) with G query heads per key head, k and v are (B, K, S, D). The last query sees the last
    key. Probabilities are stored for the backward pass if they are small.
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, scale: float, hidden: Any) -> Any:
        batch, kv_heads, group, length, width = q.shape
        q = (q * scale).contiguous()
        k, v = k.reshape(batch * kv_heads, -1, width), v.reshape(batch * kv_heads, -1, width)
        out = torch.empty_like(q)
        store = q.numel() // width * k.shape[1] * q.element_size() <= _STORED_BYTES
        stored = []
        for start in range(0, length, _BLOCK):
            stop = min(start + _BLOCK, length)
            p = _probabilities(_rows(q, start, stop), k, start, stop, length, hidden)
            piece = torch.bmm(p, v[:, : p.shape[-1]])
            out[:, :, :, start:stop] = piece.view(batch, kv_heads, group, stop - start, width)
            if store:
                stored.append(p)
        ctx.save_for_backward(q, k, v, *stored)
        ctx.scale, ctx.stored, ctx.hidden = scale, store, hidden
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, *stored = ctx.saved_tensors
        batch, kv_heads, group, length, width = q.shape
        d_out = grads[0]
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, start in enumerate(range(0, length, _BLOCK)):
            stop = min(start + _BLOCK, length)
            rows, d_rows = _rows(q, start, stop), _rows(d_out, start, stop)
            p = stored[i] if ctx.stored else _probabilities(rows, k, start, stop, length, ctx.hidden)
            keys = p.shape[-1]
            dv[:, :keys] += torch.bmm(p.transpose(1, 2), d_rows)
            dp = torch.bmm(d_rows, v[:, :keys].transpose(1, 2))
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            dk[:, :keys] += torch.bmm(ds.transpose(1, 2), rows)
            d_block = torch.bmm(ds, k[:, :keys]).view(batch, kv_heads, group, stop - start, width)
            dq[:, :, :, start:stop] = d_block
        shape = (batch, kv_heads, -1, width)
        return dq.mul_(ctx.scale), dk.view(shape), dv.view(shape), None, None


def _rows(x: Any, start: int, stop: int) -> Any:
    """Return the queries from `start` to `stop` of every head, as (batch × key heads, group × queries, width)."""
    batch, kv_heads, group, _, width = x.shape
    return x[:, :, :, start:stop].reshape(batch * kv_heads, group * (stop - start), width)


def _probabilities(rows: Any, k: Any, start: int, stop: int, length: int, hidden: Any) -> Any:
    """Return the attention probabilities of one block of queries, (batch × key heads, group × queries, keys)."""
    keys = k.shape[1] - length + stop
    scores = torch.bmm(rows, k[:, :keys].transpose(1, 2))
    size = stop - start
    if hidden is not None:
        scores.view(hidden.shape[0], -1, size, keys).masked_fill_(hidden[:, None, start:stop, :keys], float("-inf"))
    later = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1)
    scores.view(scores.shape[0], -1, size, keys)[..., keys - size :].masked_fill_(later, float("-inf"))
    return torch.softmax(scores, -1)


def causal_attention(q: Any, k: Any, v: Any, scale: float, hidden: Any = None) -> Any:
    """Return softmax(scale q kᵀ) v with a causal mask, in q's shape.

    Args:
        q: (batch, heads, queries, width).
        k: (batch, key heads, keys, width); heads is a multiple of key heads, and there are at least as many keys as
            queries.
        v: shaped like `k`.
        scale: factor of the scores, usually 1 / sqrt(width).
        hidden: (batch, queries, keys), true if the query must not see that earlier key; None hides nothing.
    """
    batch, heads, length, width = q.shape
    grouped = q.reshape(batch, k.shape[1], heads // k.shape[1], length, width)
    return _CausalAttention.apply(grouped, k, v, scale, hidden).view(batch, heads, length, width)


def register_attention() -> str:
    """Register `causal_attention` with transformers and return its name there.

    It ignores padding masks. That is correct for sequences padded at their end, because no real token sees a later
    one. A mask of shape (batch, 1, queries, keys) from the caller is applied.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention_layer)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    return ATTENTION


def _attention_layer(
    _module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **options: Any
) -> tuple[Any, None]:
    if options.get("dropout"):
        raise NotImplementedError("attention dropout")
    hidden = None if mask is None else ~mask[:, 0]
    return causal_attention(query, key, value, scaling, hidden).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Return no mask: `_CausalAttention` applies the causal rule itself."""
    return
