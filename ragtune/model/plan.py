"""Checks before anything expensive that the machine could hold what the settings ask for."""

from pathlib import Path

from ragtune.errors import SettingsError
from ragtune.model.base.capacity import GIB
from ragtune.model.compression.quantization import MEMORY_PER_WEIGHT
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore

_NVIDIA = Path("/proc/driver/nvidia")


def base_model_bytes(settings: Settings, store: ArtifactStore) -> int:
    """Return the size of the base model's weights in bytes, or 0 if it is not known yet."""
    folder = Path(settings.base_model.name).expanduser()
    kept = store.current("base_model")
    if not folder.is_dir() and kept is not None:
        folder = store.folder_of(kept)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def require_fit(settings: Settings, weight_bytes: int, memory_bytes: int = 0) -> None:
    """Raise SettingsError if the machine has too little memory, even if nothing else ran on it.

    Training and quantising check again later how much is free. GPUs are checked only then.

    Args:
        settings: the base model and the engine.
        weight_bytes: size of the base model's weights; 0 if it is not known.
        memory_bytes: memory of the machine; 0 asks the machine.
    """
    import psutil

    memory = memory_bytes or int(psutil.virtual_memory().total)
    needed = MEMORY_PER_WEIGHT * weight_bytes + GIB
    if weight_bytes and needed > memory:
        largest = (memory - GIB) / MEMORY_PER_WEIGHT
        raise SettingsError(
            f"The base model {settings.base_model.name} has {weight_bytes / GIB:.1f} GiB of weights. Quantising it "
            f"takes about {needed / GIB:.1f} GiB of memory, and this machine has {memory / GIB:.1f}.",
            f"a model with at most {max(0.0, largest) / GIB:.1f} GiB of weights, or more memory",
            "set base_model.name to a smaller model; a large one can answer behind `engine.backend: openai`",
        )
    cache = settings.engine.kv_cache_gib * GIB
    on_cpu = settings.device == "cpu" or not _NVIDIA.exists()
    if settings.engine.backend == "vllm" and on_cpu and weight_bytes + cache > memory:
        raise SettingsError(
            f"engine.kv_cache_gib is {settings.engine.kv_cache_gib}, the weights take {weight_bytes / GIB:.1f} GiB, "
            f"and this machine has {memory / GIB:.1f} GiB of memory.",
            f"a cache of at most {max(0, memory - weight_bytes) // GIB} GiB",
            "lower engine.kv_cache_gib (1 is the default)",
        )
