"""Chooses the answering path with or without retrieval, and uses an index as soon as there is one.

*Grounding* is retrieval: a grounded answer is based on passages of the documents.
"""

import logging
import threading
from collections.abc import Callable, Mapping

from ragtune.answer.answering import Answerer
from ragtune.answer.lines import LineSimilarity
from ragtune.errors import RagTuneError, SearchIndexError, SettingsError
from ragtune.knowledge.retrieval import Retriever
from ragtune.ports import Embedder, EvidenceModel
from ragtune.records import Hit
from ragtune.settings import Settings
from ragtune_serving.schema import FILTERS
from ragtune_serving.search_queue import SearchQueue

logger = logging.getLogger(__name__)
_STOP_SECONDS = 30.0
"""How long to wait for a load of the models at the end. Chosen by hand: on two cores it takes up to 20 seconds."""


class RestrictedSearch:
    """A search among the passages whose metadata fields have certain values."""

    def __init__(self, searches: SearchQueue, where: Mapping[str, str]) -> None:
        self._searches, self._where = searches, where

    def search(self, text: str, limit: int) -> list[Hit]:
        """Return up to `limit` hits, best first."""
        return self._searches.search(text, limit, self._where)


class Grounding:
    """Looks for an index in the background until there is one.

    After that nothing needs to look again: the retriever itself follows every change of the index.
    `settled` says whether it is known if there is an index; `error` is the last problem, or "".
    """

    def __init__(
        self,
        settings: Settings,
        open_retriever: Callable[[], Retriever],
        similarity: LineSimilarity | None = None,
        evidence: EvidenceModel | None = None,
    ) -> None:
        self._settings, self._open, self._similarity, self._evidence = settings, open_retriever, similarity, evidence
        self._raw = Answerer(None, settings.answer)
        self._opened: Retriever | None = None
        self._searches: SearchQueue | None = None
        self.error = ""
        self.settled = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, name="look-for-index", daemon=True)

    @property
    def present(self) -> bool:
        """Return whether answers are grounded in an index."""
        return self._searches is not None

    @property
    def waiting(self) -> int:
        """Return the number of questions that wait for a search."""
        return self._searches.waiting if self._searches else 0

    def answerer(self, model: str, where: Mapping[str, str] | None = None) -> Answerer:
        """Return the answering path for a model name; it searches only passages with the values in `where`.

        Raises:
            SettingsError: `where` has a field that passages cannot be restricted by.
            SearchIndexError: it is not known yet whether there is an index. An answer without retrieval must not
                look like an answer with retrieval.
        """
        if unknown := sorted(set(where or {}) - set(FILTERS)):
            raise SettingsError(f"There is no filter '{unknown[0]}'.", f"one of {', '.join(FILTERS)}")
        if model == "ragtune-raw":
            return self._raw
        if not self.settled:
            raise self._not_ready()
        if self._searches is None:
            return self._raw
        search = RestrictedSearch(self._searches, where) if where else self._searches
        return Answerer(search, self._settings.answer, self._similarity, self._evidence)

    def state(self, model: str) -> str:
        """Return what readers of the index see, as text (`SearchIndex.state`); "" if answers are not grounded."""
        if model == "ragtune-raw" or self._searches is None or self._opened is None:
            return ""
        return self._opened.index.state()

    def embedder(self) -> Embedder:
        """Return the embedder of the index; raise SearchIndexError if it is not loaded yet."""
        return self.retriever().embedder

    def retriever(self) -> Retriever:
        """Return the retriever behind the answers; raise SearchIndexError if it is not loaded yet."""
        if self._opened is None:
            raise self._not_ready()
        return self._opened

    def start(self) -> None:
        """Start to look for an index in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking. A load of the models is waited for: a process that ends in the middle of one aborts."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _not_ready(self) -> SearchIndexError:
        return SearchIndexError("Retrieval is not ready." + (f" {self.error}" if self.error else ""))

    def _look(self) -> None:
        while not self._ending.is_set() and self._searches is None:
            try:
                self._opened = retriever = self._opened or self._open()
                if retriever.index.versions():
                    retriever.search("warm up", 1)
                    self._searches = SearchQueue(retriever)
                    logger.info("found an index; answers are grounded from now on")
                self.error, self.settled = "", True
            except RagTuneError as error:
                self.error = str(error)
                logger.warning("no retrieval yet: %s", error)
            except Exception as error:
                logger.exception("looking for an index failed")
                self.error = str(error)
            self._ending.wait(self._settings.gateway.poll_seconds)
