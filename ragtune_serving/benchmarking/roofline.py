"""How far the engine is from what the machine could do, and whether memory, arithmetic or overhead holds it back.

Williams, Waterman and Patterson, "Roofline" (2009): a computation takes at least as long as its arithmetic at the
highest speed, and as reading its data at the highest speed. A step of the engine reads all weights once, however many
requests share it; each token takes two operations per parameter.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ragtune.model.base.capacity import arithmetic, reads_int4
from ragtune.model.compression.weights import GPTQ, PACKED, inspect_weights, storage_format
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune_serving.benchmarking.breakdown import EngineWork

_COPIED_BYTES = 256 << 20
"""Size of the array that is read: larger than the caches of today's processors. Chosen by hand."""
_SIDE = 1024
"""Rows and columns of the multiplied matrices, as in docs/decisions/arithmetic-of-the-processor.md."""
_REPEATS = 5
_FAR = 0.4
"""Below this share of the limit, something else than memory and arithmetic takes most of the time. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine does at best: bytes read per second, and operations per second in a number format."""

    bytes_per_second: float
    operations: float
    number_format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """How long the work of a load takes at least, in seconds, next to how long it took."""

    memory_seconds: float
    compute_seconds: float
    seconds: float
    machine: Machine

    @property
    def share(self) -> float:
        """The share of the time that the limit explains."""
        return max(self.memory_seconds, self.compute_seconds) / self.seconds

    @property
    def bound(self) -> str:
        """What holds the engine back: `memory`, `compute` or `overhead`."""
        if self.share < _FAR:
            return "overhead"
        return "memory" if self.memory_seconds > self.compute_seconds else "compute"

    def sentence(self) -> str:
        """Return what this says in a sentence or two."""
        slower = "reading the weights" if self.memory_seconds > self.compute_seconds else "arithmetic"
        least = max(self.memory_seconds, self.compute_seconds)
        limits = (
            f"this machine reads {self.machine.bytes_per_second / 1e9:.0f} GB/s and computes "
            f"{self.machine.operations / 1e9:.0f} billion operations/s in {self.machine.number_format}"
        )
        consequence = {
            "overhead": "most of the time is neither: scheduling, small matrices, other processes",
            "memory": "smaller weights (INT8, INT4), more requests per step or guessed tokens help",
            "compute": "shorter prompts, more of them in the prefix cache, or faster arithmetic (INT8) help",
        }[self.bound]
        return (
            f"The engine is {self.bound} bound. The work of this load takes at least {least:.1f} s of {slower} "
            f"({limits}); it took {self.seconds:.1f} s, so {self.share:.0%} of the limit is reached: {consequence}."
        )


def roofline(work: EngineWork, seconds: float, folder: Path, device: str, machine: Machine) -> Roofline:
    """Return how far the engine was from the limit of this machine in a load that kept it busy.

    Args:
        work: what the engine did.
        seconds: how long it took.
        folder: of the model.
        device: "cpu" or "cuda".
        machine: what it can do.
    """
    weights = inspect_weights(folder)
    parameters, size = weights["parameters"], weights["bytes"]
    if storage_format(folder) in (PACKED, GPTQ) and not reads_int4(device):
        size = 2 * parameters  # unpacked to bf16
    elif not storage_format(folder) and arithmetic(device) == "float32":
        size = 4 * parameters
    return Roofline(
        memory_seconds=work.steps * size / machine.bytes_per_second,
        compute_seconds=2 * parameters * work.computed_tokens / machine.operations,
        seconds=seconds,
        machine=machine,
    )


def model_folder(settings: Settings, version: str, precision: str) -> Path:
    """Return the folder of the model that a gateway over this home serves."""
    if version == "base":
        store = ArtifactStore(settings.home / "artifacts")
        ref = store.current("base_model")
        if ref is None:
            from ragtune.model.base.pretrained import resolve_base_model

            ref = resolve_base_model(settings.base_model, store)
        return store.folder(ref)
    released = ModelRegistry(settings).version(version)
    return Path(released.folder) / released.manifest.precisions[precision]


def measured_machine(device: str, precision: str) -> Machine:
    """Return what this machine does at best, measured within seconds. Call it while nothing else runs.

    Args:
        device: "cpu" or "cuda".
        precision: of the model: with "w8a8" integers are multiplied, otherwise what is fastest here.
    """
    import torch

    data = torch.zeros(_COPIED_BYTES // 4, device=device)
    if precision == "w8a8":
        number_format, matrix = "int8", torch.ones((_SIDE, _SIDE), dtype=torch.int8, device=device)
    else:
        number_format = arithmetic(device)
        matrix = torch.ones((_SIDE, _SIDE), dtype=getattr(torch, number_format), device=device)
    multiply = torch._int_mm if precision == "w8a8" else torch.matmul

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    read = _fastest(lambda: data.sum(), finish)
    multiplied = _fastest(lambda: multiply(matrix, matrix), finish)
    return Machine(_COPIED_BYTES / read, 2 * _SIDE**3 / multiplied, number_format)


def _fastest(compute: Callable[[], object], finish: Callable[[], None]) -> float:
    """Return the seconds of the fastest of some repetitions; the first one does not count."""
    times = []
    for _ in range(_REPEATS + 1):
        finish()
        began = time.perf_counter()
        compute()
        finish()
        times.append(time.perf_counter() - began)
    return min(times[1:])
