"""Chooses the answering path with or without retrieval, and uses an index as soon as there is one.

*Grounding* is retrieval: a grounded answer is based on passages of the documents.
"""

import logging
import threading
from collections.abc import Callable

from ragtune.answer.answering import Answerer
from ragtune.answer.lines import LineSimilarity
from ragtune.errors import RagTuneError, SearchIndexError
from ragtune.knowledge.retrieval import Retriever
from ragtune.settings import Settings

logger = logging.getLogger(__name__)


class Grounding:
    """Looks for an index in the background until there is one.

    After that nothing needs to look again: the retriever itself follows every change of the index.
    `settled` says whether it is known if there is an index; `error` is the last problem, or "".
    """

    def __init__(
        self, settings: Settings, open_retriever: Callable[[], Retriever], similarity: LineSimilarity | None = None
    ) -> None:
        self._settings, self._open, self._similarity = settings, open_retriever, similarity
        self._raw = Answerer(None, settings.answer)
        self._grounded: Answerer | None = None
        self.error = ""
        self.settled = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, name="look-for-index", daemon=True)

    @property
    def present(self) -> bool:
        """Return whether answers are grounded in an index."""
        return self._grounded is not None

    def answerer(self, model: str) -> Answerer:
        """Return the answering path for a model name.

        Raises SearchIndexError as long as it is not known whether there is an index: an answer without
        retrieval must not look like an answer with retrieval.
        """
        if model != "ragtune-raw" and not self.settled:
            raise SearchIndexError("Retrieval is not ready." + (f" {self.error}" if self.error else ""))
        return self._raw if model == "ragtune-raw" or self._grounded is None else self._grounded

    def start(self) -> None:
        """Start to look for an index in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._ending.set()

    def _look(self) -> None:
        retriever: Retriever | None = None
        while not self._ending.is_set() and self._grounded is None:
            try:
                retriever = retriever or self._open()
                if retriever.index.versions():
                    retriever.search("warm up", 1)
                    self._grounded = Answerer(retriever, self._settings.answer, self._similarity)
                    logger.info("found an index; answers are grounded from now on")
                self.error, self.settled = "", True
            except RagTuneError as error:
                self.error = str(error)
                logger.warning("no retrieval yet: %s", error)
            except Exception as error:
                logger.exception("looking for an index failed")
                self.error = str(error)
            self._ending.wait(self._settings.gateway.poll_seconds)
