"""Finds passages for a question: searches by words, by vectors and by exact names, and fuses the results by rank.

Fusion is here and not in a back end, so that every index combines its hits alike.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ragtune.errors import SettingsError
from ragtune.knowledge.excerpts import best_line_scores
from ragtune.knowledge.names import names_in
from ragtune.ports import Embedder, IndexQuery, SearchIndex
from ragtune.records import Chunk, Hit
from ragtune.settings import IndexSettings
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.search_terms import contains_identifier, identifiers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]
    Vectors = npt.NDArray[np.float32]

Mode = Literal["hybrid", "text", "vector"]
MODES: tuple[Mode, ...] = ("hybrid", "text", "vector")
_REORDERED_HITS = 24
"""Among this many first hits the passages of a page are ordered by their best line.

docs/decisions/order-of-passages-of-a-page.md has what that gains.
"""
_FEW_DOCUMENTS = 3
"""An identifier that more documents contain is not exact enough to put them first. Chosen by hand."""
_LOG_LIMIT_BYTES = 64 << 20
"""A longer search log is moved away. Chosen by hand: some 200,000 searches."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """One search as it is logged: the query, the hits' ids and scores, and how long it took."""

    query: str
    mode: str
    chunk_ids: tuple[str, ...]
    scores: tuple[float, ...]
    milliseconds: float


SearchLog = Callable[[SearchRecord], None]


def no_log(record: SearchRecord) -> None:
    """Log nothing."""


class Retriever:
    """Searches an index with an embedder; one object serves many threads."""

    def __init__(
        self,
        index: SearchIndex,
        embedder: Embedder,
        settings: IndexSettings,
        log: SearchLog = no_log,
    ) -> None:
        self.index, self.embedder, self.settings, self.log = index, embedder, settings, log

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
        """Return the hits of each text, in order; all texts are embedded and searched for in one batch.

        `vectors` are those of the texts, shape (texts, dimension), if the caller has them already.
        """
        _check_arguments(mode, limit)
        began = time.perf_counter()
        results = self._search_index(texts, limit, mode, where, vectors)
        milliseconds = (time.perf_counter() - began) * 1000 / max(1, len(texts))
        for text, hits in zip(texts, results, strict=True):
            ids, scores = tuple(hit.chunk.id for hit in hits), tuple(round(hit.score, 6) for hit in hits)
            self.log(SearchRecord(text, mode, ids, scores, round(milliseconds, 3)))
        return results

    def _search_index(
        self, texts: Sequence[str], limit: int, mode: Mode, where: Mapping[str, str] | None, vectors: "Vectors | None"
    ) -> list[list[Hit]]:
        plans = [_SearchPlan(text, names_in(text) if mode == "hybrid" else [], mode) for text in texts]
        if vectors is None and mode != "text" and texts:
            vectors = self.embedder.embed_questions([normalize_for_search(text) for text in texts])
        queries: list[IndexQuery] = []
        depth = max(limit, self.settings.candidates) if mode == "hybrid" else limit
        for number, plan in enumerate(plans):
            vector = None if vectors is None else vectors[number]
            queries += plan.queries(vector, depth, where)
        hit_lists = iter(self.index.search(queries)) if queries else iter(())
        results = [plan.take_results(hit_lists) for plan in plans]
        self._retry_names(plans, results, depth, where)
        return [plan.fuse(result, limit, self.settings) for plan, result in zip(plans, results, strict=True)]

    def _retry_names(
        self, plans: Sequence["_SearchPlan"], results: list["_Results"], depth: int, where: Mapping[str, str] | None
    ) -> None:
        """Search for the names that had no hit once more, by their second form; most names need no second search."""
        retries = [
            (result, place, plan.name_query(forms[1], depth, where))
            for plan, result in zip(plans, results, strict=True)
            for place, forms in enumerate(plan.names)
            if len(forms) > 1 and not result.by_name[place]
        ]
        hit_lists = self.index.search([query for *_, query in retries]) if retries else []
        for (result, place, _), hits in zip(retries, hit_lists, strict=True):
            result.by_name[place] = hits


@dataclass(slots=True)
class _Results:
    """The hits of one question: `lists` by words and by vector, and one list per name."""

    lists: list[list[Hit]]
    by_name: list[list[Hit]]


