"""Engines that one process runs and several workers use: what it says in files, and what the workers answer there.

The process with the engines writes `engines.json`: their states and addresses. Each worker reads it again when it
changed, at the latest before each request. A worker holds the lock of a file while one of its requests uses an engine,
so that a swap stops no engine in use; the operating system frees the lock if the worker dies. A worker that needs the
comparison engine touches a file.
"""

import fcntl
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ragtune.errors import EngineError
from ragtune.ports import RunningEngine
from ragtune.store.locks import is_held
from ragtune_serving.deployment import Deployment, Publisher, by_role, describe
from ragtune_serving.engine import EngineAddress, ServedModel, ServingEngine

_READ_SECONDS = 0.1
"""Between two looks at the file of the other side: 0.1 s is far below `Pace.handover`. Chosen by hand."""
_WAIT_SECONDS = 10.0
"""How long a worker waits until the comparison engine is announced, which takes a fraction of a second."""
_RETIRED_SECONDS = 5.0
"""How long a worker knows the address of a replaced engine after its last request; longer than `Pace.handover`."""
_ROLES = ("live", "next", "comparison")
logger = logging.getLogger(__name__)


class SharedEngines:
    """The files between the process with the engines and its workers, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "engines.json"
        self.wanted = folder / "comparison.wanted"
        self.holds = folder / "holds"

    def hold_file(self, route: str, process: int) -> Path:
        """Return the file that a worker locks while its requests use the engine of a route."""
        return self.holds / f"{quote(route, safe='')}.{process}"

    def held(self, route: str) -> bool:
        """Return whether a request of any worker uses the engine of a route."""
        return any(is_held(path) for path in self.holds.glob(f"{quote(route, safe='')}.*"))


class Announcer(Publisher):
    """Tells the workers about the engines of this process."""

    def __init__(self, files: SharedEngines) -> None:
        self._files = files
        self._addresses: dict[str, EngineAddress] = {}
        self._written = ""
        self._seen_wish = time.time_ns()

    def publish(self, route: str, running: RunningEngine | EngineAddress | None) -> None:
        """Remember where an engine takes requests."""
        if running is None:
            self._addresses.pop(route, None)
        else:
            self._addresses[route] = EngineAddress(running.url, running.api_key, running.model_name)

    def announce(self, deployment: Deployment) -> None:
        """Write what changed, and start the comparison engine if a worker wants it."""
        engines = zip(_ROLES, (deployment.live, deployment.coming, deployment.comparison), strict=True)
        content = {
            "champion": deployment.champion,
            "error": deployment.error,
            "arms": [self._entry(engine) for engine in deployment.arms],
            "arm_errors": list(deployment.arm_errors.values()),
            **{role: self._entry(engine) for role, engine in engines},
        }
        text = json.dumps(content)
        if text != self._written:
            self._write(text)
        wish = self._files.wanted.stat().st_mtime_ns if self._files.wanted.is_file() else 0
        if wish > self._seen_wish:
            self._seen_wish = wish
            deployment.engine_for("ragtune-base").last_used = time.monotonic()

    def _entry(self, engine: ServingEngine | None) -> dict[str, Any] | None:
        if engine is None:
            return None
        address = self._addresses.get(engine.route)
        facts = {**(describe(engine) or {}), "in_flight": 0, "route": engine.route, "folder": str(engine.model.folder)}
        facts["awaited"] = engine.awaited
        return {**facts, "address": [address.url, address.api_key, address.model_name] if address else None}

    def _write(self, text: str) -> None:
        """Replace the file in one step; only this user may read it, because it holds the engines' keys."""
        new = self._files.state.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        new.replace(self._files.state)
        self._written = text


class FollowedEngine(ServingEngine):
    """An engine of the other process; while a request holds it, so does a lock that the other process sees."""

    def __init__(self, model: ServedModel, route: str, hold_file: Path) -> None:
        super().__init__(model, route)
        hold_file.parent.mkdir(parents=True, exist_ok=True)
        # Opened once, so that a full disk keeps no request from holding an engine.
        self._hold_file, self._file = hold_file, hold_file.open("w")

    def hold(self) -> None:
        """Add one request."""
        super().hold()
        if self._in_flight == 1:
            fcntl.flock(self._file, fcntl.LOCK_EX)  # the other process looks at it for microseconds only

    def release(self) -> None:
        """Remove one request."""
        super().release()
        if not self._in_flight:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Delete the lock's file."""
        self._file.close()
        self._hold_file.unlink(missing_ok=True)


