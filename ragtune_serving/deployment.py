"""Decides which engine answers which model name, and follows the registry without a restart.

A new champion is verified and started while the old one still serves. Requests move to it once it
answers. The old engine stops after its last request. The versions of an experiment have engines of their own.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from ragtune.errors import EngineError, RagTuneError, RegistryError
from ragtune.ports import Engine, RunningEngine
from ragtune.records import RegisteredModel
from ragtune.settings import Settings
from ragtune.store.registry import ModelRegistry, verify
from ragtune_serving.engine import EngineAddress, Pace, ServedModel, ServingEngine, SupervisedEngine
from ragtune_serving.refused_champion import RefusalNote

MODELS = {
    "ragtune": "the released model with retrieval and citations",
    "ragtune-base": "the base model with the same retrieval and prompt, for comparison",
    "ragtune-raw": "the base model without retrieval, for comparison",
}
DRAIN_SECONDS = 120.0
"""An old engine stops after this time even if requests still hold it; chosen by hand, not sensitive: an answer takes
seconds."""
_STOP_SECONDS = 5.0
"""How long `stop` waits for the thread that follows the registry, which sleeps no longer than one poll."""
logger = logging.getLogger(__name__)


Needed = Callable[[], Collection[str]]
"""Returns the versions that need an engine in addition to the champion, such as those of an experiment."""


class Publisher(Protocol):
    """Routes requests to running engines: the gateway's router, or what tells it to the workers."""

    def publish(self, route: str, running: RunningEngine | EngineAddress | None) -> None:
        """Send requests for this route to this engine from now on; remove the route if it is None."""


class Engines(Protocol):
    """The engines as requests see them: of this process, or of the one that runs them for several workers."""

    @property
    def live(self) -> ServingEngine | None:
        """The engine that answers `ragtune`."""

    @property
    def coming(self) -> ServingEngine | None:
        """The engine that will become live once it is ready."""

    @property
    def error(self) -> str:
        """The last problem with following the registry, or ""."""

    @property
    def idle(self) -> bool:
        """Whether no request holds any engine."""

    def engine_for(self, model: str) -> ServingEngine:
        """Return the engine for a model name, which may still be starting; raise EngineError if there is none yet."""

    def known_engine_for(self, model: str) -> ServingEngine | None:
        """Return what `engine_for` would, if that is known without waiting for anything; else None."""

    def engine_of(self, version: str) -> ServingEngine | None:
        """Return the engine that serves a version, or None; it may be starting."""

    def engines(self) -> Mapping[str, ServingEngine]:
        """Return {role: engine} of those that there are; a role is `live`, `next` or `comparison`."""

    def status(self) -> dict[str, Any]:
        """Return the state of every engine, the champion and the last error, as plain values."""

    def start(self) -> None:
        """Begin to follow what is served."""

    def stop(self) -> None:
        """Stop following; end what this process started."""


