"""Find passages: words and vectors side by side, fused by reciprocal rank, names matched exactly.

Fusion is here and not in a back end, so that every index combines its hits alike.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ragtune.errors import SettingsError
from ragtune.knowledge.indexing import STOP_WORDS
from ragtune.knowledge.names import names_in
from ragtune.ports import Embedder, IndexQuery, Rerank, Reword, SearchIndex
from ragtune.records import Chunk, Hit
from ragtune.settings import IndexSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]
    Vectors = npt.NDArray[np.float32]

Mode = Literal["hybrid", "text", "vector"]
MODES: tuple[Mode, ...] = ("hybrid", "text", "vector")
RETRIEVAL_VERSION = 2
"""Raised when the same index and settings return other passages: answers that are kept no longer hold then."""
LOG_LIMIT_BYTES = 64 << 20
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """One search as it is logged: what was asked, what was found, how long it took."""

    query: str
    mode: str
    chunk_ids: tuple[str, ...]
    scores: tuple[float, ...]
    milliseconds: float


SearchLog = Callable[[SearchRecord], None]


def no_log(record: SearchRecord) -> None:
    """Keep nothing."""


class Retriever:
    """Searches an index with an embedder; one object serves many threads."""

    def __init__(
        self,
        index: SearchIndex,
        embedder: Embedder,
        settings: IndexSettings,
        log: SearchLog = no_log,
        rerank: Rerank | None = None,
        reword: Reword | None = None,
    ) -> None:
        self.index, self.embedder, self.settings, self.log = index, embedder, settings, log
        self.rerank, self.reword = rerank, reword

    def search(self, text: str, limit: int, mode: Mode = "hybrid", where: Mapping[str, str] | None = None) -> list[Hit]:
        """Return up to `limit` chunks, best first; `where` filters on document_id, source, title or topic."""
        return self.search_many([text], limit, mode, where)[0]

    def search_many(
        self,
        texts: Sequence[str],
        limit: int,
        mode: Mode = "hybrid",
        where: Mapping[str, str] | None = None,
        vectors: "Vectors | None" = None,
    ) -> list[list[Hit]]:
        """Return the hits of each text, in order; the texts are embedded and asked together.

        With a rewriter, the same in other words is searched for as well and all hits are fused; a reranker
        orders the first hits anew and its scores take the place of theirs. `vectors` are those of the texts,
        shape (texts, dimension), where they are known already.
        """
        _check(mode, limit)
        began = time.perf_counter()
        reach = max(limit, self.settings.reranked) if self.rerank else limit
        if self.reword is None:
            results = self._found(texts, reach, mode, where, vectors)
        else:
            results = self._found_in_other_words(texts, self.reword(texts), reach, mode, where)
        if self.rerank is not None:
            results = [_reranked(text, hits, self.rerank)[:limit] for text, hits in zip(texts, results, strict=True)]
        milliseconds = (time.perf_counter() - began) * 1000 / max(1, len(texts))
        for text, hits in zip(texts, results, strict=True):
            ids, scores = tuple(hit.chunk.id for hit in hits), tuple(round(hit.score, 6) for hit in hits)
            self.log(SearchRecord(text, mode, ids, scores, round(milliseconds, 3)))
        return results

    def _found(
        self, texts: Sequence[str], limit: int, mode: Mode, where: Mapping[str, str] | None, vectors: "Vectors | None"
    ) -> list[list[Hit]]:
        plans = [_Plan(text, names_in(text) if mode == "hybrid" else []) for text in texts]
        if vectors is None and mode != "text" and texts:
            vectors = self.embedder.embed(texts)
        queries: list[IndexQuery] = []
        depth = max(limit, self.settings.candidates) if mode == "hybrid" else limit
        for number, plan in enumerate(plans):
            vector = None if vectors is None else vectors[number]
            queries += plan.queries(vector, mode, depth, where)
        answers = iter(self.index.search(queries)) if queries else iter(())
        found = [plan.answered(answers, mode) for plan in plans]
        # Most names are known as they stand and have one passage; only the others need a second look.
        again = [
            (lists, place, searches)
            for plan, lists in zip(plans, found, strict=True)
            for place, ways in enumerate(plan.names, start=2)
            for searches in plan.second_look(ways, len(lists[place]), depth, where)
        ]
        second = iter(self.index.search([query for *_, searches in again for query in searches]) if again else [])
        for lists, place, searches in again:
            looked = [next(second) for _ in searches]
            lists[place] = _of_object(lists[place] or looked[0], looked[-1])
        return [plan.fused(lists, mode, limit, self.settings) for plan, lists in zip(plans, found, strict=True)]

    def _found_in_other_words(
        self,
        texts: Sequence[str],
        rewordings: Sequence[Sequence[str]],
        limit: int,
        mode: Mode,
        where: Mapping[str, str] | None,
    ) -> list[list[Hit]]:
        ways = [[text, *others] for text, others in zip(texts, rewordings, strict=True)]
        found = iter(self._found([way for each in ways for way in each], limit, mode, where, None))
        return [fuse([next(found) for _ in each], limit, self.settings.rrf_k) for each in ways]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The searches behind one question, and how their hits come together."""

    text: str
    names: list[list[str]]

    def queries(
        self, vector: "Vector | None", mode: Mode, depth: int, where: Mapping[str, str] | None
    ) -> list[IndexQuery]:
        found = []
        if mode != "vector":
            found.append(IndexQuery(text=self.text, limit=depth, where=where))
        if mode != "text":
            found.append(IndexQuery(vector=vector, limit=depth, where=where))
        return found + [self.named(ways, ways[0], depth, where)[0] for ways in self.names]

    def second_look(
        self, ways: Sequence[str], passages: int, depth: int, where: Mapping[str, str] | None
    ) -> list[tuple[IndexQuery, ...]]:
        """Return the searches that order several passages of a name, or that look for it in its other way."""
        if passages:
            return [self.named(ways, ways[0], depth, where)[1:]] if passages > 1 else []
        return [self.named(ways, way, depth, where) for way in ways[1:]]

    def named(
        self, ways: Sequence[str], way: str, depth: int, where: Mapping[str, str] | None
    ) -> tuple[IndexQuery, IndexQuery]:
        """Return the searches among the passages of a name: with the whole question, and with what is beside it."""
        filters = {**(where or {}), "names": way}
        beside = self._beside(way if ways[0].startswith(way) else ways[0])
        return IndexQuery(text=self.text, limit=depth, where=filters), IndexQuery(
            text=beside, limit=depth, where=filters
        )

    def _beside(self, name: str) -> str:
        """Return the words of the question beside a name: every passage of the object says the name itself."""
        spelled = r"[\s_]?".join(re.escape(letter) for letter in name)
        words = re.sub(spelled, " ", self.text, flags=re.IGNORECASE)
        return " ".join(word for word in _WORD.findall(words) if word.lower() not in STOP_WORDS)

    def answered(self, answers: Iterator[list[Hit]], mode: Mode) -> list[list[Hit]]:
        return [next(answers) for _ in range(2 + len(self.names) if mode == "hybrid" else 1)]

    def fused(self, lists: list[list[Hit]], mode: Mode, limit: int, settings: IndexSettings) -> list[Hit]:
        if mode != "hybrid":
            return list(lists[0])
        weights = [1.0, 1.0, *[settings.name_weight] * len(self.names)]
        return fuse(lists, limit, settings.rrf_k, weights)


