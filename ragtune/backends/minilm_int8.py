"""Matrix products of all-MiniLM-L6-v2 in 8-bit integers: one scale per weight column, one range per activation.

The ranges are fixed. Dynamic quantisation takes them from the current batch, so that a text's vector would depend on
the other texts in its batch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Linear = Callable[[Tensor], Tensor]
else:
    Linear = Callable

LEVELS, STEPS = 255, 127
# {(layer, product): lowest and highest input}, measured on passages of requests, fastapi, pydantic and click by
# python -m benchmarks.retrieval.int8 --ranges package:requests package:fastapi package:pydantic package:click
RANGES = {
    (0, "join"): (-3.32, 2.41),
    (0, "narrow"): (-0.17, 24.62),
    (0, "project"): (-7.20, 6.33),
    (0, "widen"): (-7.49, 28.52),
    (1, "join"): (-2.49, 2.97),
    (1, "narrow"): (-0.17, 20.39),
    (1, "project"): (-6.69, 8.13),
    (1, "widen"): (-8.67, 30.37),
    (2, "join"): (-3.12, 2.44),
    (2, "narrow"): (-0.17, 17.54),
    (2, "project"): (-7.23, 7.99),
    (2, "widen"): (-12.95, 27.73),
    (3, "join"): (-2.39, 2.62),
    (3, "narrow"): (-0.17, 13.74),
    (3, "project"): (-7.49, 9.66),
    (3, "widen"): (-13.74, 28.84),
    (4, "join"): (-3.04, 2.87),
    (4, "narrow"): (-0.17, 8.63),
    (4, "project"): (-6.56, 10.52),
    (4, "widen"): (-13.20, 21.62),
    (5, "join"): (-3.47, 3.68),
    (5, "narrow"): (-0.17, 8.69),
    (5, "project"): (-6.18, 9.91),
    (5, "widen"): (-12.29, 12.94),
}


def int8_linear(place: tuple[int, str], weight: "Tensor", bias: "Tensor") -> Linear:
    """Return the function x Wᵀ + b for float32 rows, multiplied as 8-bit integers. Values out of range are clipped."""
    import torch

    low, high = RANGES[place]
    step = (high - low) / LEVELS
    zero = round(-low / step)
    steps = weight.abs().amax(1) / STEPS
    packed = torch.ops.onednn.qlinear_prepack((weight / steps[:, None]).round().to(torch.int8), None)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    nearest = torch.tensor(zero + 0.5)  # the conversion to integers rounds down

    def product(x: "Tensor") -> "Tensor":
        scaled = torch.add(nearest, x.reshape(-1, x.shape[-1]), alpha=1 / step)
        rows = scaled.clamp_(0, LEVELS).to(torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            rows, step, zero, packed, steps, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.view(*x.shape[:-1], -1)

    return product
