"""A disk of some megabytes, as a fixture: a tmpfs, which only root can mount."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a disk of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Callable[[], None]:
    """Fill a disk up to `leave` bytes, and return a function that frees it again."""
    ballast = disk / "ballast"
    with ballast.open("wb") as stream:
        free = os.statvfs(disk)
        stream.write(b"x" * max(0, free.f_bavail * free.f_frsize - leave))
    return ballast.unlink
