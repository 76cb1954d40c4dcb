"""Runs one command and never lets it outlive the process that asked for it.

Started as `python -m ragtune.backends.guard PARENT_PID COMMAND...` in a session of its own.
It watches the parent's pid, because a parent that is killed cannot clean up; it adopts
orphaned grandchildren (subreaper) so that it can end them too. Standard library only.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PATIENCE_SECONDS = 5.0
_ORPHAN_SECONDS = 1.0
_WATCH_SECONDS = 0.5


def guard(parent: int, command: Sequence[str]) -> int:
    """Run the command until it ends, the parent is gone or SIGTERM comes; return its exit code.

    Afterwards no process that the command started is left.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # Should the guard itself be killed, the kernel ends the command; this process has one thread only.
    child = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0))
    watched = os.pidfd_open(child.pid)
    while not stopping and os.getppid() == parent and child.poll() is None:
        select.select([watched], [], [], _WATCH_SECONDS)
    _end(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def descendants(pid: int) -> list[int]:
    """Return the pids of all living processes below this one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if state != "Z":
            parents.setdefault(int(parent), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found.extend(children)
        queue.extend(children)
    return found


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ask the command to end, then end by force what is left of it and of everything below it; leave no zombie."""
    if child.poll() is None:
        child.terminate()
    _wait(child, _PATIENCE_SECONDS, lambda: child.poll() is None)
    _wait(child, _ORPHAN_SECONDS, lambda: bool(descendants(os.getpid())))
    while left := descendants(os.getpid()):
        for pid in left:
            _kill(pid)
        time.sleep(0.05)
        _reap(child)
    child.wait()
    _reap(child)


def _wait(child: "subprocess.Popen[bytes]", seconds: float, busy: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while busy() and time.monotonic() < deadline:
        time.sleep(0.05)
        _reap(child)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


def _reap(child: "subprocess.Popen[bytes]") -> None:
    """Collect ended processes, the command through its own object so that its exit code is kept."""
    child.poll()
    for pid in _zombies():
        if pid != child.pid:
            os.waitpid(pid, os.WNOHANG)


def _zombies() -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        found.extend(int(pid) for pid in children.read_text().split())
    return found


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[2:]))
