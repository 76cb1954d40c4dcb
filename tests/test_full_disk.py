"""Every kind of state on a full disk: the error says so, the old state stays, and it goes on with room again."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from ragtune.errors import ResourceError
from ragtune.knowledge.library import Library
from ragtune.records import ArtifactRef, Chunk, ResponseRecord
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore, write_json
from ragtune.store.disk_use import is_disk_full
from ragtune.store.feedback import FeedbackLog
from ragtune.store.warehouse import Warehouse
from ragtune_assets.display import materialized
from ragtune_assets.materialize import materialize
from ragtune_assets.resources import ArtifactIO
from tests.support.counting_embedder import CountingEmbedder
from tests.support.releases import released
from tests.support.small_disk import fill
from tests.test_warehouse import SCORE

BIG = 1 << 20
"""More than what is left on a full disk, and less than what is free otherwise."""


def response(number: int) -> ResponseRecord:
    return ResponseRecord(
        id=f"r{number}",
        created_at="2026-01-01",
        question="What is x?",
        answer="y" * BIG,
        model="ragtune",
        model_version="1",
        chunk_ids=(),
        cited_chunk_ids=(),
        refused=False,
    )


def fails_until_there_is_room(disk: Path, work: Callable[[], object]) -> None:
    """Check that the work fails on a full disk with an error that is understood, and succeeds once it is freed."""
    free = fill(disk, leave=4096)
    with pytest.raises(Exception) as caught:  # noqa: PT011 every library has its own type
        work()
    assert is_disk_full(caught.value), repr(caught.value)
    free()
    work()


def test_artefacts_and_small_files(small_disk: Path) -> None:
    store = ArtifactStore(small_disk / "artifacts")
    write_json(small_disk / "a.json", {"old": True})

    def build() -> ArtifactRef:
        with store.stage("model") as scratch:
            (scratch / "weights").write_bytes(b"w" * BIG)
            return store.commit("model", scratch)

    fails_until_there_is_room(small_disk, build)
    assert [path.name for path in (small_disk / "artifacts" / "model").iterdir()] == [build().sha256[:16]]
    fails_until_there_is_room(small_disk, lambda: write_json(small_disk / "a.json", {"new": "x" * BIG}))
    assert sorted(path.name for path in small_disk.iterdir()) == ["a.json", "artifacts"]


def test_a_released_model(small_disk: Path) -> None:
    # Another disk holds the weights, so that they are copied and not linked.
    source = small_disk.parent / "elsewhere"
    folder = released(source, weights=b"w" * BIG)
    models = small_disk / "models"

    def release() -> Path:
        from ragtune.store.registry import assemble, read_manifest

        return assemble(models, {"w8a8": folder / "w8a8"}, read_manifest(folder))

    fails_until_there_is_room(small_disk, release)
    assert [path.name for path in models.iterdir()] == [release().name]


def test_the_feedback_log(small_disk: Path) -> None:
    log = FeedbackLog(f"sqlite:///{small_disk}/feedback.db")
    log.record_response(response(1))
    log.add("r1", "up")
    fails_until_there_is_room(small_disk, lambda: log.record_response(response(2)))
    assert log.count_responses() == 2
    assert log.count_since(0) == 1
    log.close()


def test_the_scores(small_disk: Path) -> None:
    warehouse = Warehouse(small_disk / "warehouse.duckdb")
    warehouse.append([SCORE])
    many = [SCORE] * 20
    from dataclasses import replace

    many = [replace(SCORE, signature=f"{number}" * 50_000) for number in range(20)]
    fails_until_there_is_room(small_disk, lambda: warehouse.append(many))
    assert len(warehouse.scores(newest=False)) == 21


def test_the_library(small_disk: Path) -> None:
    documents = small_disk.parent / "documents"
    documents.mkdir()
    (documents / "a.md").write_text("# Kilns\n\n" + "A kiln is hot. " * 60_000)
    settings = load_settings({"home": small_disk / "home", "sources": [f"folder:{documents}"]})
    fails_until_there_is_room(small_disk, lambda: Library(settings).read())
    assert len(Library(settings).shelves()) == 1
    assert not [path for path in (small_disk / "home" / "library").iterdir() if path.name.startswith(".")]


def test_the_index(small_disk: Path) -> None:
    from ragtune.backends.catalog import search_index_from
    from ragtune.knowledge.indexing import update_index

    embedder = CountingEmbedder()
    index = search_index_from(load_settings({"home": small_disk / "home"}), embedder)
    chunks = [
        Chunk(id=f"c{i}", document_id="d", source="s", title="t", heading_path=(), text=f"kiln {i} " * 400, position=i)
        for i in range(300)
    ]
    update_index(index, embedder, chunks[:1])
    fails_until_there_is_room(small_disk, lambda: update_index(index, embedder, chunks))
    assert set(index.chunk_ids()) == {chunk.id for chunk in chunks}


def test_a_build_stops_with_the_way_out_and_goes_on(small_disk: Path) -> None:
    store = ArtifactStore(small_disk / "artifacts")

    @dg.asset(code_version="1")
    def big() -> dg.MaterializeResult[ArtifactRef]:
        with store.stage("big") as scratch:
            (scratch / "weights").write_bytes(b"w" * BIG)
            return materialized(store.commit("big", scratch), {})

    io = dg.IOManagerDefinition.hardcoded_io_manager(ArtifactIO(store))
    defs = dg.Definitions([big], resources={"io_manager": io})
    with dg.DagsterInstance.ephemeral() as instance:
        free = fill(small_disk, leave=64 << 10)
        with pytest.raises(ResourceError, match=r"(?s)is full.*No space left.*ragtune prune"):
            materialize(defs, store, instance)
        with pytest.raises(ResourceError, match=r"^About 0\.01 GiB .* for big,"):
            materialize(defs, store, instance, step_bytes=10 << 20)
        free()
        assert materialize(defs, store, instance, step_bytes=1 << 20) == ["big"]
