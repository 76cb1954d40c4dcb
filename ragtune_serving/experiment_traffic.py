"""Assigns requests to the arms of the running experiment, and says what became of each of them.

Requests are assigned only after the engines of all arms have answered once. If the engine of a candidate stops later,
its users get the control, and the exposure says so: the guardrail `delivered` counts it against the candidate.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from ragtune.errors import RagTuneError
from ragtune.experiments.routing import Route, route
from ragtune.records import Exposure, ExposureFailure, content_id
from ragtune.store.experiments import Experiment, ExperimentStore
from ragtune.store.timestamps import now
from ragtune_serving.conversation import Conversation
from ragtune_serving.engine import ServingEngine

FindEngine = Callable[[str], ServingEngine | None]
"""Returns the engine that serves a version, or None if there is none."""
_STOP_SECONDS = 5.0
"""How long `stop` waits for the thread, which sleeps no longer than one poll."""
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Placement:
    """The arm of one request, the engine that answers it, and the control's engine, which steps in before any text.

    `replaced` says that the control answers in place of the arm's own model.
    """

    experiment: Experiment
    way: Route
    engine: ServingEngine
    control: ServingEngine
    replaced: bool = False
    created_at: str = field(default_factory=now)

    def can_replace(self) -> bool:
        """Return whether the control could still answer in place of the engine."""
        return self.engine is not self.control and not self.replaced and self.control.ready

    def exposure(self, response_id: str, outcome: str, by_fallback: bool = False) -> Exposure:
        """Return the exposure of a request whose outcome is `answered`, `failed` or `broken` (the client left)."""
        failure: ExposureFailure = "replaced" if self.replaced or by_fallback else ""
        if outcome in ("failed", "broken"):
            failure = "failed" if outcome == "failed" else "left"
        return Exposure(
            sequence=0,
            experiment=self.experiment.id,
            response_id=response_id,
            unit=self.way.unit,
            arm=self.way.arm,
            shares=self.way.shares,
            created_at=self.created_at,
            failure=failure,
        )


class ExperimentTraffic:
    """Follows the log of experiments, so that an assignment waits for no database."""

    def __init__(self, store: ExperimentStore, poll_seconds: float) -> None:
        self.store = store
        self._poll_seconds = poll_seconds
        self._running: Experiment | None = None
        self._open = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-experiments", daemon=True)

    @property
    def running(self) -> Experiment | None:
        """Return the experiment that runs, also if it is paused; None if there is none."""
        return self._running

    def start(self) -> None:
        """Read the log, then follow it in the background."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def refresh(self) -> None:
        """Read which experiment runs now."""
        self._running = self.store.running()

    def versions(self) -> tuple[str, ...]:
        """Return the versions whose engines the running experiment needs."""
        return self._running.design.versions if self._running else ()

    def place(self, user: str, key: str, conversation: Conversation, engine_of: FindEngine) -> Placement | None:
        """Return where a request goes; None if no experiment runs, it is paused, or its engines are still starting.

        Args:
            user: the end user that the request names, or "".
            key: the name of the request's key.
            conversation: identifies a request without a user: all turns of a conversation get the same arm.
            engine_of: finds the engine of a version.
        """
        experiment = self._running
        if experiment is None or experiment.paused:
            return None
        engines = [engine_of(version) for version in experiment.design.versions]
        if self._open != experiment.id:
            if not all(engine is not None and engine.ready for engine in engines):
                return None
            self._open = experiment.id
        way = route(experiment, user, key, conversation_id(conversation))
        control, own = engines[0], engines[way.arm]
        if control is None:
            return None
        ready = own is not None and own.ready
        if own is None or (not ready and control.ready):
            return Placement(experiment, way, control, control, replaced=way.arm != 0)
        return Placement(experiment, way, own, control)

    def _follow(self) -> None:
        while not self._ending.wait(self._poll_seconds):
            try:
                self.refresh()
            except (RagTuneError, sa.exc.SQLAlchemyError) as error:
                logger.warning("the log of experiments cannot be read: %s", error)


def conversation_id(conversation: Conversation) -> str:
    """Return what all turns of a conversation have in common: a hash of its first question.

    Instructions are left out, because applications put the time into them.
    """
    return content_id(conversation.history[0].content if conversation.history else conversation.question)
