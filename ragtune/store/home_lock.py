"""One build at a time in a home: `ragtune materialize`, the runs of Dagster and `ragtune prune` take the same lock.

The operating system releases the lock when the process that holds it ends, however it ends.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragtune.errors import ResourceError
from ragtune.store.locks import is_held

LOCK = "materialize.lock"
HOLDER = "materialize.pid"
"""Holds the process id of the holder in its first line, and what that process is in its second."""
_PATIENCE_SECONDS = 0.5
"""How long to try to take the lock: a look from outside holds it for microseconds. Chosen by hand; not sensitive."""


@contextmanager
def exclusive(home: Path, holder: str = "`ragtune materialize`") -> Iterator[None]:
    """Hold the home for one build; raise ResourceError that names the process that holds it."""
    from filelock import FileLock, Timeout

    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / LOCK, timeout=_PATIENCE_SECONDS, poll_interval=0.05)
    try:
        lock.acquire()
    except Timeout as error:
        pid, name = _holder(home)
        raise ResourceError(
            f"Process {pid}{name} is already building the graph in {home}.",
            expected="one build at a time in a home",
            fix=f"wait for it, end it (`kill {pid}`, or Terminate in Dagster), or set RAGTUNE_HOME to another folder",
        ) from error
    try:
        (home / HOLDER).write_text(f"{os.getpid()}\n{holder}\n")
        yield
    finally:
        (home / HOLDER).unlink(missing_ok=True)
        lock.release()


def builder(home: Path) -> str:
    """Return who builds in the home now, such as "process 17 (run 3f2a of Dagster)", or "" if nobody does."""
    if not is_held(home / LOCK):
        return ""
    pid, name = _holder(home)
    return f"process {pid}{name}"


def _holder(home: Path) -> tuple[str, str]:
    """Return the process id and the name of the holder; it may not have written them yet."""
    file = home / HOLDER
    lines = file.read_text().splitlines() if file.is_file() else []
    return (lines[0] if lines else "unknown"), (f" ({lines[1]})" if len(lines) > 1 else "")
