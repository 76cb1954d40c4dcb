"""One supervised engine: starts it, watches it, restarts it after growing pauses, drains and stops it.

The thread that launches a model server also waits for its end, because a child that asks Linux to die with its
parent (PR_SET_PDEATHSIG) dies with the thread that started it.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ragtune.errors import EngineError, EngineMemoryError, RagTuneError
from ragtune.ports import Engine, RunningEngine

State = Literal["starting", "ready", "restarting", "stopped"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that an engine serves; `version` is a registry version, `base` or `provider`."""

    name: str
    version: str
    folder: Path
    precision: str


@dataclass(frozen=True, slots=True)
class Pace:
    """Times of the supervision, in seconds. All are chosen by hand and not sensitive.

    Attributes:
        watch: between two health checks.
        attempts: failed checks in a row until the engine counts as dead; a busy engine may answer one late.
        first_pause: before the first restart; each further pause is twice as long.
        longest_pause: the limit of that growth.
        calm: an engine that ran for longer starts again with the first pause.
        handover: until nobody chooses an engine any more that was replaced; workers learn of it within milliseconds.
    """

    watch: float = 1.0
    attempts: int = 3
    first_pause: float = 1.0
    longest_pause: float = 60.0
    calm: float = 60.0
    handover: float = 1.0


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where a running engine takes requests, and the name under which it offers its model."""

    url: str
    api_key: str
    model_name: str


class ServingEngine:
    """An engine as requests see it: its model, its route, whether it is ready, and who holds it.

    `address` is where it takes requests, or None while it does not. `awaited` says that no other engine can take the
    requests until this one is ready, so that they wait for it.
    """

    def __init__(self, model: ServedModel, route: str) -> None:
        self.model, self.route = model, route
        self.state: State = "starting"
        self.error = ""
        self.restarts = 0
        self.since = time.time()
        self.last_used = time.monotonic()
        self.address: EngineAddress | None = None
        self.awaited = False
        self._in_flight = 0
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Return whether the engine takes requests now."""
        return self.state == "ready"

    @property
    def in_flight(self) -> int:
        """Return the number of requests that hold the engine."""
        return self._in_flight

    def hold(self) -> None:
        """Add one request; a swap does not stop the engine while requests hold it."""
        with self._lock:
            self._in_flight += 1
            self.last_used = time.monotonic()

    def release(self) -> None:
        """Remove one request."""
        with self._lock:
            self._in_flight -= 1
            self.last_used = time.monotonic()

    def unavailable(self) -> EngineError:
        """Return the error that says why the engine takes no requests now."""
        activity = {"starting": "is starting", "restarting": "stopped and is being restarted"}
        message = f"The engine for model version {self.model.version} {activity.get(self.state, 'is stopping')}."
        if self.awaited:
            message += " It starts in place of the one before, because memory holds only one."
        if self.error:
            message += f" Last error: {self.error}"
        return EngineError(message, fix="try again in a few seconds; `ragtune status` shows its state")


class SupervisedEngine(ServingEngine):
    """Serves one model under its own route name until it is stopped.

    The supervising thread calls `on_change(route, running)` when the engine answers, and `on_change(route, None)`
    when it no longer does. `is_short_of_memory` says that the last start found no room. `held(route)` says whether a
    request of another process holds the engine.
    """

    def __init__(
        self,
        engine: Engine,
        model: ServedModel,
        route: str,
        on_change: Callable[[str, RunningEngine | None], None],
        pace: Pace | None = None,
        held: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(model, route)
        self._engine, self._on_change, self._pace = engine, on_change, pace or Pace()
        self._held = held or (lambda _: False)
        self.is_short_of_memory = False
        self._ending, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"engine-{route}", daemon=True)

    def start(self) -> None:
        """Start to launch the engine in the background; if it pauses after a failure, end the pause."""
        if self._thread.is_alive():
            self._wake.set()
        else:
            self._thread.start()

    @property
    def in_flight(self) -> int:
        """Return the number of requests that hold the engine; those of other processes count as one."""
        return self._in_flight or int(self._held(self.route))

    def drain(self, seconds: float) -> None:
        """Wait until no request holds the engine, but at most `seconds`, then stop it.

        It waits for `Pace.handover` first, for requests that chose the engine and do not hold it yet.
        """
        end = time.monotonic() + seconds
        self._ending.wait(min(seconds, self._pace.handover))
        while self.in_flight and time.monotonic() < end and not self._ending.is_set():
            time.sleep(0.05)
        self.stop()

    def stop(self, wait: float = 30.0) -> None:
        """Stop the engine; if it is still launching after `wait` seconds, it ends with this process."""
        self._ending.set()
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(wait)

    def _supervise(self) -> None:
        pause = self._pace.first_pause
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                running = self._engine.launch(self.model.folder, self.model.name)
            except (RagTuneError, OSError) as error:
                self.error, self.is_short_of_memory = str(error), isinstance(error, EngineMemoryError)
            else:
                self.error = self._watch(running)
            if self._ending.is_set():
                break
            self.state = "restarting"
            self.restarts += 1
            pause = self._pace.first_pause if time.monotonic() - began > self._pace.calm else pause
            logger.warning("engine %s: %s; next start in %.0f s", self.model.name, self.error, pause)
            self._wake.wait(pause)
            self._wake.clear()
            pause = min(2 * pause, self._pace.longest_pause)
        self.state = "stopped"

    def _watch(self, running: RunningEngine) -> str:
        """Serve until the engine dies or `stop` is called; return why it died, or ""."""
        try:
            self._on_change(self.route, running)
            self.address = EngineAddress(running.url, running.api_key, running.model_name)
            self.state, self.error, self.since, self.last_used = "ready", "", time.time(), time.monotonic()
            logger.info("engine %s is ready", self.model.name)
            failures = 0
            while not self._ending.wait(self._pace.watch):
                failures = 0 if running.alive() else failures + 1
                if failures >= self._pace.attempts:
                    return f"it stopped answering; its log is {running.log_path}"
            return ""
        finally:
            self.state = "stopped" if self._ending.is_set() else "restarting"
            self.address = None
            self._on_change(self.route, None)
            running.stop()