@dataclass(frozen=True, slots=True)
class _SearchPlan:
    """The searches behind one question, and how their hits come together.

    `names` holds for each object that the question names the forms to look up, the most exact first.
    """

    text: str
    names: list[list[str]]
    mode: Mode

    def queries(self, vector: "Vector | None", depth: int, where: Mapping[str, str] | None) -> list[IndexQuery]:
        """Return the searches by words, by vector and by the first form of each name."""
        queries = []
        if self.mode != "vector":
            queries.append(IndexQuery(text=self.text, limit=depth, where=where))
        if self.mode != "text":
            queries.append(IndexQuery(vector=vector, limit=depth, where=where))
        return queries + [self.name_query(forms[0], depth, where) for forms in self.names]

    def name_query(self, name: str, depth: int, where: Mapping[str, str] | None) -> IndexQuery:
        """Return the search by words among the passages of the object with that name."""
        return IndexQuery(text=self.text, limit=depth, where={**(where or {}), "names": name})

    def take_results(self, hit_lists: Iterator[list[Hit]]) -> _Results:
        """Return the next results of the stream as this plan's; the stream follows the order of `queries`."""
        lists = [next(hit_lists) for _ in range(2 if self.mode == "hybrid" else 1)]
        return _Results(lists, [next(hit_lists) for _ in self.names])

    def fuse(self, results: _Results, limit: int, settings: IndexSettings) -> list[Hit]:
        """Return the best hits; passages of one document are ordered by their best line."""
        if self.mode != "hybrid":
            return list(results.lists[0])
        lists = [*results.lists, *results.by_name]
        weights = [1.0, 1.0, *[settings.name_weight] * len(self.names)]
        hits = fuse(lists, sum(map(len, lists)), settings.rrf_k, weights)
        named = {hit.chunk.document_id for name_hits in results.by_name for hit in name_hits}
        depth = max(limit, _REORDERED_HITS)
        for document in {hit.chunk.document_id for hit in hits[:depth]} | named:
            hits = _order_by_best_line(hits, document, self.text, None if document in named else depth)
        return _put_exact_first(hits, results.lists[0], self._identifiers(results))[:limit]

    def _identifiers(self, results: _Results) -> list[str]:
        """Return the identifiers in the question, without those that name an object of the index."""
        object_names = {name for forms, hits in zip(self.names, results.by_name, strict=True) if hits for name in forms}
        return [identifier for identifier in identifiers(self.text) if identifier not in object_names]


def _order_by_best_line(hits: Sequence[Hit], document: str, question: str, depth: int | None) -> list[Hit]:
    """Return the hits with one document's passages reordered by their best line for the question.

    The passages trade places among themselves; other documents keep theirs, and each place keeps its score. Every
    passage of an object says its name, and every passage of a long page speaks of its subject, so words and
    vectors hardly tell them apart.

    With a `depth` only that many first hits trade places, and passages with equal scores keep their order. None
    means that the question names the document; equal passages then come in the document's order.
    """
    places = [place for place, hit in enumerate(hits[:depth]) if hit.chunk.document_id == document]
    reordered = list(hits)
    if len(places) < 2:
        return reordered
    chunks = [hits[place].chunk for place in places]
    texts = ["\n".join([*chunk.headings[-1:], chunk.text]) for chunk in chunks]
    scores = best_line_scores(texts, question, chunks[0].title)
    order = sorted(range(len(places)), key=lambda n: (-scores[n], n if depth else chunks[n].position))
    for place, n in zip(places, order, strict=True):
        reordered[place] = Hit(chunks[n], hits[place].score)
    return reordered


def _put_exact_first(hits: Sequence[Hit], word_hits: Sequence[Hit], names: Sequence[str]) -> list[Hit]:
    """Return the hits, but first the few that contain an identifier of the question.

    Vectors know nothing of a part number, so fusion by rank would bury the one passage that has it. An identifier
    counts if at most `_FEW_DOCUMENTS` documents among the hits of word search contain it; a word that is not in
    Latin script counts if only one document does. Documents come in the order of word search, those with the most
    identifiers first; passages of one document keep their fused order. Each place keeps its score.
    """
    if not names:
        return list(hits)
    texts = {hit.chunk.id: normalize_for_search(hit.chunk.embedded_text).lower() for hit in word_hits}
    documents = {hit.chunk.id: hit.chunk.document_id for hit in word_hits}
    counts: Counter[str] = Counter()
    for name in names:
        containing = [chunk_id for chunk_id, text in texts.items() if contains_identifier(text, name)]
        most = _FEW_DOCUMENTS if name.isascii() else 1
        if len({documents[chunk_id] for chunk_id in containing}) <= most:
            counts.update(containing)
    best: dict[str, tuple[int, int]] = {}
    for rank, hit in enumerate(word_hits):
        if hit.chunk.id in counts:
            key = (-counts[hit.chunk.id], rank)
            best[hit.chunk.document_id] = min(key, best.get(hit.chunk.document_id, key))
    exact = sorted(
        (hit for hit in hits if hit.chunk.id in counts),
        key=lambda hit: (best[hit.chunk.document_id], -counts[hit.chunk.id]),
    )
    rest = [hit for hit in hits if hit.chunk.id not in counts]
    return [Hit(hit.chunk, place.score) for hit, place in zip([*exact, *rest], hits, strict=True)]


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
    best = sorted(scores, key=lambda chunk_id: (-scores[chunk_id], chunk_id))[:limit]
    return [Hit(chunks[chunk_id], scores[chunk_id]) for chunk_id in best]


def search_log(path: Path, *, with_query: bool) -> SearchLog:
    """Return a log that appends one JSON line per search, with its text only if `with_query`.

    A file of more than 64 MiB becomes `NAME.previous.jsonl`, which replaces an earlier one. A search that cannot be
    logged, because the disk is full or read-only, is answered all the same. One warning says so
    until a search is logged.
    """
    is_failing = False

    def write(record: SearchRecord) -> None:
        nonlocal is_failing
        try:
            append(record)
        except OSError as error:
            if not is_failing:
                logger.warning("searches are not logged now: %s: %s", path, error)
            is_failing = True
        else:
            is_failing = False

    def append(record: SearchRecord) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size > _LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".previous.jsonl"))
        line = {"at": time.time(), **asdict(record)}
        if not with_query:
            del line["query"]
        with path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    return write


def _check_arguments(mode: str, limit: int) -> None:
    if mode not in MODES:
        raise SettingsError(f"There is no search mode '{mode}'.", expected=f"one of {', '.join(MODES)}")
    if limit < 1:
        raise SettingsError(f"The limit of a search is {limit}.", expected="at least 1")
