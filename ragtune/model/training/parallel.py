"""Runs a training in several processes, one for each GPU or for some cores, as torchrun and accelerate do.

The processes find each other by a file and talk over the loopback interface or NVLink, so nothing listens on the
network. If one of them fails or is killed, the others are ended, and its error is raised here. If this process is
killed, they end by themselves.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError, RagTuneError, SettingsError
from ragtune.ports import Progress

_GRACE_SECONDS, _SETTLE_SECONDS = 10, 0.5
"""How long processes may take to end, and how long one that failed may take to say why. Chosen by hand."""
_PRELOADED = ["ragtune.model.training.trainer", "peft", "accelerate.utils"]
"""Modules that take long to import: they are loaded once, before the processes divide."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a process: its number, how many there are, and the file by which they find each other."""

    rank: int
    size: int
    meeting_point: Path
    device: str


Work = Callable[[Place, Progress], Any]
"""What each process does, given its place and a report of progress to the process that waits."""


def run_in_processes(size: int, device: str, work: Work, progress: Progress) -> Any:
    """Run the work in `size` new processes and return what process 0 returned.

    `work` must be importable: a new process looks it up by its name. Raises what a process
    raised, ModelError if one ended without an error, and SettingsError if there are too few GPUs.
    """
    _require_gpus(size, device)
    # The processes start from one that only imported, so that the libraries are loaded once and no GPU is in use.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        for rank in range(size):
            ours, theirs = context.Pipe(duplex=False)
            place = Place(rank, size, Path(folder, "meeting"), device)
            process = context.Process(target=_run, args=(place, work, theirs), name=f"training-{rank}")
            process.start()
            theirs.close()
            workers.append(_Worker(process, ours))
        try:
            return _supervise(workers, progress)
        finally:
            _end(workers)


@dataclass(slots=True)
class _Worker:
    """A process, the end of the pipe that it writes to, and what it returned or raised."""

    process: Any
    messages: Connection
    result: Any = None
    failure: "_Failure | None" = None


def _supervise(workers: Sequence[_Worker], progress: Progress) -> Any:
    """Pass messages on until all processes ended well, and return the result of the first."""
    running = list(workers)
    while running:
        wait([part for one in running for part in (one.messages, one.process.sentinel)])
        for worker in list(running):
            has_ended = not worker.process.is_alive()
            _read(worker, progress)
            if has_ended:
                running.remove(worker)
                if worker.process.exitcode:
                    raise _cause(workers, progress)
    return workers[0].result


def _cause(workers: Sequence[_Worker], progress: Progress) -> BaseException:
    """Return why the first process failed; the others may have failed since, because they could not reach it."""
    for worker in workers:
        worker.process.join(_SETTLE_SECONDS)
        _read(worker, progress)
    for rank, worker in enumerate(workers):
        code = worker.process.exitcode
        if code and worker.failure is None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with the exit code {code}"
            return ModelError(
                f"Process {rank} of the {len(workers)} that train {how}; the others were ended.",
                fix="run it again: it goes on from the last checkpoint. If memory ran out, lower training.batch_size",
            )
    failures = [worker.failure for worker in workers if worker.failure is not None]
    # A process that cannot reach another one raises an error of PyTorch, which explains nothing.
    return max(failures, key=lambda failure: failure.is_explained).as_error()


def _read(worker: _Worker, progress: Progress) -> None:
    """Take what a process has sent so far."""
    try:
        while worker.messages.poll():
            kind, value = worker.messages.recv()
            if kind == "returned":
                worker.result = value
            elif kind == "raised":
                worker.failure = value
            else:
                progress(*value)
    except EOFError:  # it has ended
        return


def _end(workers: Sequence[_Worker]) -> None:
    """End the processes that still run: the others wait for one that failed, and would wait forever."""
    for worker in workers:
        if worker.process.is_alive():
            worker.process.terminate()
    for worker in workers:
        worker.process.join(_GRACE_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.messages.close()


def _run(place: Place, work: Work, messages: Connection) -> None:
    """Do the work in a new process as one of a group, and send what it returned or raised."""
    _end_with_parent()
    lock = threading.Lock()

    def send(kind: str, value: Any) -> None:
        with lock:
            messages.send((kind, value))

    try:
        with _Joined(place):
            result = work(place, lambda what, done, total: send("progress", (what, done, total)))
    except BaseException as error:  # noqa: BLE001 (the process that waits has to hear of whatever ended this one)
        send("raised", _Failure.of(error, place))
        os._exit(1)  # the group cannot be left in order while the others wait in it
    send("returned", result)


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error of another process.

    `kind` is its class if RagTune raised it (`is_explained`), else ModelError: it may only follow from the end of
    another process.
    """

    kind: type[RagTuneError]
    parts: tuple[str, str, str]
    is_explained: bool

    @classmethod
    def of(cls, error: BaseException, place: Place) -> "_Failure":
        where = f"In process {place.rank} of {place.size}: "
        if isinstance(error, RagTuneError):
            return cls(type(error), (where + error.found, error.expected, error.fix), True)
        return cls(ModelError, (f"{where}{type(error).__name__}: {error}", "", ""), False)

    def as_error(self) -> RagTuneError:
        return self.kind(*self.parts)


class _Joined:
    """While the block runs, this process is one of a group of torch.distributed, and accelerate knows its place."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> None:
        import torch
        from accelerate.utils import patch_environment

        place = self._place
        variables: dict[str, Any] = {
            "rank": place.rank,
            "local_rank": place.rank,
            "world_size": place.size,
            "local_world_size": place.size,
            "master_addr": "127.0.0.1",
            "master_port": "0",  # not used: the processes meet by a file
            "gloo_socket_ifname": "lo",
            "omp_num_threads": torch.get_num_threads(),
        }
        if place.device == "cpu":
            variables["accelerate_use_cpu"] = "yes"
            # accelerate calls the CPU of process 0 `cpu:0`, and transformers loads checkpoints to there; PyTorch knows
            # `cpu` only.
            torch.serialization.register_package(1, _no_tag, _on_the_cpu)
        self._environment = patch_environment(**variables)
        self._environment.__enter__()
        if place.device == "cuda":
            torch.cuda.set_device(place.rank)
        torch.distributed.init_process_group(
            "nccl" if place.device == "cuda" else "gloo",
            init_method=place.meeting_point.as_uri(),
            rank=place.rank,
            world_size=place.size,
        )

    def __exit__(self, *error: object) -> None:
        import torch

        if error[0] is None:
            torch.distributed.destroy_process_group()
        self._environment.__exit__(*error)


def _no_tag(_storage: Any) -> None:
    """Leave it to PyTorch to name the place of a tensor that is saved."""


def _on_the_cpu(storage: Any, place: str) -> Any:
    """Return the tensor's bytes if they are to be loaded to a CPU with a number."""
    return storage if place.startswith("cpu:") else None


def _end_with_parent() -> None:
    """Let this process end when the one that started it does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _require_gpus(size: int, device: str) -> None:
    import torch

    if device == "cuda" and torch.cuda.device_count() < size:
        raise SettingsError(
            f"training.processes is {size}, and this machine has {torch.cuda.device_count()} GPUs.",
            expected="at most one process for each GPU",
            fix="lower training.processes",
        )
