"""How much disk a home uses, by kind, and whether an error means that the disk is full."""

import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "models": ("models",),
        "artefacts": ("artifacts",),
        "index": ("index", "library"),
        "training in progress": ("work",),
        "MLflow": ("mlflow",),
        "Dagster": ("dagster",),
        "logs": ("logs",),
        "caches": ("cache", "rewordings"),
        "feedback and keys": ("feedback", "keys", "gateway", "audit"),
        "scores": ("warehouse.duckdb",),
    }
)
"""What people call the parts of a home, and the files and folders of each."""
_FULL = ("no space left on device", "disk is full", "disk quota exceeded", "os error 28", "not enough space")
"""How libraries that do not raise OSError say it: SQLite, DuckDB, Lance, safetensors."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def disk_use(home: Path) -> dict[str, int]:
    """Return the bytes on disk by kind, largest first, with "other" for files that no kind names.

    A file with several names (a released model shares files with artefacts) counts once, for the first kind.
    """
    seen: set[tuple[int, int]] = set()
    used = {kind: sum(_sizes([home / name for name in names], seen)) for kind, names in KINDS.items()}
    used["other"] = sum(_sizes([home], seen))
    return dict(sorted(((kind, size) for kind, size in used.items() if size), key=lambda item: -item[1]))


def disk_bytes(folder: Path) -> int:
    """Return the bytes on disk of a file or a folder; 0 if it does not exist."""
    return sum(_sizes([folder], set()))


def _sizes(paths: list[Path], seen: set[tuple[int, int]]) -> Iterator[int]:
    """Yield the bytes on disk of every file below the paths; a file with two names (a hard link) counts once."""
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            try:
                status = file.lstat()
            except FileNotFoundError:
                continue  # deleted while we looked
            if (identity := (status.st_dev, status.st_ino)) not in seen and not file.is_dir():
                seen.add(identity)
                yield status.st_blocks * 512


def in_words(size: float) -> str:
    """Return a number of bytes with a unit, such as `1.4 GiB`."""
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"


def says_disk_full(text: str) -> bool:
    """Return whether a message of a library means that the disk, or the quota of a user, is full."""
    return any(words in text.lower() for words in _FULL)


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, means that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if says_disk_full(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
