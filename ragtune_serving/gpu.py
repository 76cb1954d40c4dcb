"""The memory of NVIDIA GPUs, by their management library (NVML)."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of one GPU in bytes; `used` counts all programs. `gpu` is its number."""

    gpu: str
    used: int
    total: int


def gpu_memory(nvml: Any = None) -> list[GpuMemory]:
    """Return the memory of every GPU; empty if there is no GPU, no driver, or no `nvidia-ml-py`.

    Args:
        nvml: the module that reads it; by default `pynvml`.
    """
    if nvml is None:
        if find_spec("pynvml") is None:
            return []
        nvml = import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver on this machine
        return []
    try:
        return list(_each(nvml))
    finally:
        nvml.nvmlShutdown()


def _each(nvml: Any) -> Iterator[GpuMemory]:
    for number in range(nvml.nvmlDeviceGetCount()):
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(number))
        except nvml.NVMLError:
            continue  # a GPU that shares the machine's memory has none of its own to report
        yield GpuMemory(str(number), int(memory.used), int(memory.total))
