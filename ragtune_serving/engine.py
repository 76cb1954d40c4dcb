"""One supervised engine: started, watched, restarted with growing pauses, drained and stopped.

The thread that launches a model server also waits for its end, because a server that is to
die with its parent dies with the parent's thread.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ragtune.errors import EngineError, RagTuneError
from ragtune.ports import Engine, RunningEngine

State = Literal["starting", "ready", "restarting", "stopped"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What an engine serves: `version` is a registry version, `base` or `provider`."""

    name: str
    version: str
    folder: Path
    precision: str


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between looks at a healthy engine, and between restarts of a dying one.

    A busy engine may answer its health check late, so it takes several looks to call it dead.
    """

    watch: float = 1.0
    looks: int = 3
    first_pause: float = 1.0
    longest_pause: float = 60.0
    calm: float = 60.0


class SupervisedEngine:
    """Keeps one model served until it is stopped, under a route name of its own.

    `on_change` is called with the route from the supervising thread with the running engine when it answers,
    and with None when it does not any more.
    """

    def __init__(
        self,
        engine: Engine,
        model: ServedModel,
        route: str,
        on_change: Callable[[str, RunningEngine | None], None],
        pace: Pace | None = None,
    ) -> None:
        self.model, self.route = model, route
        self.state: State = "starting"
        self.error = ""
        self.restarts = 0
        self.since = time.time()
        self.last_used = time.monotonic()
        self._engine, self._on_change, self._pace = engine, on_change, pace or Pace()
        self._in_flight = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"engine-{route}", daemon=True)

    def start(self) -> None:
        """Begin to launch the engine in the background."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Return whether requests can be sent now."""
        return self.state == "ready"

    @property
    def in_flight(self) -> int:
        """Return how many requests hold the engine."""
        return self._in_flight

    def hold(self) -> None:
        """Count one request in; the engine is not stopped by a swap while requests hold it."""
        with self._lock:
            self._in_flight += 1
            self.last_used = time.monotonic()

    def release(self) -> None:
        """Count one request out."""
        with self._lock:
            self._in_flight -= 1
            self.last_used = time.monotonic()

    def drain(self, seconds: float) -> None:
        """Wait until no request holds the engine, at most so long, then stop it."""
        end = time.monotonic() + seconds
        while self._in_flight and time.monotonic() < end and not self._ending.is_set():
            time.sleep(0.05)
        self.stop()

    def stop(self, wait: float = 30.0) -> None:
        """End the engine; one that is still launching ends with this process at the latest."""
        self._ending.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(wait)

    def _supervise(self) -> None:
        pause = self._pace.first_pause
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                running = self._engine.launch(self.model.folder, self.model.name)
            except (RagTuneError, OSError) as error:
                self.error = str(error)
            else:
                self.error = self._watch(running)
            if self._ending.is_set():
                break
            self.state = "restarting"
            self.restarts += 1
            pause = self._pace.first_pause if time.monotonic() - began > self._pace.calm else pause
            logger.warning("engine %s: %s; next start in %.0f s", self.model.name, self.error, pause)
            self._ending.wait(pause)
            pause = min(2 * pause, self._pace.longest_pause)
        self.state = "stopped"

    def _watch(self, running: RunningEngine) -> str:
        """Serve until the engine dies or is told to stop; return what was seen."""
        try:
            self._on_change(self.route, running)
            self.state, self.error, self.since, self.last_used = "ready", "", time.time(), time.monotonic()
            logger.info("engine %s is ready", self.model.name)
            missed = 0
            while not self._ending.wait(self._pace.watch):
                missed = 0 if running.alive() else missed + 1
                if missed >= self._pace.looks:
                    return f"it stopped answering; its log is {running.log_path}"
            return ""
        finally:
            self.state = "stopped" if self._ending.is_set() else "restarting"
            self._on_change(self.route, None)
            running.stop()

    def unavailable(self) -> EngineError:
        """Return the error that says why no request can be sent now."""
        what = {"starting": "is starting", "restarting": "stopped and is being restarted"}.get(self.state, "is ending")
        return EngineError(
            f"The engine for model version {self.model.version} {what}."
            + (f" Last error: {self.error}" * bool(self.error)),
            fix="try again in some seconds; `ragtune status` shows its state",
        )