class FollowedDeployment:
    """The engines of the other process, as a worker uses them."""

    def __init__(self, files: SharedEngines, publisher: Publisher) -> None:
        self.live: FollowedEngine | None = None
        self.coming: FollowedEngine | None = None
        self.error = ""
        self._champion: str | None = None
        self._comparison: FollowedEngine | None = None
        self._arms: list[FollowedEngine] = []
        self._arm_errors: list[str] = []
        self._files, self._publisher = files, publisher
        self._engines: dict[str, FollowedEngine] = {}
        self._addresses: dict[str, EngineAddress] = {}
        self._seen = (0, 0)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-engines", daemon=True)

    def start(self) -> None:
        """Follow the other process in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._ending.set()
        self._thread.join()
        for engine in self._engines.values():
            engine.close()

    def engine_for(self, model: str) -> ServingEngine:
        """Return the engine for this model name; have the comparison engine started if it is needed.

        Raises EngineError if no engine was started yet.
        """
        self._read()
        live = self.live or self.coming
        if live is None:
            raise EngineError("The gateway is starting." + (f" {self.error}" if self.error else ""))
        if model == "ragtune" or live.model.version in ("base", "provider"):
            return live
        self._files.wanted.touch()
        end = time.monotonic() + _WAIT_SECONDS
        while (engine := self._comparison) is None:
            if time.monotonic() > end:
                raise EngineError("The comparison engine was not started.", fix="see the log of the gateway")
            time.sleep(_READ_SECONDS)
            self._read()
        return engine

    def known_engine_for(self, model: str) -> ServingEngine | None:  # noqa: ARG002 the interface's
        """Return None: before each request the file of the other process is looked at."""
        return None

    def engine_of(self, version: str) -> ServingEngine | None:
        """Return the engine that serves a version, or None; it may be starting."""
        engines = [engine for engine in (self.live, self.coming, *self._arms) if engine]
        return next((engine for engine in engines if engine.model.version == version), None)

    @property
    def idle(self) -> bool:
        """Return whether no request of any worker holds an engine."""
        return not any(self._files.held(route) for route in list(self._engines))

    def engines(self) -> dict[str, ServingEngine]:
        """Return {role: engine} of those that there are."""
        # Without the lock: it is called in the event loop, for which a thread that has the lock may wait.
        return by_role(self.live, self.coming, self._comparison)

    def status(self) -> dict[str, Any]:
        """Return the state of every engine, the champion and the last error; requests in flight are this worker's."""
        return {
            "live": describe(self.live),
            "next": describe(self.coming),
            "comparison": describe(self._comparison),
            "arms": [facts for engine in self._arms if (facts := describe(engine))],
            "arm_errors": self._arm_errors,
            "champion": self._champion,
            "error": self.error,
        }

    def _follow(self) -> None:
        while not self._ending.is_set():
            try:
                self._read()
            except Exception as error:
                logger.exception("following the engines failed")
                self.error = str(error)
            self._ending.wait(_READ_SECONDS)

    def _read(self) -> None:
        """Read the file again if it changed."""
        with self._lock:
            try:
                file = self._files.state.stat()
            except FileNotFoundError:
                return
            if (file.st_mtime_ns, file.st_ino) != self._seen:
                content = json.loads(self._files.state.read_text())
                self._seen = (file.st_mtime_ns, file.st_ino)
                engines = {role: self._engine(content[role]) for role in _ROLES}
                self._champion, self.error = content["champion"], content["error"]
                self.live, self.coming, self._comparison = (engines[role] for role in _ROLES)
                self._arms = [arm for entry in content["arms"] if (arm := self._engine(entry))]
                self._arm_errors = content["arm_errors"]
            current = (self.live, self.coming, self._comparison, *self._arms)
            self._forget({engine.route for engine in current if engine})

    def _engine(self, entry: dict[str, Any] | None) -> FollowedEngine | None:
        if entry is None:
            return None
        route = entry["route"]
        engine = self._engines.get(route)
        if engine is None:
            model = ServedModel(entry["name"], entry["version"], Path(entry["folder"]), entry["precision"])
            engine = self._engines[route] = FollowedEngine(model, route, self._files.hold_file(route, os.getpid()))
        address = EngineAddress(*entry["address"]) if entry["address"] else None
        if address is not None and self._addresses.get(route) != address:
            self._publisher.publish(route, address)
            self._addresses[route] = address
        engine.address, engine.awaited = address, entry["awaited"]
        engine.state = entry["state"] if address or entry["state"] != "ready" else "restarting"
        engine.error, engine.restarts, engine.since = entry["error"], entry["restarts"], entry["since"]
        return engine

    def _forget(self, current: set[str]) -> None:
        """Forget replaced engines once nobody uses them any more."""
        for route, engine in list(self._engines.items()):
            idle = time.monotonic() - engine.last_used
            if route not in current and not engine.in_flight and idle > _RETIRED_SECONDS:
                self._engines.pop(route).close()
                if self._addresses.pop(route, None):
                    self._publisher.publish(route, None)
