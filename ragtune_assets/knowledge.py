"""Assets that turn sources into a searchable index."""

import hashlib
import json
from collections.abc import Sequence, Set
from dataclasses import asdict

import dagster as dg
from pydantic import Field

from ragtune.backends.catalog import embedder_from, search_index_from
from ragtune.behaviour import behaviour_sha256
from ragtune.errors import SourceError
from ragtune.knowledge.audit import Account, account_all
from ragtune.knowledge.chunk_updates import chunk_changed
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.library import Library
from ragtune.knowledge.sources import Corpus
from ragtune.ports import Embedder, SearchIndex
from ragtune.records import ArtifactRef, Chunk, Document, content_id
from ragtune.settings import SOURCE_FORMS, Settings
from ragtune.store.artifacts import ArtifactStore, write_json
from ragtune_assets import pages
from ragtune_assets.asking_again import request_run
from ragtune_assets.asset import asset, multi_asset
from ragtune_assets.display import materialized, table
from ragtune_assets.pages import STATES
from ragtune_assets.progress import LoggedProgress

OWNERS = ["team:knowledge"]
POLL_SECONDS = 30
"""How often the sensor looks at the sources. Chosen by hand; a look at a folder takes milliseconds."""

LEAST_ACCOUNTED = 0.98
"""Share of a document's words; below it the check warns. Chosen by hand: extractors of a PDF differ by about 1%."""
# Documents and lost words that the check names, chosen by hand: what fits on a screen.
_WORST, _LOST_NAMED = 10, 12


class KnowledgeChanges(dg.Config):
    """What a person asks of a run in the launchpad; if nothing is filled in, every source is read again."""

    reread: list[str] | None = Field(None, description="read only these sources again; the others stay as last read")
    add_sources: list[str] = Field(default=[], description=f"{SOURCE_FORMS} or a URL")
    remove_sources: list[str] = Field(default=[], description="sources to leave out from now on")
    remove_documents: list[str] = Field(default=[], description="ids, paths or titles to leave out from now on")
    restore_documents: list[str] = Field(default=[], description="removed documents to take in again")

    def apply(self, library: Library) -> Library:
        """Record the changes in the library and return it; raise SourceError for an unknown name."""
        for spec in self.add_sources:
            library.add(spec, LoggedProgress())
        for spec in self.remove_sources:
            library.drop(spec)
        if self.remove_documents:
            library.remove(self.remove_documents)
        if self.restore_documents:
            library.restore(self.restore_documents)
        return library


@multi_asset(
    {
        "raw_documents": "Every readable document of the sources, each with a stable id and the hash of its content.",
        "existing_pairs": "Questions and answers that people wrote before: the sources `pairs:FILE`.",
    },
    name="raw_documents",
    group_name="knowledge",
    kinds={"python", "parquet"},
    owners=OWNERS,
    settings=("sources", "languages"),
    check_specs=[dg.AssetCheckSpec("every_document_was_readable", asset="raw_documents")],
)
def raw_documents(
    config: KnowledgeChanges, settings: dg.ResourceParam[Settings], store: dg.ResourceParam[ArtifactStore]
):
    """The documents and existing pairs of the sources: one step, because one read of the sources gives both."""
    library = config.apply(Library(settings))
    corpus = library.read(reread=config.reread, progress=LoggedProgress())
    ref = store.write_records("raw_documents", corpus.documents)
    yield materialized(ref, pages.documents_page(library, corpus), [readability_check(corpus)])
    yield materialized(store.write_records("existing_pairs", corpus.pairs), pages.existing_page(corpus))


def readability_check(corpus: Corpus) -> dg.AssetCheckResult:
    """Return a warning if some files could not be read."""
    return dg.AssetCheckResult(
        passed=not corpus.quarantine,
        check_name="every_document_was_readable",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"quarantined": len(corpus.quarantine)},
    )


