"""Runs child processes: one in the foreground, or several under a supervisor that ends them together."""

import ctypes
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ragtune.errors import EngineError, ResourceError
from ragtune.settings import child_environment

_M_ARENA_MAX = -8
"""The number of `mallopt` for the most arenas, from glibc's malloc.h."""
_ARENAS = 2
"""Arenas of a gateway. By default glibc makes up to eight for each core, and each keeps what its threads once needed:
after five minutes at 3 requests a second, a gateway had 1.50 GB with the default and 1.08 GB with two arenas
(benchmarks/serving/soak.json). Chosen by hand."""
_PR_SET_PDEATHSIG = 1
"""The number of `prctl` that asks for a signal when the parent ends."""
_STOP_SECONDS = 20.0
"""How long a program may take to stop before it is killed. Chosen by hand: the gateway gives open answers 10 s."""
_KILL_SECONDS = 5.0
"""How long to wait for a killed program; the kernel needs milliseconds."""
_WATCH_SECONDS = 0.5
"""Between two looks at the programs; chosen by hand, not sensitive."""
_SETTLED_SECONDS = 60.0
"""A program that cannot run, because of its settings or a port, ends within this time. Chosen by hand: imports take up
to half of it on a busy machine."""
_LOG_TAIL_LINES = 15
"""Lines of a failed program's log that the error shows: most of a traceback."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A child process to run; `environment` is added to ours."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Running:
    """A started program, and since when it runs, in seconds of the monotonic clock."""

    process: "subprocess.Popen[bytes]"
    since: float = field(default_factory=time.monotonic)


def limit_arenas(most: int = _ARENAS) -> None:
    """Let the threads of this process share this many arenas of glibc's malloc; call it before there are threads.

    Other C libraries have no such arenas.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, most)


def ctrl_c_is_off() -> bool:
    """Return whether this process was started with SIGINT ignored.

    Shells without job control start background jobs (`ragtune up &` in a script) like this, so that Ctrl-C ends what
    runs in the foreground and leaves them running. RagTune respects it; SIGTERM (`kill PID`) always ends it.
    """
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def how_to_stop(what: str) -> str:
    """Return a sentence for people that says how to stop `what`: by Ctrl-C, or by `kill` if Ctrl-C is ignored."""
    if ctrl_c_is_off():
        return f"Ctrl-C is switched off for this background job. To stop {what}: kill {os.getpid()}"
    return f"Ctrl-C stops {what}."


def stop_signals() -> list[signal.Signals]:
    """Return the signals on which to stop."""
    return [signal.SIGTERM] if ctrl_c_is_off() else [signal.SIGINT, signal.SIGTERM]


def start(program: Program, descriptors: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
    """Start a program in its own process group; its output is appended to its log. It inherits these descriptors.

    If the thread that calls this ends, even by a kill of its process, Linux sends SIGTERM to the program.
    """
    libc = ctypes.CDLL(None)
    program.log.parent.mkdir(parents=True, exist_ok=True)
    with program.log.open("ab") as log:
        return subprocess.Popen(
            program.command,
            env=child_environment(**program.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=descriptors,
            # Safe although other threads may run: the function is loaded already, and takes no lock.
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        )


def stop(process: "subprocess.Popen[bytes]", patience: float = _STOP_SECONDS) -> None:
    """Stop a program and its process group: send SIGTERM, and SIGKILL if it still runs after `patience` seconds."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _KILL_SECONDS)):
        if process.poll() is not None:
            break
        os.killpg(process.pid, number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            logging.getLogger(__name__).warning("process %d did not end after signal %d", process.pid, number)
    # The program has ended now, but a child of its group may have outlived it.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # the whole group has ended


def run_in_foreground(command: Sequence[str]) -> int:
    """Run a command on this terminal and return its exit code.

    The command has its own process group, so Ctrl-C reaches only this process. It is passed on, and then the command
    may take the time it needs to stop in order. If a signal that was passed on ends it at once, because it was still
    starting, the code is the one that shells use: 128 and the number of the signal. Raises ResourceError if the
    command is killed by another signal.
    """
    process: subprocess.Popen[bytes] | None = None
    passed_on: set[int] = set()

    def pass_on(number: int, _: FrameType | None) -> None:
        if process is None:
            raise KeyboardInterrupt
        passed_on.add(number)
        process.send_signal(number)

    old_handlers = {number: signal.signal(number, pass_on) for number in stop_signals()}
    try:
        process = subprocess.Popen(command, env=child_environment(), process_group=0)
        code = process.wait()
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
    if -code in passed_on:
        return 128 - code
    if code < 0:
        raise ResourceError(
            f"`{' '.join(command)}` was killed by signal {-code}.",
            fix="free some memory, which is the usual cause, and run it again; it continues where it stopped",
        )
    return code


def supervise(programs: Sequence[Program], settled: float = _SETTLED_SECONDS) -> None:
    """Run the programs until SIGINT or SIGTERM, then stop them all.

    A program that ran for `settled` seconds and then ends by itself, such as one that was killed because memory ran
    out, is started again; the others do not notice. Raises EngineError with the end of its log if a program ends
    earlier, because then it cannot run; the others are stopped then too.
    """
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        ending.set()

    old_handlers = {number: signal.signal(number, end) for number in stop_signals()}
    running: dict[Program, _Running] = {}
    try:
        for program in programs:
            running[program] = _Running(start(program))
        while not ending.wait(_WATCH_SECONDS):
            for program, current in running.items():
                if current.process.poll() is None:
                    continue
                message = f"{program.name} ended with code {current.process.returncode}."
                if time.monotonic() - current.since < settled:
                    tail = "\n".join(program.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
                    raise EngineError(f"{message} The end of {program.log}:\n{tail}")
                logging.getLogger(__name__).warning("%s It is started again. Its log: %s", message, program.log)
                stop(current.process)  # what is left of its group, which may hold its port
                running[program] = _Running(start(program))
    finally:
        threads = [threading.Thread(target=stop, args=(current.process,)) for current in reversed(running.values())]
        for thread in threads:
            thread.start()
            time.sleep(0.05)  # the last one started gets its signal first
        for thread in threads:
            thread.join()
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
