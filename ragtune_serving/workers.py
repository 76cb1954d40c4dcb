"""Runs several processes that answer requests on one socket, next to the engines of this process.

Python answers on one core; a worker is a process of its own with its own copy of the embedder, some 600 MB. The engines
run once, here. The workers read where in the files of shared_engines.py.
"""

import logging
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ragtune.errors import RagTuneError
from ragtune.settings import Settings
from ragtune_serving.deployment import Deployment
from ragtune_serving.processes import Program, start, stop, stop_signals
from ragtune_serving.shared_engines import Announcer, SharedEngines

_LOOK_SECONDS = 0.1
"""Between two looks at the engines and the workers; far below `Pace.handover`."""
_PAUSE_SECONDS = 2.0
"""Before a worker that ended is started again. Chosen by hand: it imports for seconds anyway."""
_STOP_SECONDS = 30.0
"""How long a worker may take to stop: open answers have 10 s, then the log is written. Chosen by hand."""
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Worker:
    """One process that answers requests; `started` is a time of `monotonic`."""

    number: int
    process: "subprocess.Popen[bytes]"
    started: float


def run_workers(
    settings: Settings, listener: socket.socket, deployment: Deployment, announcer: Announcer, shared: SharedEngines
) -> None:
    """Run the engines and `gateway.workers` workers until SIGINT or SIGTERM; a worker that ends is started again."""
    _clear(settings, shared)
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        ending.set()

    old_handlers = {number: signal.signal(number, end) for number in stop_signals()}
    workers: list[Worker] = []
    try:
        deployment.start()
        workers += [_start(settings, listener, number) for number in range(1, settings.gateway.workers + 1)]
        while not ending.wait(_LOOK_SECONDS):
            try:
                announcer.announce(deployment)
            # A full disk, or a base model that cannot be loaded: the workers go on with what they know.
            except (OSError, RagTuneError) as error:
                logger.error("the engines cannot be announced: %s", error)
            for place, worker in enumerate(workers):
                if worker.process.poll() is not None and time.monotonic() - worker.started > _PAUSE_SECONDS:
                    logger.error(
                        "worker %d ended with code %s; starting it again", worker.number, worker.process.returncode
                    )
                    _forget_metrics(settings, worker.process.pid)
                    workers[place] = _start(settings, listener, worker.number)
    finally:
        threads = [threading.Thread(target=stop, args=(worker.process, _STOP_SECONDS)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        deployment.stop()
        _clear(settings, shared)
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def metrics_folder(settings: Settings) -> Path:
    """Return the folder in which prometheus-client shares the counts of the workers."""
    return settings.home / "gateway" / "metrics"


def _start(settings: Settings, listener: socket.socket, number: int) -> Worker:
    descriptor = listener.fileno()
    program = Program(
        f"worker {number}",
        [sys.executable, "-m", "ragtune_serving.worker", str(descriptor)],
        settings.home / "logs" / "gateway-workers.log",
        {"RAGTUNE_HOME": str(settings.home), "PROMETHEUS_MULTIPROC_DIR": str(metrics_folder(settings))},
    )
    return Worker(number, start(program, (descriptor,)), time.monotonic())


def _clear(settings: Settings, shared: SharedEngines) -> None:
    """Delete what an earlier run left: counts of its processes, and addresses of its engines."""
    for folder in (metrics_folder(settings), shared.holds):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    shared.state.unlink(missing_ok=True)


def _forget_metrics(settings: Settings, process: int) -> None:
    """Delete the gauges of a process that ended; what it counted stays."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(process, str(metrics_folder(settings)))
