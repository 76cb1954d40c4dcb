"""Checks that weights are finite, so that no later step works on the result of a training that went wrong."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError

_FIX = "train again with a lower training.learning_rate, or download the model again if it is not yours"


def require_finite(tensors: Iterable[tuple[str, Any]], origin: Path) -> None:
    """Raise ModelError if a tensor from `origin` has a value that is NaN or infinite; integers are always finite."""
    count, bad = 0, []
    for name, tensor in tensors:
        count += 1
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            bad.append(name)
    if bad:
        raise ModelError(
            f"{len(bad)} of {count} tensors of {origin} are NaN or infinite, such as {min(bad)}.",
            expected="finite weights",
            fix=_FIX,
        )


def require_finite_folder(folder: Path) -> None:
    """Raise ModelError if a weight of a model folder is NaN or infinite; one tensor at a time is in memory."""
    require_finite(_tensors(folder), folder)


def _tensors(folder: Path) -> Iterable[tuple[str, Any]]:
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 (no mapping)
                yield name, stream.get_tensor(name)