def _of_object(passages: Sequence[Hit], telling: Sequence[Hit]) -> list[Hit]:
    """Return an object's passages, those that tell what was asked first; without any, from its first passage on."""
    known = {hit.chunk.id for hit in telling}
    rest = [hit for hit in passages if hit.chunk.id not in known]
    return [*telling, *rest] if telling else sorted(rest, key=lambda hit: (hit.chunk.position, -hit.score))


def _reranked(text: str, hits: Sequence[Hit], rerank: Rerank) -> list[Hit]:
    """Return the hits in the order of the reranker, with its scores."""
    scores = rerank(text, [hit.chunk.embedded_text for hit in hits]) if hits else []
    scored = [Hit(hit.chunk, float(score)) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: (-hit.score, hit.chunk.id))


def fuse(lists: Sequence[Sequence[Hit]], limit: int, k: int, weights: Sequence[float] | None = None) -> list[Hit]:
    """Return the hits by weighted reciprocal rank, score = sum of weight / (k + rank), ranks from 1.

    Cormack, Clarke and Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet". Ties go by chunk id.
    """
    scores: dict[str, float] = {}
    chunks: dict[str, Chunk] = {}
    for hits, weight in zip(lists, weights or [1.0] * len(lists), strict=True):
        for rank, hit in enumerate(hits, start=1):
            scores[hit.chunk.id] = scores.get(hit.chunk.id, 0.0) + weight / (k + rank)
            chunks[hit.chunk.id] = hit.chunk
    best = sorted(scores, key=lambda each: (-scores[each], each))[:limit]
    return [Hit(chunks[each], scores[each]) for each in best]


def search_log(path: Path) -> SearchLog:
    """Return a log that appends one JSON line per search; past 64 MiB the file is set aside once."""

    def write(record: SearchRecord) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".previous.jsonl"))
        line = {"at": time.time(), **{name: getattr(record, name) for name in SearchRecord.__slots__}}
        with path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    return write


def _check(mode: str, limit: int) -> None:
    if mode not in MODES:
        raise SettingsError(f"There is no search mode '{mode}'.", expected=f"one of {', '.join(MODES)}")
    if limit < 1:
        raise SettingsError(f"The number of hits asked for is {limit}.", expected="at least 1")
