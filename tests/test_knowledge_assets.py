"""What a person can do to the knowledge base in Dagster, on the real assets."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ragtune.backends.elastic_index import ElasticIndex
from ragtune.backends.lance_index import LanceIndex
from ragtune.errors import SourceError
from ragtune.knowledge.library import Library
from ragtune.ports import silent
from ragtune.records import ArtifactRef, Chunk, Document, QAPair, SplitItem
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.warehouse import Warehouse
from ragtune_assets.definitions import build_definitions
from ragtune_assets.display import materialized
from ragtune_assets.evaluation import retrieval_scores
from ragtune_assets.knowledge import (
    KnowledgeChanges,
    changed_sources,
    chunks,
    index_drift,
    index_identity,
    raw_documents,
    search_index,
)
from ragtune_assets.resources import build_resources
from ragtune_serving.commands.documents import bring_up_to_date
from tests.support.counting_embedder import CountingEmbedder


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.md").write_text(f"# {name.upper()}\n\nText of {name}.")
    (folder / "broken.pdf").write_text("no PDF | at all")
    return folder


@pytest.fixture
def settings(tmp_path: Path, docs: Path) -> Settings:
    return load_settings({"home": tmp_path / "home", "sources": [f"folder:{docs}"]})


def read(settings: Settings, instance: dg.DagsterInstance, **changes: list[str]) -> dict[str, dg.MetadataValue]:
    """Materialise `raw_documents` with this run configuration and return its metadata."""
    config = dg.RunConfig(ops={"raw_documents": KnowledgeChanges(**changes)})
    result = dg.materialize([raw_documents], instance=instance, resources=build_resources(settings), run_config=config)
    return dict(result.asset_materializations_for_node("raw_documents")[0].metadata)


def paths(settings: Settings) -> list[str]:
    store = ArtifactStore(settings.home / "artifacts")
    ref = store.current("raw_documents")
    assert ref is not None
    return [document.path for document in store.read_records(ref, Document)]


def test_the_page_shows_the_quarantine_with_source_path_and_reason(settings: Settings, docs: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        lines = read(settings, instance)["quarantine"].md_str.splitlines()
    (unreadable,) = Library(settings).quarantine()
    assert lines[0] == "| source | path | reason |"
    assert lines[2:] == [f"| folder:{docs} | broken.pdf | {unreadable.reason} |"]


def test_a_run_can_remove_documents_and_every_later_run_leaves_them_out(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        read(settings, instance)
        page = read(settings, instance, remove_documents=["a.md"])
        assert "a.md" in page["removed"].md_str
        assert paths(settings) == ["b.md"]
        read(settings, instance)
        assert paths(settings) == ["b.md"]
        read(settings, instance, restore_documents=["a.md"])
        assert paths(settings) == ["a.md", "b.md"]


def test_a_run_can_read_one_source_again_and_leave_the_others(settings: Settings, docs: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "m1", "text": "One."}\n')
    with dg.DagsterInstance.ephemeral() as instance:
        read(settings, instance, add_sources=[f"jsonl:{more}"])
        assert paths(settings) == ["a.md", "b.md", "m1"]
        more.write_text('{"id": "m1", "text": "One."}\n{"id": "m2", "text": "Two."}\n')
        (docs / "c.md").write_text("# C\n\nNot looked at.")
        read(settings, instance, reread=[f"jsonl:{more}"])
        assert paths(settings) == ["a.md", "b.md", "m1", "m2"]
        read(settings, instance, remove_sources=[f"jsonl:{more}"])
        assert paths(settings) == ["a.md", "b.md", "c.md"]


def test_a_run_that_asks_for_an_unknown_document_fails_with_the_known_ones(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        read(settings, instance)
        with pytest.raises(SourceError, match=r"for example a\.md"):
            read(settings, instance, remove_documents=["aa.md"])


class Watcher:
    """Does what the daemon does with the sensor: keeps the cursor, and runs each request once."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance, self.cursor, self.keys = settings, instance, None, set()
        self.job = build_definitions(settings).resolve_implicit_global_asset_job_def()

    def look(self) -> dg.RunRequest | str:
        """Return the request of one tick, or the reason for skipping it."""
        context = dg.build_sensor_context(self.instance, cursor=self.cursor, resources={"settings": self.settings})
        result = changed_sources(context)
        self.cursor = context.cursor
        return result.skip_message if isinstance(result, dg.SkipReason) else result

    def run(self, request: dg.RunRequest | str, raise_on_error: bool = True) -> list[str]:
        """Run the request and return which sources it read again."""
        assert isinstance(request, dg.RunRequest), request
        assert request.run_key not in self.keys
        self.keys.add(request.run_key)
        keys = [dg.AssetKey("raw_documents"), dg.AssetKey("existing_pairs")]
        self.job.execute_in_process(
            run_config=request.run_config, instance=self.instance, asset_selection=keys, raise_on_error=raise_on_error
        )
        return request.run_config["ops"]["raw_documents"]["config"]["reread"]


