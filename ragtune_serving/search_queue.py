"""Searches for questions that arrive together in one batch, so that they are embedded together."""

import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from ragtune.knowledge.retrieval import Retriever
from ragtune.records import Hit

_MOST_AT_ONCE = 32
"""Questions in one batch. Chosen by hand: more would make the first of them wait for the last."""


@dataclass(frozen=True, slots=True)
class _Request:
    text: str
    limit: int
    where: tuple[tuple[str, str], ...]
    result: Future[list[Hit]] = field(default_factory=Future)


class SearchQueue:
    """One thread that searches for everything that waits, in one batch; nobody waits for a batch to fill."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._waiting: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="search", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Return the number of questions that wait for a search."""
        return self._waiting.qsize()

    def search(self, text: str, limit: int, where: Mapping[str, str] | None = None) -> list[Hit]:
        """Return up to `limit` hits, best first; see `Retriever.search`."""
        request = _Request(text, limit, tuple(sorted((where or {}).items())))
        self._waiting.put(request)
        return request.result.result()

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < _MOST_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get())
            alike: dict[tuple[int, tuple[tuple[str, str], ...]], list[_Request]] = {}
            for request in batch:
                alike.setdefault((request.limit, request.where), []).append(request)
            for requests in alike.values():
                self._search(requests)

    def _search(self, requests: list[_Request]) -> None:
        first = requests[0]
        texts = [request.text for request in requests]
        try:
            results = self._retriever.search_many(texts, first.limit, where=dict(first.where) or None)
        except Exception as error:  # noqa: BLE001 - it is raised where the question was asked
            if len(requests) == 1:
                first.result.set_exception(error)
                return
            for request in requests:  # so that one question spoils no other
                self._search([request])
            return
        for request, hits in zip(requests, results, strict=True):
            request.result.set_result(hits)
