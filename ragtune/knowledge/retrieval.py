"""Find passages: words and vectors side by side, fused by reciprocal rank, names matched exactly.

Fusion is here and not in a back end, so that every index combines its hits alike.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ragtune.errors import SettingsError
from ragtune.knowledge.names import names_in
from ragtune.knowledge.trimming import best_lines
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
_COMPARED = 24
"""Hits among which a long document's passages are compared line by line."""
LOG_LIMIT_BYTES = 64 << 20


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
        # Most names are known as they stand; only the others need a second look.
        again = [
            (lists, place, plan.named(ways[1], depth, where))
            for plan, lists in zip(plans, found, strict=True)
            for place, ways in enumerate(plan.names, start=2)
            if len(ways) > 1 and not lists[place]
        ]
        second = self.index.search([query for *_, query in again]) if again else []
        for (lists, place, _), hits in zip(again, second, strict=True):
            lists[place] = hits
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
        return found + [self.named(ways[0], depth, where) for ways in self.names]

    def named(self, name: str, depth: int, where: Mapping[str, str] | None) -> IndexQuery:
        """Return the search among the passages of what has that name."""
        return IndexQuery(text=self.text, limit=depth, where={**(where or {}), "names": name})

    def answered(self, answers: Iterator[list[Hit]], mode: Mode) -> list[list[Hit]]:
        return [next(answers) for _ in range(2 + len(self.names) if mode == "hybrid" else 1)]

    def fused(self, lists: list[list[Hit]], mode: Mode, limit: int, settings: IndexSettings) -> list[Hit]:
        if mode != "hybrid":
            return list(lists[0])
        weights = [1.0, 1.0, *[settings.name_weight] * len(self.names)]
        hits = fuse(lists, sum(map(len, lists)), settings.rrf_k, weights)
        named = {hit.chunk.document_id for of_name in lists[2:] for hit in of_name}
        reach = max(limit, _COMPARED)
        for document in {hit.chunk.document_id for hit in hits[:reach]} | named:
            hits = _telling_first(hits, document, self.text, None if document in named else reach)
        return hits[:limit]


def _telling_first(hits: Sequence[Hit], document: str, question: str, reach: int | None) -> list[Hit]:
    """Return the hits with a document's passages in the same places, those that tell what was asked first.

    Every passage of an object says its name and every one of a long page speaks of its subject, so that words and
    vectors hardly tell them apart. With a `reach` only so many first hits change places, and those that tell
    alike keep theirs; without one the document is named in the question, and they come as they stand in it.
    """
    places = [place for place, hit in enumerate(hits[:reach]) if hit.chunk.document_id == document]
    ordered = list(hits)
    if len(places) < 2:
        return ordered
    chunks = [hits[place].chunk for place in places]
    parts = ["\n".join([*chunk.headings[-1:], chunk.text]) for chunk in chunks]
    scores = best_lines(parts, question, chunks[0].title)
    order = sorted(range(len(places)), key=lambda each: (-scores[each], each if reach else chunks[each].position))
    for place, each in zip(places, order, strict=True):
        ordered[place] = Hit(chunks[each], hits[place].score)
    return ordered


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