@pytest.fixture
def watcher(settings: Settings, tmp_path: Path) -> Iterator[Watcher]:
    """A watcher of a home that has read a folder and a JSONL file."""
    (tmp_path / "more.jsonl").write_text('{"id": "m1", "text": "One."}\n')
    with dg.DagsterInstance.ephemeral() as instance:
        watcher = Watcher(settings, instance)
        assert "never built" in watcher.look()
        read(settings, instance, add_sources=[f"jsonl:{tmp_path}/more.jsonl"])
        yield watcher


def test_a_changed_folder_is_read_when_it_no_longer_changes(watcher: Watcher, docs: Path, settings: Settings) -> None:
    assert watcher.look() == "Nothing changed in 2 sources."
    (docs / "c.md").write_text("# C\n\nHalf")
    assert "the next look" in watcher.look()
    (docs / "c.md").write_text("# C\n\nThe complete text.")
    assert "the next look" in watcher.look()
    assert watcher.run(watcher.look()) == [f"folder:{docs}"]
    assert paths(settings) == ["a.md", "b.md", "c.md", "m1"]
    assert watcher.look() == "Nothing changed in 2 sources."


def test_an_edit_of_the_same_length_a_deletion_and_a_changed_file_are_noticed(
    watcher: Watcher, docs: Path, tmp_path: Path
) -> None:
    (docs / "a.md").write_text("# A\n\nText of z.")
    watcher.look()
    assert watcher.run(watcher.look()) == [f"folder:{docs}"]
    (docs / "a.md").unlink()
    watcher.look()
    assert watcher.run(watcher.look()) == [f"folder:{docs}"]
    (tmp_path / "more.jsonl").write_text('{"id": "m2", "text": "Two."}\n')
    watcher.look()
    assert watcher.run(watcher.look()) == [f"jsonl:{tmp_path}/more.jsonl"]


def test_files_that_are_no_documents_cause_no_run(watcher: Watcher, docs: Path) -> None:
    (docs / "picture.png").write_bytes(b"x")
    (docs / ".hidden.md").write_text("x")
    assert watcher.look() == "Nothing changed in 2 sources."


def test_documents_removed_and_restored_on_the_command_line_reach_the_asset(
    watcher: Watcher, docs: Path, settings: Settings
) -> None:
    library = Library(settings)
    for change, expected in [(library.remove, ["b.md", "m1"]), (library.restore, ["a.md", "b.md", "m1"])] * 2:
        change(["a.md"])
        watcher.look()
        assert watcher.run(watcher.look()) == [f"folder:{docs}"]
        assert paths(settings) == expected


def test_a_source_that_was_not_read_again_still_counts_as_changed(watcher: Watcher, docs: Path, tmp_path: Path) -> None:
    (docs / "c.md").write_text("# C\n\nNew.")
    read(watcher.settings, watcher.instance, reread=[f"jsonl:{tmp_path}/more.jsonl"])
    watcher.look()
    assert watcher.run(watcher.look()) == [f"folder:{docs}"]


