"""Several child processes under one supervisor: all start, and when one ends or Ctrl-C comes all end."""

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

_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Program:
    """A child to run: its name, command, and what the environment has beyond ours."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


def start(program: Program) -> "subprocess.Popen[bytes]":
    """Start a program in a process group of its own, its output appended to its log."""
    program.log.parent.mkdir(parents=True, exist_ok=True)
    with program.log.open("ab") as log:
        return subprocess.Popen(
            program.command,
            env=child_environment(**program.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(process: "subprocess.Popen[bytes]", patience: float = _PATIENCE) -> None:
    """End a program and its group: asked first, killed after `patience` seconds."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        if process.poll() is not None:
            break
        os.killpg(process.pid, number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            logging.getLogger(__name__).warning("process %d ignores signal %d", process.pid, number)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # the whole group has ended


def run_to_its_end(command: Sequence[str]) -> int:
    """Run a command on this terminal and return its exit code.

    It is a process group of its own: Ctrl-C comes here, is passed on, and the command takes the time it needs.
    Raises ResourceError when it is killed.
    """
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: FrameType | None) -> None:
        if process is None:
            raise KeyboardInterrupt
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(command, env=child_environment(), process_group=0)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:
        raise ResourceError(
            f"`{' '.join(command)}` was killed by signal {-code}.",
            fix="too little memory is the usual cause; run it again to go on",
        )
    return code


def supervise(programs: Sequence[Program]) -> None:
    """Run the programs until SIGINT or SIGTERM; raise EngineError when one ends by itself."""
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        ending.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    running: list[tuple[Program, subprocess.Popen[bytes]]] = []
    try:
        for program in programs:
            running.append((program, start(program)))
        while not ending.wait(0.5):
            for program, process in running:
                if process.poll() is not None:
                    tail = "\n".join(program.log.read_text(errors="replace").splitlines()[-15:])
                    raise EngineError(
                        f"{program.name} ended with code {process.returncode}. The end of {program.log}:\n{tail}"
                    )
    finally:
        threads = [threading.Thread(target=stop, args=(process,)) for _, process in reversed(running)]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
