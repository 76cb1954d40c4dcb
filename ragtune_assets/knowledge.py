"""From sources to a searchable index."""

import hashlib
import json

import dagster as dg
from pydantic import Field

from ragtune.errors import SourceError
from ragtune.knowledge.chunking import cut
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.library import Library
from ragtune.knowledge.sources import Corpus
from ragtune.ports import Embedder, SearchIndex
from ragtune.records import ArtifactRef, Chunk, Document, content_id
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore, write_json
from ragtune_assets.display import histogram, materialized, table
from ragtune_assets.progress import LoggedProgress

OWNERS = ["team:knowledge"]
STATES = "states of the sources"
POLL_SECONDS = 30


class KnowledgeChanges(dg.Config):
    """What a person asks of a run in the launchpad; with nothing filled in, every source is read anew."""

    reread: list[str] = Field([], description="read only these sources anew; the others stay as last read")
    add_sources: list[str] = Field([], description="folder:PATH, package:NAME, jsonl:FILE or a URL")
    remove_sources: list[str] = Field([], description="sources to leave out from now on")
    remove_documents: list[str] = Field([], description="ids, paths or titles to leave out from now on")
    restore_documents: list[str] = Field([], description="removed documents to take in again")

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
    code_version="1",
    check_specs=[dg.AssetCheckSpec("every_document_was_readable", asset="raw_documents")],
)
def raw_documents(
    config: KnowledgeChanges, settings: dg.ResourceParam[Settings], store: dg.ResourceParam[ArtifactStore]
):
    """Every readable document of the sources, each with a stable id and the hash of its content."""
    library = Library(settings)
    corpus = config.carried_out(library).read(fresh=config.reread or None, progress=LoggedProgress())
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
    then = known.value if isinstance(known, dg.JsonMetadataValue) else {}
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
    found = cut(documents, settings.chunking, embedder.count_tokens, LoggedProgress())
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
    check_specs=[dg.AssetCheckSpec("holds_every_chunk", asset="search_index", blocking=True)],
)
def search_index(
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    embedder: dg.ResourceParam[Embedder],
    index: dg.ResourceParam[SearchIndex],
):
    """The hybrid index over the passages; only new ones are embedded, vanished ones leave."""
    passages = store.read_records(chunks, Chunk)
    update = update_index(index, embedder, passages, LoggedProgress())
    present = index.chunk_ids()
    wanted = {chunk.id for chunk in passages if not chunk.duplicate_of}
    complete = dg.AssetCheckResult(
        passed=present.keys() == wanted,
        check_name="holds_every_chunk",
        metadata={"missing": len(wanted - present.keys()), "left over": len(present.keys() - wanted)},
    )
    ref = _described(store, settings, embedder.name, sorted(present))
    metadata = {
        "added": update.added,
        "updated": update.updated,
        "deleted": update.deleted,
        "embedded": update.embedded,
        "seconds": update.seconds,
        "embedder": embedder.name,
    }
    return materialized(ref, metadata, [complete])


def _described(store: ArtifactStore, settings: Settings, embedder: str, chunk_ids: list[str]) -> ArtifactRef:
    """Return a reference to a description of the index; its identity is what a reader can find there."""
    backend = settings.index.backend
    place = str(settings.home / "index") if backend == "lance" else f"{settings.index.url}/{settings.index.name}"
    identity = hashlib.sha256("\n".join([backend, embedder, *chunk_ids]).encode()).hexdigest()
    with store.stage("search_index") as scratch:
        write_json(scratch / "index.json", {"place": place, "backend": backend, "embedder": embedder})
        return store.commit("search_index", scratch, rows=len(chunk_ids), identity=identity)