class Deployment:
    """The live engine, the engines of an experiment, and the comparison engine as long as somebody uses it.

    `base` returns the folder of the base model's weights and their precision. `needed` returns the versions that need
    an engine in addition to the champion, such as those of an experiment; `arm_errors` says why one of them has none.
    `champion` is the version that the registry names; `coming` is the engine that will become live once it is ready;
    `error` is the last problem with following the registry, or "". A champion whose files fail verification is tried
    again as soon as they change; one whose engine does not start is tried again after growing pauses. If memory holds
    only one engine, the live one stops before the new one starts, and comes back if that fails.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        registry: ModelRegistry,
        base: Callable[[], tuple[Path, str]],
        publisher: Publisher,
        pace: Pace | None = None,
        needed: Needed = tuple,
        held: Callable[[str], bool] | None = None,
    ) -> None:
        self.settings, self.registry, self._held = settings, registry, held
        self.live: SupervisedEngine | None = None
        self.champion: str | None = None
        self.error = ""
        self._engine, self._base, self._publisher, self._pace = engine, base, publisher, pace
        self._note = RefusalNote(registry)
        self.coming: SupervisedEngine | None = None
        self.arm_errors: dict[str, str] = {}
        self._needed = needed
        self._arms: dict[str, SupervisedEngine] = {}
        self._comparison: SupervisedEngine | None = None
        self._before: ServedModel | None = None
        self._failures_before: int | None = None
        self._refused: dict[str, tuple[tuple[str, int, int], ...]] = {}
        self._count = itertools.count(1)
        self._ending = threading.Event()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._follow, name="follow-registry", daemon=True)

    def start(self) -> None:
        """Start to follow the registry in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following the registry, then stop every engine."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        with self._lock:
            engines = self._engines()
        threads = [threading.Thread(target=engine.stop) for engine in engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def engine_for(self, model: str) -> SupervisedEngine:
        """Return the engine for this model name; start the comparison engine if it is needed.

        The engine may still be starting. Raises EngineError if no engine was started yet.
        """
        with self._lock:
            live = self.live or self.coming
            if live is None:
                raise EngineError("The gateway is starting." + (f" {self.error}" if self.error else ""))
            if model == "ragtune" or live.model.version in ("base", "provider"):
                return live
            if self._comparison is not None:
                return self._comparison
        base = self._base_model()  # unpacking it takes half a minute, and nobody may wait for that
        with self._lock:
            if self._comparison is None:
                self._comparison = self._start(base)
            return self._comparison

    def known_engine_for(self, model: str) -> SupervisedEngine | None:
        """Return the live engine if it answers this model name; else None. Safe in the event loop: it takes no lock."""
        live = self.live
        is_right = live is not None and (model == "ragtune" or live.model.version in ("base", "provider"))
        return live if is_right else None

    def engine_of(self, version: str) -> SupervisedEngine | None:
        """Return the engine that serves a version, or None; it may be starting."""
        # Without the lock: it is called in the event loop, for which a thread that has the lock may wait.
        engines = (engine for engine in self._engines() if engine is not self._comparison)
        return next((engine for engine in engines if engine.model.version == version), None)

    @property
    def idle(self) -> bool:
        """Return whether no request holds any engine."""
        return not any(engine.in_flight for engine in self._engines())  # without the lock, as above

    def engines(self) -> dict[str, ServingEngine]:
        """Return {role: engine} of those that there are; a role is `live`, `next` or `comparison`."""
        return by_role(self.live, self.coming, self._comparison)

    def status(self) -> dict[str, Any]:
        """Return the state of every engine, the champion and the last error, as plain values."""
        return {
            "live": describe(self.live),
            "next": describe(self.coming),
            "comparison": describe(self._comparison),
            "arms": [description for engine in list(self._arms.values()) if (description := describe(engine))],
            "arm_errors": list(self.arm_errors.values()),
            "champion": self.champion,
            "error": self.error,
        }

    @property
    def arms(self) -> list[SupervisedEngine]:
        """Return the engines of an experiment in addition to the live one."""
        with self._lock:
            return list(self._arms.values())

    @property
    def comparison(self) -> SupervisedEngine | None:
        """Return the engine for `ragtune-base` and `ragtune-raw`, if it was started."""
        return self._comparison

    def _follow(self) -> None:
        while not self._ending.is_set():
            try:
                self._step()
                self._note.update(self.status())
            except RagTuneError as error:
                self._report(str(error))
            except Exception as error:
                logger.exception("following the registry failed")
                self.error = str(error)
            self._ending.wait(self.settings.gateway.poll_seconds)

    def _step(self) -> None:
        """Take one step towards serving the version that the registry names."""
        target = self._target()
        arms = self._missing_arms()  # it reads weights, so nobody may wait for it
        with self._lock:
            coming = self.coming
            if coming is not None and coming.ready:
                self._swap(coming)
            elif coming is not None and self.live is not None and self._in_place(coming):
                self._make_room(coming, self.live)
            elif coming is not None and self._before and self._fails_alone(coming):
                self._go_back(coming, self._before)
                return  # the target from above is the one that failed
            current = self.coming or self.live
            if target is not None and (current is None or current.model.name != target.name):
                if self.coming is not None:
                    threading.Thread(target=self.coming.stop, daemon=True).start()
                    self.coming = None
                if self.live is None or self.live.model.name != target.name:
                    # In this order, so that a look without the lock finds it in one place or the other.
                    waits = self.live is not None and self.settings.gateway.swap == "in_place"
                    self.coming = self._arms.get(target.version) or self._start(target, at_once=not waits)
                    self._arms.pop(target.version, None)
            self._follow_arms(arms)
            self._stop_idle_comparison()

    def _follow_arms(self, missing: Collection[ServedModel]) -> None:
        """Start engines for the missing models of an experiment, and stop those that are no longer needed."""
        needed = set(self._needed())
        for version in [version for version in self._arms if version not in needed]:
            self._drain(self._arms.pop(version))
        for model in missing:
            if self.engine_of(model.version) is None and model.version in needed:
                self._arms[model.version] = self._start(model)

    def _missing_arms(self) -> list[ServedModel]:
        """Return the models that an experiment needs and that have no engine, except those that cannot be served."""
        needed = set(self._needed())
        self.arm_errors = {version: error for version, error in self.arm_errors.items() if version in needed}
        if self.live is None and self.coming is None:
            return []
        missing = []
        for version in sorted(version for version in needed if self.engine_of(version) is None):
            try:
                if (model := self._arm(version)) is not None:
                    missing.append(model)
                    self.arm_errors.pop(version, None)
            except RagTuneError as error:
                message = f"Version {version} of the experiment is not served. {error}"
                if self.arm_errors.get(version) != message:
                    logger.error(message)
                self.arm_errors[version] = message
        return missing

    def _arm(self, version: str) -> ServedModel | None:
        """Return the verified model of a version, or None if its files failed before and have not changed since.

        Raises RagTuneError if it cannot be served.
        """
        if self.settings.engine.backend == "openai":
            raise EngineError("The engine is somebody else's server.", "engine.backend to be one that RagTune starts")
        released = self.registry.version(version)
        if self._still_refused(released):
            return None
        model, files = self._model_of(released), _state_of_files(Path(released.folder))
        try:
            verify(Path(released.folder))
        except RegistryError:
            self._refused[version] = files
            raise
        self._refused.pop(version, None)
        return model

    def _target(self) -> ServedModel | None:
        """Return the model that should be live, or None to keep the one that is."""
        if self.settings.engine.backend == "openai":
            name = self.settings.engine.model or "provider"
            return ServedModel(name=name, version="provider", folder=Path(), precision="")
        champion, version = None, None
        try:
            version = self.registry.alias_version("champion")  # known even if its files are gone
            champion = self.registry.alias("champion")
            version = champion.version if champion else None
        except RegistryError as error:
            self._report(f"The champion is not served. {error}")
        if version != self.champion and version:
            self._refused.pop(version, None)  # it was moved, so somebody wants it to be tried
        self.champion = version
        if champion is None or self._still_refused(champion):
            return self._base_model() if self.live is None and self.coming is None else None
        current = self.coming or self.live
        files = _state_of_files(Path(champion.folder))
        try:
            model = self._model_of(champion)
            if current is not None and current.model.name == model.name:
                self.error = ""
                return model
            verify(Path(champion.folder))
        except RagTuneError as error:
            self._refused[champion.version] = files
            self._report(f"Version {champion.version} is not served. {error}")
            return self._target()  # the version is among the refused ones now, so this ends
        self._refused.pop(champion.version, None)
        self.error = ""
        return model

    def _still_refused(self, release: RegisteredModel) -> bool:
        """Return whether this version failed and its files are as they were then: it is tried once they change."""
        refused = self._refused.get(release.version)
        return refused is not None and refused == _state_of_files(Path(release.folder))

    def _model_of(self, release: RegisteredModel) -> ServedModel:
        """Return what an engine serves of a version; raise EngineError if it lacks the precision of the settings."""
        manifest = release.manifest
        setting = self.settings.quantization.serve
        precision = manifest.served_precision if setting == "auto" else setting
        if precision not in manifest.precisions:
            raise EngineError(
                f"Version {release.version} has no {precision} weights.",
                expected=f"quantization.serve to be auto or one of {', '.join(manifest.precisions)}",
            )
        folder = Path(release.folder) / manifest.precisions[precision]
        return ServedModel(f"ragtune-v{release.version}-{precision}", release.version, folder, precision)

    def _base_model(self) -> ServedModel:
        folder, precision = self._base()
        return ServedModel(name="ragtune-base-model", version="base", folder=folder, precision=precision)

    def _start(self, model: ServedModel, *, at_once: bool = True) -> SupervisedEngine:
        route = f"{model.name}#{next(self._count)}"
        engine = SupervisedEngine(self._engine, model, route, self._publisher.publish, self._pace, self._held)
        if at_once:
            logger.info("starting an engine for %s", model.name)
            engine.start()
        return engine

    def _in_place(self, coming: SupervisedEngine) -> bool:
        """Return whether the live engine has to stop before the coming one can start."""
        swap = self.settings.gateway.swap
        return swap == "in_place" or (swap == "auto" and coming.is_short_of_memory)

    def _make_room(self, coming: SupervisedEngine, old: SupervisedEngine) -> None:
        """Stop the live engine after its last request, then start the coming one; new requests wait for that."""
        logger.warning("version %s starts in place of version %s", coming.model.version, old.model.version)
        self.live, self._before, self._failures_before = None, old.model, None
        coming.awaited = True

        def follow() -> None:
            old.drain(DRAIN_SECONDS)
            self._failures_before = coming.restarts
            coming.start()

        threading.Thread(target=follow, daemon=True).start()

    def _fails_alone(self, coming: SupervisedEngine) -> bool:
        """Return whether a start failed although the engine before is gone; one may have begun before it was."""
        if self._failures_before is None:
            return False
        return coming.restarts > self._failures_before + int(coming.is_short_of_memory)

    def _go_back(self, coming: SupervisedEngine, before: ServedModel) -> None:
        """Serve the model from before an in-place swap again, because the new one does not start.

        The new one is tried again once its files change or the champion moves: each try is a pause for users.
        """
        version = coming.model.version
        self._refused[version] = _state_of_files(Path(self.registry.version(version).folder))
        self._report(f"Version {version} did not start in place of version {before.version}. {coming.error}")
        threading.Thread(target=coming.stop, daemon=True).start()
        self._before = None
        self.coming = self._start(before)
        self.coming.awaited = True

    def _swap(self, coming: SupervisedEngine) -> None:
        old = self.live
        is_arm = old is not None and old.model.version in self._needed()
        if old is not None and is_arm:
            self._arms[old.model.version] = old
        self.live, self.coming, self._before = coming, None, None
        coming.awaited = False
        logger.info("version %s is live", coming.model.version)
        if old is not None and not is_arm:
            self._drain(old)

    def _drain(self, engine: SupervisedEngine) -> None:
        threading.Thread(target=engine.drain, args=(DRAIN_SECONDS,), daemon=True).start()

    def _engines(self) -> list[SupervisedEngine]:
        engines = (self.live, self.coming, self._comparison, *list(self._arms.values()))
        return [engine for engine in engines if engine is not None]

    def _stop_idle_comparison(self) -> None:
        engine = self._comparison
        if engine is None or engine.in_flight or engine.state == "starting":
            return
        idle = time.monotonic() - engine.last_used
        if idle > self.settings.gateway.comparison_idle_seconds:
            logger.info("stopping the comparison engine: it was idle for %.0f s", idle)
            self._comparison = None
            threading.Thread(target=engine.stop, daemon=True).start()

    def _report(self, message: str) -> None:
        if message != self.error:
            logger.error(message)
        self.error = message


def _state_of_files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return path, size and time of change of every file below a folder; hashing them at every poll would be slow."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def by_role(
    live: ServingEngine | None, coming: ServingEngine | None, comparison: ServingEngine | None
) -> dict[str, ServingEngine]:
    """Return {role: engine} of those that there are; a role is `live`, `next` or `comparison`."""
    roles = {"live": live, "next": coming, "comparison": comparison}
    return {role: engine for role, engine in roles.items() if engine is not None}


def describe(engine: ServingEngine | None) -> dict[str, Any] | None:
    """Return the state of an engine as plain values, or None if there is none."""
    if engine is None:
        return None
    return {
        "version": engine.model.version,
        "name": engine.model.name,
        "precision": engine.model.precision,
        "state": engine.state,
        "since": round(engine.since, 3),
        "restarts": engine.restarts,
        "in_flight": engine.in_flight,
        "error": engine.error,
    }
