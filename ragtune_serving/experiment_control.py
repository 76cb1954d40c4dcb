"""Looks at the running experiment again and again, and does what has to be done.

Everything that it knows is in the logs. It can end at any moment, and the next gateway of the home goes on.
"""

import logging
import threading
from datetime import UTC, datetime

import sqlalchemy as sa
from filelock import FileLock, Timeout

from ragtune.errors import RagTuneError
from ragtune.evaluation.studies.store import StudyStore
from ragtune.experiments.control import Advice, run_once
from ragtune.settings import Settings
from ragtune.store.experiments import ExperimentStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune.store.shadows import ShadowStore

_STOP_SECONDS = 5.0
"""How long `stop` waits for a look in progress, which takes well under a second; chosen by hand."""
logger = logging.getLogger(__name__)


class ExperimentControl:
    """A thread that looks every `experiments.look_seconds`; `error` is why the last look failed, or "".

    A lock in the home keeps two processes from looking at the same moment.
    """

    def __init__(
        self,
        settings: Settings,
        store: ExperimentStore,
        shadows: ShadowStore,
        log: FeedbackLog,
        registry: ModelRegistry,
        studies: StudyStore,
    ) -> None:
        self.settings, self.store, self.shadows, self.log, self.registry = settings, store, shadows, log, registry
        self.studies = studies
        self.error = ""
        self._lock = FileLock(settings.home / "gateway" / "experiments.lock", timeout=0)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name="control-experiments", daemon=True)

    def start(self) -> None:
        """Start to look in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def look(self) -> Advice | None:
        """Read the outcomes once, and change shares, pause, stop or promote as they say.

        Returns None if no experiment runs or another process is doing it.
        """
        try:
            with self._lock:
                return run_once(self.store, self.log, self.registry, datetime.now(UTC))
        except Timeout:
            return None

    def _look_again(self) -> None:
        while not self._ending.wait(self.settings.experiments.look_seconds):
            try:
                advice = self.look()
                self.error = ""
            except (RagTuneError, sa.exc.SQLAlchemyError) as error:
                self.error = f"The experiment was not looked at. {error}"
                logger.error(self.error)
                continue
            if advice and advice.action != "hold":
                logger.info("experiment: %s, because %s", advice.action, advice.reason)
