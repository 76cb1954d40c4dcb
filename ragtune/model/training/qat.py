"""Quantisation-aware training: an adapter learns in a model whose weights are rounded to INT4 on every pass.

What is rounded is the merged weight, by the arithmetic that later stores it, so that the trained model computes what
the stored one will. Gradients pass the rounding as if it were not there (Bengio et al. 2013, the straight-through
estimator). Import this module only inside functions: it needs torch.
"""

from types import MethodType
from typing import Any

import torch

from ragtune.errors import SettingsError
from ragtune.model.compression.rounding import round_to_nearest


class _RoundedLinear(torch.autograd.Function):
    """y = x Qᵀ, in which Q is W + s B A after rounding; the gradients of A and B are those of x (W + s B A)ᵀ."""

    @staticmethod
    def forward(ctx: Any, x: Any, rounded: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(rows, rounded, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return torch.nn.functional.linear(rows, rounded, bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        rows, rounded, a, b = ctx.saved_tensors
        a16, b16 = a.to(rows.dtype), b.to(rows.dtype)
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        dx = torch.mm(dy, rounded).view(ctx.shape) if ctx.needs_input_grad[0] else None
        da = torch.mm(torch.mm(dy, b16).mul_(ctx.scale).t(), rows).to(a.dtype)
        db = torch.mm(dy.t(), torch.mm(rows, a16.t()).mul_(ctx.scale)).to(b.dtype)
        return dx, None, None, da, db, None


def round_while_training(model: Any, scheme: Any, remember: bool = True, adapter: str = "default") -> int:
    """Make a PEFT model compute with weights rounded to INT4; return how many layers have an adapter.

    Linear layers without an adapter are rounded once. The output layer stays as it is, because it is not quantised.

    Args:
        model: a PEFT model whose LoRA layers have neither dropout nor DoRA.
        scheme: the INT4 format, as `int4_weights` returns it.
        remember: keep the rounded weights during a validation, which takes as much memory as the model.
        adapter: name of the adapter that is trained.

    Raises:
        SettingsError: a layer computes something that is not rounded here.
    """
    from peft.tuners.lora import Linear

    adapted = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear)}
    for name, layer in adapted.items():
        plain = isinstance(layer.lora_dropout[adapter], torch.nn.Identity) and layer.lora_B[adapter].bias is None
        if layer.lora_variant or not plain:
            raise SettingsError(
                f"training.qat cannot round {name}, because its adapter has dropout, a bias or DoRA.",
                expected="plain LoRA",
                fix="set training.dropout: 0 and training.use_dora: false, or training.qat: false",
            )
        setattr(layer, "forward", MethodType(_rounded_forward, layer))  # noqa: B010 (mypy: a method)
        layer.rounding = _Rounding(scheme, remember)
    inside = {id(module) for layer in adapted.values() for module in layer.modules()}
    for layer in model.modules():
        others = isinstance(layer, torch.nn.Linear) and id(layer) not in inside
        if others and layer is not model.get_output_embeddings():
            layer.weight.data = round_to_nearest(layer.weight, scheme).to(layer.weight.dtype)
    return len(adapted)


class _Rounding:
    """Rounds the merged weight of one layer: on every training pass, and once for the passes of a validation."""

    def __init__(self, scheme: Any, remember: bool) -> None:
        self.scheme, self.remember = scheme, remember
        self.state: tuple[Any, ...] = ()
        self.weight: Any = None

    def __call__(self, weight: Any, a: Any, b: Any, scale: float, training: bool) -> Any:
        """Return the rounded W + s B A in the format of W."""
        # Fused optimisers do not count as a change of version, so a training pass forgets what a validation kept.
        state = (a.data_ptr(), a._version, b.data_ptr(), b._version)
        if training or state != self.state:
            self.weight, self.state = None, ()
        if self.weight is not None:
            return self.weight
        # Outside inference mode, because a tensor that a validation makes may be needed by the next backward pass.
        with torch.inference_mode(False), torch.no_grad():
            # As `merge_adapter` adds them, in float32 and rounded once to bf16.
            merged = (weight.float() + scale * (b.float() @ a.float())).bfloat16()
            rounded = round_to_nearest(merged, self.scheme).to(weight.dtype)
        if self.remember and not training:
            self.weight, self.state = rounded, state
        return rounded


def _rounded_forward(layer: Any, x: Any) -> Any:
    base, name = layer.get_base_layer(), layer.active_adapters[0]
    a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    rounded = layer.rounding(base.weight, a, b, scale, layer.training)
    return _RoundedLinear.apply(x, rounded, base.bias, a, b, scale)
