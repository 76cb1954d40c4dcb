"""The page Knowledge: documents, what could not be read, sources, a search that explains its scores, its quality."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response

from ragtune.errors import RagTuneError
from ragtune.knowledge.catalogue import Catalogue, CatalogueEntry, matches
from ragtune.knowledge.names import names_in
from ragtune.knowledge.retrieval import Retriever
from ragtune.records import Chunk, Hit
from ragtune.settings import Settings
from ragtune.store.warehouse import Warehouse
from ragtune_serving.console.marking import Segment, marked
from ragtune_serving.console.pages import render, session_of
from ragtune_serving.routes import Services

PAGE_SIZE = 50
"""Rows of a list; chosen by hand, not sensitive."""
TABS = (
    ("documents", "Documents", "/console/knowledge"),
    ("quarantine", "Quarantine", "/console/knowledge/quarantine"),
    ("sources", "Sources", "/console/knowledge/sources"),
    ("search", "Search", "/console/knowledge/search"),
    ("quality", "Quality of the search", "/console/knowledge/quality"),
)
Order = Literal["listed", "title", "words", "lost"]
ORDERS: dict[Order, str] = {"listed": "as read", "title": "title", "words": "most words", "lost": "most words lost"}
_SORT_KEYS: dict[Order, Any] = {
    "title": lambda entry: entry.title.casefold(),
    "words": lambda entry: -entry.words,
    "lost": lambda entry: -entry.lost_words,
}
_HITS = 10
_PATIENCE_SECONDS = 2.0
"""How long to wait for another process that has the scores open. Chosen by hand: a page should not hang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedHit:
    """A hit with its rank and score in each of the lists that were fused, and its part of the fused score.

    A rank is 0 if the passage is not in that list. `computed` is the sum of the parts. It differs from `score` if the
    passage was moved: an exact name put its document first, or the passages of a page were ordered by their best line.
    """

    chunk: Chunk
    score: float
    word_rank: int
    word_score: float
    meaning_rank: int
    cosine: float
    computed: float
    text: list[Segment]

    @property
    def moved(self) -> bool:
        """Whether its place is not the one that the two lists give it."""
        return abs(self.computed - self.score) > 1e-9


def add_knowledge_pages(app: FastAPI, services: Services, settings: Settings, catalogue: Catalogue) -> None:
    """Add the page Knowledge; a key sees only documents that its filter lets it search."""

    @app.get("/console/knowledge")
    def documents(
        request: Request,
        q: str = "",
        source: str = "",
        order: Order = "listed",
        page: Annotated[int, Query(ge=0)] = 0,
    ) -> Response:
        entries = _visible(request, catalogue, q, source)
        if order in _SORT_KEYS:
            entries = sorted(entries, key=_SORT_KEYS[order])
        return render(
            request,
            "knowledge_documents.html",
            **_common("documents"),
            entries=entries[page * PAGE_SIZE : (page + 1) * PAGE_SIZE],
            total=len(entries),
            first=page * PAGE_SIZE,
            page=page,
            more=(page + 1) * PAGE_SIZE < len(entries),
            all_documents=len(catalogue.contents().entries),
            sources=[one.spec for one in catalogue.contents().sources],
            q=q,
            source=source,
            order=order,
            orders=ORDERS,
        )

    @app.get("/console/knowledge/quarantine")
    def quarantine(request: Request) -> Response:
        rows = [] if session_of(request).key.filter else list(catalogue.contents().quarantine)
        return render(request, "knowledge_quarantine.html", **_common("quarantine"), rows=rows)

    @app.get("/console/knowledge/sources")
    def sources(request: Request) -> Response:
        wanted = session_of(request).key.filter.get("source")
        rows = [one for one in catalogue.contents().sources if wanted in (None, one.spec)]
        return render(request, "knowledge_sources.html", **_common("sources"), rows=rows)

    _add_search(app, services, settings)


def _add_search(app: FastAPI, services: Services, settings: Settings) -> None:
    @app.get("/console/knowledge/search")
    def search(request: Request, q: str = "") -> Response:
        values: dict[str, Any] = {"q": q, "hits": [], "names": [], "k": settings.index.rrf_k, "error": None}
        if q.strip():
            try:
                values["hits"] = explained_hits(services.grounding.retriever(), q, session_of(request).key.filter)
                values["names"] = [forms[0] for forms in names_in(q)]
            except RagTuneError as error:
                values["error"] = error
        return render(request, "knowledge_search.html", **_common("search"), **values)

    @app.get("/console/knowledge/quality")
    def quality(request: Request) -> Response:
        file = settings.home / "warehouse.duckdb"
        rows = Warehouse(file, _PATIENCE_SECONDS).retrieval() if file.is_file() else []
        charts = [
            _chart("Right passage among the first", "", [("10", rows, "recall_10"), ("5", rows, "recall_5")], rows),
            _chart("95% of the searches take up to", "ms", [("milliseconds", rows, "p95_ms")], rows),
        ]
        shown = [asdict(row) for row in reversed(rows)]
        return render(request, "knowledge_quality.html", **_common("quality"), rows=shown, charts=charts)


def explained_hits(retriever: Retriever, text: str, where: Any) -> list[ExplainedHit]:
    """Return the first hits of a search with the rank and the score of each in the lists that were fused."""
    depth = max(_HITS, retriever.settings.candidates)
    by_words = _ranks(retriever.search(text, depth, "text", where))
    by_meaning = _ranks(retriever.search(text, depth, "vector", where))
    explained = []
    for hit in retriever.search(text, _HITS, "hybrid", where):
        ranks = [ranks.get(hit.chunk.id, (0, 0.0)) for ranks in (by_words, by_meaning)]
        explained.append(
            ExplainedHit(
                chunk=hit.chunk,
                score=hit.score,
                word_rank=ranks[0][0],
                word_score=ranks[0][1],
                meaning_rank=ranks[1][0],
                cosine=ranks[1][1],
                computed=sum(1 / (retriever.settings.rrf_k + rank) for rank, _ in ranks if rank),
                text=marked(hit.chunk.text, text),
            )
        )
    return explained


def _ranks(hits: Sequence[Hit]) -> dict[str, tuple[int, float]]:
    return {hit.chunk.id: (rank, hit.score) for rank, hit in enumerate(hits, 1)}


def _visible(request: Request, catalogue: Catalogue, text: str, source: str) -> list[CatalogueEntry]:
    where = session_of(request).key.filter
    entries = catalogue.find({"source": source} if source else {}, text)
    return [entry for entry in entries if matches(entry, where)] if where else entries


def _common(tab: str) -> dict[str, Any]:
    return {"tab": tab, "tabs": TABS}


def _chart(title: str, unit: str, series: Sequence[tuple[str, Sequence[Any], str]], rows: Sequence[Any]) -> Any:
    """Return a chart over the measurements, in their order, as the script of the pages draws it."""
    return {
        "title": title,
        "unit": unit,
        "x": list(range(len(rows))),
        "labels": [str(row.measured_at)[:10] for row in rows],
        "series": [
            {"label": label, "values": [round(getattr(row, field), 4) for row in own]} for label, own, field in series
        ],
    }
