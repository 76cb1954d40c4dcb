"""Runs one command and ends it together with the process that started it.

Usage: `python -m ragtune.backends.guard PARENT_PID COMMAND...`, in a session of its own. The guard watches the
parent's pid, because a parent that is killed cannot clean up. It adopts orphaned grandchildren (as a subreaper), so
that it can end them too. It uses the standard library only.
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
# Chosen by hand: time to end after SIGTERM, time for grandchildren to end by themselves, and time between looks.
_PATIENCE_SECONDS = 5.0
_ORPHAN_SECONDS = 1.0
_WATCH_SECONDS = 0.5


def guard(parent: int, command: Sequence[str]) -> int:
    """Run the command until it ends, the parent is gone or SIGTERM arrives, and return its exit code.

    Every process that the command started has ended by then.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # If the guard itself is killed, the kernel ends the command. `preexec_fn` is safe: this process has one thread.
    child = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0))
    watched = os.pidfd_open(child.pid)
    while not stopping and os.getppid() == parent and child.poll() is None:
        select.select([watched], [], [], _WATCH_SECONDS)
    _end(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def descendants(pid: int) -> list[int]:
    """Return the pids of all live processes below this one."""
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
    below, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        below.extend(children)
        queue.extend(children)
    return below


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ask the command to end, then kill what remains of it and of its children. Leave no zombie."""
    if child.poll() is None:
        child.terminate()
    _wait(child, _PATIENCE_SECONDS, lambda: child.poll() is None)
    _wait(child, _ORPHAN_SECONDS, lambda: bool(descendants(os.getpid())))
    while survivors := descendants(os.getpid()):
        for pid in survivors:
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
    """Collect ended processes. The command is collected by its own object, which keeps the exit code."""
    child.poll()
    for pid in _zombies():
        if pid != child.pid:
            os.waitpid(pid, os.WNOHANG)


def _zombies() -> list[int]:
    pids: list[int] = []
    for children in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        pids.extend(int(pid) for pid in children.read_text().split())
    return pids


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[2:]))
