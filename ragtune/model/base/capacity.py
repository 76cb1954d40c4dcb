"""What this machine can run: device, number format, threads, memory and disk, checked before long work starts."""

import platform
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ragtune.errors import ResourceError, SettingsError

GIB = 1 << 30
# Instruction sets with which bf16 is faster than float32. AVX-512's bf16 instructions count on AMD processors
# only; docs/decisions/arithmetic-of-the-processor.md has the measurements.
_BF16 = ({"amx_bf16"}, {"avx512_bf16", "AuthenticAMD"}, {"bf16"})
# Instruction sets that multiply 8-bit integers, by their Linux names: three for x86, `i8mm` for ARM.
_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm"}
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where PyTorch computes: `device` is "auto", "cuda" or "cpu"; `threads` 0 means one per available core."""

    device: str = "auto"
    threads: int = 0


ANY_MACHINE = Machine()
"""The GPU if there is one, otherwise all available cores."""


@cache
def cpu_features(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Return the processor's vendor and instruction sets by their Linux names; empty if Linux lists none."""
    text = cpu_info.read_text() if cpu_info.is_file() else ""
    lines = re.findall(r"^(?:vendor_id|flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(" ".join(lines).split())


def arithmetic(device: str, features: frozenset[str] | None = None) -> Literal["bfloat16", "float32"]:
    """Return the number format in which "cuda" or "cpu" computes fastest with bf16 weights.

    A processor without bf16 instructions emulates them at an eighth of the speed of float32 (AVX2). Intel's
    AVX-512 bf16 instructions without AMX take 1.8 times as long as float32. Both were measured; see
    docs/decisions/arithmetic-of-the-processor.md.
    """
    features = cpu_features() if features is None else features
    return "bfloat16" if device == "cuda" or any(needed <= features for needed in _BF16) else "float32"


def fastest_precision(device: str, features: frozenset[str] | None = None) -> Literal["w4a16", "w8a8", "bf16"]:
    """Return the weight precision with which the engine answers fastest on "cuda" or "cpu".

    The order comes from docs/decisions/fastest-precision-served.md.
    """
    features = cpu_features() if features is None else features
    if device == "cuda":
        return "w4a16"
    return "w8a8" if _INT8 & features else "bf16"


def require_int8(device: str, features: frozenset[str] | None = None) -> None:
    """Raise SettingsError unless the device is a processor that multiplies 8-bit integers."""
    features = cpu_features() if features is None else features
    if device != "cpu" or not _INT8 & features:
        obstacle = f"the device is {device}" if device != "cpu" else "this processor has no 8-bit instructions"
        raise SettingsError(
            f"The embedder cannot compute in int8 here: {obstacle}.",
            expected=f"a processor with one of {', '.join(sorted(_INT8))}",
            fix="set embedder.precision: auto",
        )


def reads_int4(device: str, features: frozenset[str] | None = None) -> bool:
    """Return whether vLLM has a kernel for packed INT4 weights on the device; on x86 it needs AVX-512."""
    features = cpu_features() if features is None else features
    return device == "cuda" or platform.machine() not in ("x86_64", "AMD64") or "avx512f" in features


def chosen_device(device: str = "auto") -> str:
    """Return "cuda" or "cpu" for the setting `device`; raise SettingsError if CUDA is requested but absent."""
    import torch

    present = torch.cuda.is_available()
    if device == "cuda" and not present:
        raise SettingsError(
            "device is 'cuda', but PyTorch sees no CUDA device.",
            expected="a GPU with its driver, and a CUDA build of PyTorch",
            fix="set device to 'cpu' or 'auto'",
        )
    return "cuda" if present and device != "cpu" else "cpu"


def use_threads(threads: int) -> int:
    """Set PyTorch's thread count and return it; 0 means one per core that this process may use."""
    import psutil
    import torch

    count = threads or len(psutil.Process().cpu_affinity())
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    return count


def require_memory(needed: int, what: str, device: str = "cpu") -> None:
    """Raise ResourceError if fewer than `needed` bytes of memory are free on the device."""
    import psutil

    if device == "cuda":
        import torch

        free = int(torch.cuda.mem_get_info()[0])
    else:
        free = int(psutil.virtual_memory().available)
    if free < needed:
        raise ResourceError(
            f"{what} needs about {needed / GIB:.1f} GiB of {device} memory, and {free / GIB:.1f} GiB are free.",
            fix="close other programs, choose a smaller base model, or lower training.batch_size",
        )


def require_disk(folder: Path, needed: int, what: str) -> None:
    """Raise ResourceError if the disk that holds `folder` has fewer than `needed` free bytes."""
    existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"About {needed / GIB:.2f} GiB below {folder} are needed for {what}, and {free / GIB:.2f} GiB are free.",
            fix="free some space (`ragtune prune --dry-run` shows what can go), or set RAGTUNE_HOME to a larger disk",
        )
