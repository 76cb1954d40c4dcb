"""Memory of engines: whether there is room for one more, and what share of a GPU it may take."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ragtune.errors import EngineMemoryError, ModelError, SettingsError
from ragtune.settings import EngineSettings

_OVERHEAD_BYTES = 2 << 30
"""Memory of vLLM without weights and cache. Chosen by hand, on the safe side."""
_LEFT_FREE = 0.02
"""Share of a GPU that an engine next to another one leaves free. Chosen by hand: vLLM refuses to start if less is free
than it should take, and a display or a driver takes some."""


def require_memory(settings: EngineSettings, weights: Sequence[Path]) -> None:
    """Raise EngineMemoryError if an engine with these weights does not fit into the free memory of the processor."""
    needed, available = _needed(settings, weights), _available_bytes()
    if available < needed:
        raise EngineMemoryError(
            f"The engine needs about {needed / 2**30:.1f} GiB of memory; {available / 2**30:.1f} GiB are free.",
            fix="end other programs, or lower engine.kv_cache_gib",
        )


def gpu_share(settings: EngineSettings, weights: Sequence[Path]) -> float:
    """Return the share of a GPU's memory that an engine takes: `engine.gpu_memory_share`, or what others left of it.

    So an engine that comes second, such as that of an evaluation, takes nothing from the one that serves. Raises
    EngineMemoryError if weights and cache do not fit into that.
    """
    memory = gpu_memory()[: settings.tensor_parallel_size]
    free, total = min(memory, key=lambda sizes: sizes[0] / sizes[1])
    share = min(settings.gpu_memory_share, free / total - _LEFT_FREE)
    needed = _needed(settings, weights) // settings.tensor_parallel_size
    if share * total < needed:
        raise EngineMemoryError(
            f"The engine needs about {needed / 2**30:.1f} GiB of GPU memory, and {free / 2**30:.1f} of "
            f"{total / 2**30:.1f} GiB are free: other engines or programs have the rest.",
            fix="lower engine.gpu_memory_share, so that two engines fit, stop what else uses the GPU, or wait until it "
            "has ended",
        )
    return share


def gpu_memory() -> list[tuple[int, int]]:
    """Return (free, total) bytes of each GPU; raise SettingsError if the driver does not answer."""
    query = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        reply = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SettingsError(
            f"The memory of the GPU cannot be read: {error}", "a GPU with its driver", "set device to cpu"
        ) from error
    rows = [line.split(",") for line in reply.stdout.splitlines() if line.strip()]
    return [(int(free) << 20, int(total) << 20) for free, total in rows]


def check_parallel(settings: EngineSettings, device: str, model: Path) -> None:
    """Raise unless the model can be split over the GPUs that the settings name."""
    parts = settings.tensor_parallel_size
    if parts == 1:
        return
    if device != "cuda":
        raise SettingsError(
            f"engine.tensor_parallel_size is {parts}, but the engine runs on the processor.", "1 without GPUs"
        )
    if (gpus := len(gpu_memory())) < parts:
        raise SettingsError(f"engine.tensor_parallel_size is {parts}, and there are {gpus} GPUs.", f"at most {gpus}")
    heads = json.loads((model / "config.json").read_text()).get("num_attention_heads", 0)
    if heads % parts:
        raise ModelError(
            f"{model.name} has {heads} attention heads, which cannot be split over {parts} GPUs.",
            fix="set engine.tensor_parallel_size to a divisor of that number",
        )


def _needed(settings: EngineSettings, weights: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in weights) + (settings.kv_cache_gib << 30) + _OVERHEAD_BYTES


def _available_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