@dg.sensor(
    asset_selection=["raw_documents", "existing_pairs"],
    minimum_interval_seconds=POLL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for `raw_documents` when a folder, a file or the list of sources or removals changed.",
)
def changed_sources(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SkipReason:
    """Request a run that reads the changed sources again, if they did not change since the last evaluation."""
    event = context.instance.get_latest_materialization_event(dg.AssetKey("raw_documents"))
    if event is None or event.asset_materialization is None:
        return dg.SkipReason("`raw_documents` was never built; `ragtune materialize` does it.")
    try:
        now = Library(settings).states()
    except SourceError as error:
        return dg.SkipReason(str(error))
    states = event.asset_materialization.metadata.get(STATES)
    before = states.value if isinstance(states, dg.JsonMetadataValue) and isinstance(states.value, dict) else {}
    if now == before:
        return dg.SkipReason(f"Nothing changed in {len(now)} sources.")
    cursor = json.dumps(now)
    if cursor != context.cursor:
        context.update_cursor(cursor)
        return dg.SkipReason("Something changed; the next look tells whether it is finished.")
    changed = [spec for spec in now if now[spec] != before.get(spec)]
    config = dg.RunConfig(ops={"raw_documents": KnowledgeChanges(reread=changed)})
    return request_run(context.instance, f"sources-{content_id(event.run_id, cursor)}", run_config=config)


@asset(
    group_name="knowledge",
    kinds={"python", "parquet"},
    owners=OWNERS,
    settings=("chunking", "embedder"),
    check_specs=[dg.AssetCheckSpec("words_are_accounted_for", asset="chunks")],
)
def chunks(
    raw_documents: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    embedder: dg.ResourceParam[Embedder],
):
    """The documents cut into passages that the embedder reads whole; repeats are marked."""
    documents = store.read_records(raw_documents, Document)
    passages = chunk_changed(documents, settings, embedder, LoggedProgress())
    check = account_check(documents, account_all(documents, passages))
    return materialized(store.write_records("chunks", passages), pages.chunks_page(documents, passages), [check])


def account_check(documents: Sequence[Document], accounts: Sequence[Account]) -> dg.AssetCheckResult:
    """Return a warning that names the worst documents if words of some are neither in a passage nor left out.

    A reason is known for words that are left out, such as a comment or the foot of a page.
    """
    pairs = zip(documents, accounts, strict=True)
    incomplete = [(account, document) for document, account in pairs if account.share_accounted_for < LEAST_ACCOUNTED]
    incomplete.sort(key=lambda pair: pair[0].share_accounted_for)
    rows = [
        (doc.path, account.share_accounted_for, " ".join(account.lost[:_LOST_NAMED]))
        for account, doc in incomplete[:_WORST]
    ]
    words, lost = sum(account.words for account in accounts), sum(account.lost_words for account in accounts)
    return dg.AssetCheckResult(
        passed=not incomplete,
        check_name="words_are_accounted_for",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "accounted for": 1.0 - lost / words if words else 1.0,
            "documents below the limit": len(incomplete),
            "worst": table(["path", "accounted for", "lost"], rows),
        },
    )


@asset(
    group_name="knowledge",
    kinds={"python"},
    owners=OWNERS,
    settings=("index", "embedder"),
    behaviour=(search_index_from, embedder_from),
    check_specs=[dg.AssetCheckSpec("holds_every_chunk", asset="search_index", blocking=True)],
)
def search_index(
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    embedder: dg.ResourceParam[Embedder],
    index: dg.ResourceParam[SearchIndex],
):
    """The hybrid index over the passages; only new ones are embedded, and passages that are gone are removed."""
    passages = [chunk for chunk in store.read_records(chunks, Chunk) if not chunk.duplicate_of]
    update = update_index(index, embedder, passages, LoggedProgress())
    present = index.chunk_ids().keys()
    check = completeness_check(present, {chunk.id for chunk in passages})
    ref = describe_index(store, settings, index, embedder, sorted(present))
    backend = settings.index.backend
    return materialized(ref, {**asdict(update), "back end": backend, "embedder": embedder.name}, [check])


def completeness_check(present: Set[str], expected: Set[str]) -> dg.AssetCheckResult:
    """Return whether the index holds exactly the expected passages."""
    return dg.AssetCheckResult(
        passed=present == expected,
        check_name="holds_every_chunk",
        metadata={"missing": len(expected - present), "left over": len(present - expected)},
    )


def index_drift(settings: Settings, store: ArtifactStore) -> str:
    """Return why the index must be updated although its inputs did not change, or "" if it need not be.

    `ragtune index` writes to the index too, and a person may remove it.
    """
    ref, embedder = store.current("search_index"), embedder_from(settings)
    index = search_index_from(settings, embedder)
    identity = index_identity(settings.index.backend, index, embedder, sorted(index.chunk_ids()))
    return "" if ref is not None and ref.sha256 == identity else "the index holds other passages"


def index_identity(backend: str, index: SearchIndex, embedder: Embedder, chunk_ids: Sequence[str]) -> str:
    """Return the hash of what a search depends on: the passages, the embedder, and the code of both back ends.

    What searches is rebuilt with it, so an edit of a back end reaches everything that was made from its hits.
    """
    behaviour = behaviour_sha256(type(index), type(embedder))
    return hashlib.sha256("\n".join([backend, embedder.name, behaviour, *chunk_ids]).encode()).hexdigest()


def describe_index(
    store: ArtifactStore, settings: Settings, index: SearchIndex, embedder: Embedder, chunk_ids: Sequence[str]
) -> ArtifactRef:
    """Return a reference to a description of the index, which itself lies outside the store."""
    backend = settings.index.backend
    place = "index" if backend == "lance" else f"{settings.index.url}/{settings.index.name}"
    with store.stage("search_index") as folder:
        write_json(folder / "index.json", {"place": place, "backend": backend, "embedder": embedder.name})
        identity = index_identity(backend, index, embedder, chunk_ids)
        return store.commit("search_index", folder, rows=len(chunk_ids), identity=identity)