def test_a_failed_run_is_requested_again_only_if_something_changes(watcher: Watcher, docs: Path) -> None:
    (docs / "c.md").write_text("# C\n\nNew.")
    watcher.look()
    request = watcher.look()
    away = docs.rename(docs.with_name("away"))
    watcher.run(request, raise_on_error=False)
    away.rename(docs)
    assert watcher.look().run_key == request.run_key
    (docs / "d.md").write_text("# D\n\nNewer.")
    watcher.look()
    assert watcher.look().run_key != request.run_key


def test_a_missing_folder_is_reported_and_causes_no_run(watcher: Watcher, docs: Path) -> None:
    docs.rename(docs.with_name("elsewhere"))
    assert watcher.look().startswith(f"There is no folder {docs}")


def test_a_dropped_source_makes_no_other_be_read_again(watcher: Watcher, tmp_path: Path) -> None:
    Library(watcher.settings).drop(f"jsonl:{tmp_path}/more.jsonl")
    watcher.look()
    assert watcher.run(watcher.look()) == []
    assert paths(watcher.settings) == ["a.md", "b.md"]


def test_an_index_that_another_command_changed_is_no_longer_what_was_built(settings: Settings) -> None:
    store = ArtifactStore(settings.home / "artifacts")
    dg.materialize([raw_documents, chunks, search_index], resources=build_resources(settings))
    assert index_drift(settings, store) == ""
    bring_up_to_date(settings, Library(settings).read().documents[:1], silent)
    assert index_drift(settings, store) == "the index holds other passages"
    shutil.rmtree(settings.home / "index")
    assert index_drift(settings, store) == "the index holds other passages"


def test_the_code_of_the_back_end_is_part_of_the_data_version_of_the_index() -> None:
    embedder = CountingEmbedder()
    lance, elastic = LanceIndex.__new__(LanceIndex), ElasticIndex.__new__(ElasticIndex)
    assert index_identity("one", lance, embedder, ["a"]) != index_identity("one", elastic, embedder, ["a"])


KNOWLEDGE = [raw_documents, chunks, search_index]


@dg.asset
def qa_splits(chunks: ArtifactRef, store: dg.ResourceParam[ArtifactStore]) -> dg.MaterializeResult[ArtifactRef]:
    """One test question per passage, which asks for its title."""
    passages = store.read_records(chunks, Chunk)
    pairs = [
        QAPair(
            id=c.id,
            question=f"What is {c.title}?",
            answer=c.text,
            kind="kind",
            document_id=c.document_id,
            chunk_id=c.id,
        )
        for c in passages
    ]
    return materialized(store.write_records("qa_splits", [SplitItem(p, "test", p.id) for p in pairs]), {})


def test_the_page_of_retrieval_scores_shows_recall_latency_and_size_over_time(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            result = dg.materialize(
                [*KNOWLEDGE, qa_splits, retrieval_scores], instance=instance, resources=build_resources(settings)
            )
    (event,) = result.asset_materializations_for_node("retrieval_scores")
    page = {name: value.value for name, value in event.metadata.items()}
    assert page["recall@10"] == 1.0
    assert page["p95 ms"] >= page["p50 ms"] > 0
    rows = Warehouse(settings.home / "warehouse.duckdb").retrieval()
    assert [(row.n, row.chunks) for row in rows] == [(2, 2), (2, 2)]
    store = ArtifactStore(settings.home / "artifacts")
    assert [row.index_sha256 for row in rows] == [store.current("search_index").sha256] * 2
    assert rows[0].index_bytes > 0
    table = page["retrieval so far"].splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {row.measured_at}" for row in reversed(rows)]
    assert all("data:image/png;base64" in page[f"{name} over time"] for name in ("recall", "latency"))
