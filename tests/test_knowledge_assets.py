"""What a person can do to the knowledge base in Dagster, on the real assets."""

from pathlib import Path

import dagster as dg
import pytest

from ragtune.errors import SourceError
from ragtune.knowledge.library import Library
from ragtune.records import Document
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.knowledge import KnowledgeChanges, raw_documents
from ragtune_assets.resources import build_resources


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
    """Materialise raw_documents with this run configuration and return its metadata."""
    config = dg.RunConfig(ops={"raw_documents": KnowledgeChanges(**changes)})
    result = dg.materialize([raw_documents], instance=instance, resources=build_resources(settings), run_config=config)
    return dict(result.asset_materializations_for_node("raw_documents")[0].metadata)


def paths(settings: Settings) -> list[str]:
    store = ArtifactStore(settings.home / "artifacts")
    ref = store.current("raw_documents")
    assert ref is not None
    return [document.path for document in store.read_records(ref, Document)]


def test_the_quarantine_stands_in_the_metadata_with_source_path_and_reason(settings: Settings, docs: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        shown = read(settings, instance)["quarantine"].md_str.splitlines()
    (bad,) = Library(settings).quarantine()
    assert shown[0] == "| source | path | reason |"
    assert shown[2:] == [f"| folder:{docs} | broken.pdf | {bad.reason} |"]


def test_a_run_can_remove_documents_and_every_later_run_leaves_them_out(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        read(settings, instance)
        shown = read(settings, instance, remove_documents=["a.md"])
        assert "a.md" in shown["removed"].md_str
        assert paths(settings) == ["b.md"]
        read(settings, instance)
        assert paths(settings) == ["b.md"]
        read(settings, instance, restore_documents=["a.md"])
        assert paths(settings) == ["a.md", "b.md"]


def test_a_run_can_read_one_source_anew_and_leave_the_others(settings: Settings, docs: Path, tmp_path: Path) -> None:
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
