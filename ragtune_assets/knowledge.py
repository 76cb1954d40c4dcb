"""From sources to a searchable index."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg
from pydantic import Field

from ragtune.backends.catalog import embedder_from, search_index_from
from ragtune.errors import DatasetError, RegistryError, SourceError
from ragtune.evaluation.held_out import held_out
from ragtune.evaluation.retrieval import RetrievalRun, measure_retrieval
from ragtune.knowledge.chunk_updates import chunk_changed
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.library import Library
from ragtune.knowledge.retrieval import Retriever
from ragtune.knowledge.sources import Corpus
from ragtune.ports import Embedder, SearchIndex
from ragtune.records import ArtifactRef, Chunk, Document, QAPair, RetrievalRow, SplitItem, content_id
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore, write_json
from ragtune.store.warehouse import Warehouse
from ragtune_assets.display import curve, histogram, materialized, table
from ragtune_assets.progress import LoggedProgress

OWNERS = ["team:knowledge"]
STATES = "states of the sources"
POLL_SECONDS = 30
QUESTIONS = 100
"""Test questions that an update of the index is measured with: a few seconds."""


class KnowledgeChanges(dg.Config):
    """What a person asks of a run in the launchpad; with nothing filled in, every source is read anew."""

    reread: list[str] | None = Field(None, description="read only these sources anew; the others stay as last read")
    add_sources: list[str] = Field(default=[], description="folder:PATH, package:NAME, jsonl:FILE or a URL")
    remove_sources: list[str] = Field(default=[], description="sources to leave out from now on")
    remove_documents: list[str] = Field(default=[], description="ids, paths or titles to leave out from now on")
    restore_documents: list[str] = Field(default=[], description="removed documents to take in again")

    def carried_out(self, library: Library) -> Library:
        """Record the changes in the library and return it; raise SourceError for what is unknown."""
        for spec in self.add_sources:
            library.add(spec, LoggedProgress())
        for spec in self.remove_sources:
            library.drop(spec)
        if self.remove_documents:
            library.remove(self.remove_documents)
        if self.restore_documents:
            library.restore(self.restore_documents)
        return library


@dg.asset(
    group_name="knowledge",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version="4",
    check_specs=[dg.AssetCheckSpec("every_document_was_readable", asset="raw_documents")],
)
def raw_documents(
    config: KnowledgeChanges, settings: dg.ResourceParam[Settings], store: dg.ResourceParam[ArtifactStore]
):
    """Every readable document of the sources, each with a stable id and the hash of its content."""
    library = Library(settings)
    corpus = config.carried_out(library).read(reread=config.reread, progress=LoggedProgress())
    readable = dg.AssetCheckResult(
        passed=not corpus.quarantine,
        check_name="every_document_was_readable",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"quarantined": len(corpus.quarantine)},
    )
    ref = store.write_records("raw_documents", corpus.documents)
    return materialized(ref, _shown(library, corpus), [readable])


def _shown(library: Library, corpus: Corpus) -> dict[str, dg.MetadataValue]:
    """Return the sources with when each was read, what could not be read, what was removed, and a preview."""
    bad = [(each.source, each.path, each.reason) for each in corpus.quarantine[:200]]
    shelves = [(s.spec, len(s.documents), len(s.quarantine), s.read_at) for s in library.shelves()]
    return {
        "sources": table(["source", "documents", "not readable", "read at"], shelves),
        "quarantine": table(["source", "path", "reason"], bad),
        "removed": table(["id", "path", "since"], [(r.id, r.path, r.removed_at) for r in library.decisions().removed]),
        STATES: dg.MetadataValue.json(corpus.states),
        "preview": table(["title", "kind", "text"], [(d.title, d.kind, d.text) for d in corpus.documents[:10]]),
    }


@dg.sensor(
    asset_selection=["raw_documents"],
    minimum_interval_seconds=POLL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for `raw_documents` when a folder, a JSONL file or the list of sources or removals changed.",
)
def changed_sources(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SkipReason:
    """Request a run that reads the changed sources anew, once they stood still from one look to the next."""
    event = context.instance.get_latest_materialization_event(dg.AssetKey("raw_documents"))
    if event is None or event.asset_materialization is None:
        return dg.SkipReason("`raw_documents` was never built; `ragtune materialize` does it.")
    try:
        now = Library(settings).states()
    except SourceError as error:
        return dg.SkipReason(str(error))
    known = event.asset_materialization.metadata.get(STATES)
    then = known.value if isinstance(known, dg.JsonMetadataValue) and isinstance(known.value, dict) else {}
    if now == then:
        return dg.SkipReason(f"Nothing changed in {len(now)} sources.")
    look = json.dumps(now)
    if look != context.cursor:
        context.update_cursor(look)
        return dg.SkipReason("Something changed; the next look tells whether it is finished.")
    changed = [spec for spec in now if now[spec] != then.get(spec)]
    config = dg.RunConfig(ops={"raw_documents": KnowledgeChanges(reread=changed)})
    return dg.RunRequest(run_key=content_id(event.run_id, look), run_config=config)


@dg.asset(group_name="knowledge", kinds={"python", "parquet"}, owners=OWNERS, code_version="1")
def chunks(
    raw_documents: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    embedder: dg.ResourceParam[Embedder],
) -> dg.MaterializeResult[ArtifactRef]:
    """The documents cut into passages that the embedder reads whole; repeats are marked."""
    documents = store.read_records(raw_documents, Document)
    found = chunk_changed(documents, settings, embedder, LoggedProgress())
    words = [float(len(chunk.text.split())) for chunk in found]
    metadata = {
        "documents": len(documents),
        "duplicates": sum(bool(chunk.duplicate_of) for chunk in found),
        "preview": table(["title", "under", "text"], [(c.title, c.heading_path[-1:], c.text) for c in found[:10]]),
        "lengths": histogram(words, "Words in a passage", "words"),
    }
    return materialized(store.write_records("chunks", found), metadata)


@dg.asset(
    group_name="knowledge",
    kinds={"python", "lancedb"},
    owners=OWNERS,
    code_version="1",
    pool="duckdb",
    check_specs=[dg.AssetCheckSpec("holds_every_chunk", asset="search_index", blocking=True)],
)
def search_index(
    context: dg.AssetExecutionContext,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    embedder: dg.ResourceParam[Embedder],
    index: dg.ResourceParam[SearchIndex],
    retriever: dg.ResourceParam[Retriever],
    warehouse: dg.ResourceParam[Warehouse],
):
    """The hybrid index over the passages; only new ones are embedded, vanished ones leave."""
    passages = [chunk for chunk in store.read_records(chunks, Chunk) if not chunk.duplicate_of]
    update = update_index(index, embedder, passages, LoggedProgress())
    present, wanted = index.chunk_ids(), {chunk.id for chunk in passages}
    complete = dg.AssetCheckResult(
        passed=present.keys() == wanted,
        check_name="holds_every_chunk",
        metadata={"missing": len(wanted - present.keys()), "left over": len(present.keys() - wanted)},
    )
    ref = _described(store, settings, embedder.name, sorted(present))
    pairs, dataset = held_out_pairs(store, settings.seed)
    run = RetrievalRun(context.run.run_id[:8], ref.sha256, dataset)
    now = measure_retrieval(retriever, passages, pairs, run)
    warehouse.append([now])
    metadata = {**asdict(update), "embedder": embedder.name, **measured(warehouse.retrieval())}
    return materialized(ref, metadata, [complete])


def held_out_pairs(store: ArtifactStore, seed: int) -> tuple[list[QAPair], str]:
    """Return test questions of the current dataset and its hash, nothing before there is one."""
    ref = store.current("qa_splits")
    try:
        return (held_out(store.read_records(ref, SplitItem), "test", QUESTIONS, seed), ref.sha256) if ref else ([], "")
    except (DatasetError, RegistryError):
        return [], ""


def measured(history: Sequence[RetrievalRow]) -> dict[str, Any]:
    """Return how retrieval and the size of the index went over time: the newest numbers, plots, and a table."""
    newest = history[-1]
    shown: dict[str, Any] = {"p50 ms": newest.p50_ms, "p95 ms": newest.p95_ms, "index MiB": _mib(newest)}
    if newest.n:
        shown |= {"recall@10": newest.recall_10, "MRR@10": newest.mrr_10}
    header = ["measured", "passages", "n", "recall@1", "recall@5", "recall@10", "MRR@10", "p50 ms", "p95 ms", "MiB"]
    rows = [
        (r.measured_at, r.chunks, r.n, r.recall_1, r.recall_5, r.recall_10, r.mrr_10, r.p50_ms, r.p95_ms, _mib(r))
        for r in reversed(history[-30:])
    ]
    numbered = [(float(number), row) for number, row in enumerate(history, 1)]
    times = {"p50": [(x, row.p50_ms) for x, row in numbered], "p95": [(x, row.p95_ms) for x, row in numbered]}
    found = {f"recall@{k}": [(x, getattr(row, f"recall_{k}")) for x, row in numbered if row.n] for k in (1, 5, 10)}
    return {
        **shown,
        "retrieval so far": table(header, rows),
        "recall over time": curve(found, "Recall on the test questions", "measurement", "share found"),
        "latency over time": curve(times, "One search, embedding included", "measurement", "milliseconds"),
    }


def _mib(row: RetrievalRow) -> float:
    return row.index_bytes / (1 << 20)


def drift_of_index(settings: Settings, store: ArtifactStore) -> str:
    """Return why the index must be brought up to date although its inputs did not change, or nothing.

    `ragtune index` writes to it too, and a person may remove it.
    """
    told, embedder = store.current("search_index"), embedder_from(settings)
    present = search_index_from(settings, embedder).chunk_ids()
    same = told is not None and told.sha256 == _identity(settings.index.backend, embedder.name, sorted(present))
    return "" if same else "the index holds other passages"


def _identity(backend: str, embedder: str, chunk_ids: list[str]) -> str:
    return hashlib.sha256("\n".join([backend, embedder, *chunk_ids]).encode()).hexdigest()


def _described(store: ArtifactStore, settings: Settings, embedder: str, chunk_ids: list[str]) -> ArtifactRef:
    """Return a reference to a description of the index; its identity is what a reader can find there."""
    backend = settings.index.backend
    place = str(settings.home / "index") if backend == "lance" else f"{settings.index.url}/{settings.index.name}"
    identity = _identity(backend, embedder, chunk_ids)
    with store.stage("search_index") as scratch:
        write_json(scratch / "index.json", {"place": place, "backend": backend, "embedder": embedder})
        return store.commit("search_index", scratch, rows=len(chunk_ids), identity=identity)
