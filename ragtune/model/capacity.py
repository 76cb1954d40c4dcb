"""What the machine can take: device, threads, memory and disk, asked before long work starts."""

import shutil
from pathlib import Path

from ragtune.errors import ResourceError, SettingsError

GIB = 1 << 30


def chosen_device(device: str = "auto") -> str:
    """Return "cuda" or "cpu"; raise SettingsError when CUDA is asked for and absent."""
    import torch

    present = torch.cuda.is_available()
    if device == "cuda" and not present:
        raise SettingsError(
            "device is 'cuda', but PyTorch sees no CUDA device.",
            expected="a GPU with its driver, and a CUDA build of PyTorch",
            mend="set device to 'cpu' or 'auto'",
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
            mend="close other programs, choose a smaller base model, or lower training.batch_size",
        )


def require_disk(folder: Path, needed: int, what: str) -> None:
    """Raise ResourceError when the disk of `folder` has fewer than `needed` bytes left."""
    existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"{what} writes about {needed / GIB:.2f} GiB below {folder}, and {free / GIB:.2f} GiB are free there.",
            mend="free some space, or set RAGTUNE_HOME to a larger disk",
        )
