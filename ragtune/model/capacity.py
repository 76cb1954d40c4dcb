"""What the machine can take: device, arithmetic, threads, memory and disk, asked before long work starts."""

import platform
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Literal

from ragtune.errors import ResourceError, SettingsError

GIB = 1 << 30
# Any of these sets computes bf16 faster than float32.
_BF16 = ({"amx_bf16"}, {"avx512_bf16", "AuthenticAMD"}, {"bf16"})
_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm"}
_CPU_INFO = Path("/proc/cpuinfo")


@cache
def cpu_features(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Return the processor's maker and instruction sets as Linux names them; none where it does not say."""
    text = cpu_info.read_text() if cpu_info.is_file() else ""
    found = re.findall(r"^(?:vendor_id|flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(" ".join(found).split())


def arithmetic(device: str, features: frozenset[str] | None = None) -> Literal["bfloat16", "float32"]:
    """Return in which numbers to compute with bf16 weights on "cuda" or "cpu".

    A processor without instructions for bf16 emulates it, an eighth as fast as float32 (AVX2, measured).
    Intel's with AVX-512 for bf16 but without AMX takes 1.8 times as long as in float32 (measured).
    """
    known = cpu_features() if features is None else features
    return "bfloat16" if device == "cuda" or any(needed <= known for needed in _BF16) else "float32"


def fastest_precision(device: str, features: frozenset[str] | None = None) -> Literal["w4a16", "w8a8", "bf16"]:
    """Return which weights the engine answers with fastest: INT8 needs instructions that multiply 8-bit numbers."""
    known = cpu_features() if features is None else features
    if device == "cuda":
        return "w4a16"
    return "w8a8" if _INT8 & known else "bf16"


def require_int8(device: str, features: frozenset[str] | None = None) -> None:
    """Raise SettingsError unless the device is a processor that multiplies 8-bit numbers."""
    known = cpu_features() if features is None else features
    if device != "cpu" or not _INT8 & known:
        found = f"The device is {device}" if device != "cpu" else "This processor has none of them"
        raise SettingsError(
            f"The embedder cannot compute in int8 here: {found}.",
            expected=f"a processor with one of {', '.join(sorted(_INT8))}",
            fix="set embedder.precision: auto",
        )


def reads_int4(device: str, features: frozenset[str] | None = None) -> bool:
    """Return whether vLLM has a kernel for packed INT4 weights there: on an x86 processor it takes AVX-512."""
    known = cpu_features() if features is None else features
    return device == "cuda" or platform.machine() not in ("x86_64", "AMD64") or "avx512f" in known


def chosen_device(device: str = "auto") -> str:
    """Return "cuda" or "cpu"; raise SettingsError when CUDA is asked for and absent."""
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
    """Let PyTorch use that many threads (0: one per core this process may run on); return the number."""
    import psutil
    import torch

    count = threads or len(psutil.Process().cpu_affinity())
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    return count


def require_memory(needed: int, what: str, device: str = "cpu") -> None:
    """Raise ResourceError when fewer than `needed` bytes are free on the device."""
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
    """Raise ResourceError when the disk of `folder` has fewer than `needed` bytes left."""
    existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"{what} writes about {needed / GIB:.2f} GiB below {folder}, and {free / GIB:.2f} GiB are free there.",
            fix="free some space, or set RAGTUNE_HOME to a larger disk",
        )
