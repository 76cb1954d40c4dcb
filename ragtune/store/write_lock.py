"""One writer at a time for a part of a home: a second one waits, and says for whom.

The operating system releases the lock when its process ends, however it ends.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

_SILENT_SECONDS = 1.0
"""How long to wait before the first notice: most changes of a home take less. Chosen by hand; not sensitive."""
_NOTICE_SECONDS = 60.0
"""Between two notices. Chosen by hand; not sensitive."""
_LOOK_SECONDS = 0.05
"""Between two attempts, as in filelock itself."""
logger = logging.getLogger(__name__)


@contextmanager
def write_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file during the block; wait as long as another process holds it, and say so in the log.

    `what` is the thing that is written, for the notice, such as "the index".
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(path), path.with_name(path.name + ".holder")  # opening the lock empties it
    began, silent = time.monotonic(), _SILENT_SECONDS
    while True:
        try:
            lock.acquire(timeout=silent, poll_interval=_LOOK_SECONDS)
            break
        except Timeout:
            logger.warning("%s", _notice(holder, what, time.monotonic() - began))
            silent = _NOTICE_SECONDS
    try:
        holder.write_text(f"{os.getpid()}\n{datetime.now().astimezone().isoformat(timespec='seconds')}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _notice(holder: Path, what: str, seconds: float) -> str:
    """Return who writes, since when, how long this process has waited, and how to stop waiting."""
    try:
        pid, since = holder.read_text().split()
    except (FileNotFoundError, ValueError):  # it has just taken the lock, or is about to release it
        return f"Another process writes {what} ({holder.parent}). This one waits for it; Ctrl-C stops the waiting."
    return (
        f"Process {pid} has been writing {what} ({holder.parent}) since {since.replace('T', ' ')}. This one has waited "
        f"{seconds:.0f} s and goes on as soon as it is done. Ctrl-C stops the waiting, `kill {pid}` ends the other one."
    )
