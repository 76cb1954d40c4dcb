import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragtune.backends.lance_index import LanceIndex
from ragtune.errors import SearchIndexError
from ragtune.knowledge import indexing
from ragtune.knowledge.indexing import chunk_version, update_index
from ragtune.ports import SearchIndex
from ragtune.records import Chunk, content_id
from tests.support.counting_embedder import CountingEmbedder
from tests.support.elastic import elastic_opener, elastic_url

WORDS = ["herring", "swallow", "adapter", "quantise", "retrieve", "gateway", "harbour", "winter", "lantern", "copper"]


def chunk(document: str, text: str, position: int = 0) -> Chunk:
    return Chunk(
        id=content_id(document, text),
        document_id=document,
        source="folder:docs",
        title=document,
        heading_path=(),
        text=text,
        position=position,
    )


def corpus(documents: int, edited: int = 0) -> list[Chunk]:
    """Return two chunks per document; the first `edited` documents have another second chunk."""
    chunks = []
    for number in range(documents):
        words = random.Random(number).choices(WORDS, k=12)
        chunks.append(chunk(f"doc {number}", f"{number} " + " ".join(words)))
        tail = " edited" if number < edited else ""
        chunks.append(chunk(f"doc {number}", f"{number} " + " ".join(reversed(words)) + tail, 1))
    return chunks


@pytest.fixture
def index(tmp_path: Path) -> LanceIndex:
    return LanceIndex(tmp_path / "index", "words", 32)


def state(index: SearchIndex) -> dict[str, tuple[str, str]]:
    return dict(sorted(index.versions().items()))


def wanted(chunks: list[Chunk]) -> dict[str, tuple[str, str]]:
    return dict(sorted((each.id, (each.document_id, chunk_version(each))) for each in chunks))


def test_the_first_update_embeds_everything(index: LanceIndex) -> None:
    embedder = CountingEmbedder()
    update = update_index(index, embedder, corpus(5))
    assert (update.documents, update.chunks, update.added, update.embedded) == (5, 10, 10, 10)
    assert (update.updated, update.deleted) == (0, 0)
    assert len(embedder.embedded) == 10
    assert state(index) == wanted(corpus(5))


def test_nothing_changed_means_nothing_embedded_and_nothing_written(index: LanceIndex) -> None:
    update_index(index, CountingEmbedder(), corpus(5))
    before = (index.folder / "current.json").stat().st_mtime_ns
    embedder = CountingEmbedder()
    update = update_index(index, embedder, corpus(5))
    assert (update.added, update.updated, update.deleted, update.embedded) == (0, 0, 0, 0)
    assert embedder.embedded == []
    assert (index.folder / "current.json").stat().st_mtime_ns == before


def test_only_the_changed_chunk_is_embedded(index: LanceIndex) -> None:
    update_index(index, CountingEmbedder(), corpus(5))
    embedder = CountingEmbedder()
    update = update_index(index, embedder, corpus(5, edited=1))
    assert (update.added, update.updated, update.deleted) == (0, 1, 0)
    assert len(embedder.embedded) == 1
    assert embedder.embedded[0].endswith("edited")
    assert state(index) == wanted(corpus(5, edited=1))


def test_vanished_documents_are_deleted_and_new_ones_added(index: LanceIndex) -> None:
    update_index(index, CountingEmbedder(), corpus(5))
    update = update_index(index, CountingEmbedder(), corpus(7)[4:])
    assert (update.added, update.updated, update.deleted) == (4, 0, 4)
    assert state(index) == wanted(corpus(7)[4:])


@pytest.mark.parametrize("place", [{"position": 9, "topic": "new"}, {"page": 4}, {"start": 12}, {"path": "b.md"}])
def test_a_chunk_that_only_moved_is_updated_without_embedding(index: LanceIndex, place: dict[str, Any]) -> None:
    chunks = corpus(3)
    update_index(index, CountingEmbedder(), chunks)
    vectors = index.vectors([chunks[0].id])
    moved = [replace(chunks[0], **place), *chunks[1:]]
    embedder = CountingEmbedder()
    update = update_index(index, embedder, moved)
    assert (update.added, update.updated, update.deleted, update.embedded) == (0, 1, 0, 0)
    np.testing.assert_array_equal(index.vectors([chunks[0].id])[chunks[0].id], vectors[chunks[0].id])
    found = [hit.chunk for hit in index.search_text(chunks[0].text, 10) if hit.chunk.id == chunks[0].id]
    assert found == [moved[0]]


def test_a_new_title_is_embedded_again_though_the_id_is_the_same(index: LanceIndex) -> None:
    chunks = corpus(2)
    update_index(index, CountingEmbedder(), chunks)
    update = update_index(index, CountingEmbedder(), [replace(chunks[0], title="Renamed"), *chunks[1:]])
    assert (update.updated, update.embedded) == (1, 1)
    assert index.search_text("renamed", 1)[0].chunk.title == "Renamed"


def test_duplicates_are_not_indexed(index: LanceIndex) -> None:
    first, second = corpus(1)
    update = update_index(index, CountingEmbedder(), [first, replace(second, duplicate_of=first.id)])
    assert update.chunks == 1
    assert set(index.chunk_ids()) == {first.id}


def test_another_embedder_builds_everything_again(index: LanceIndex) -> None:
    update_index(index, CountingEmbedder(), corpus(3))
    other = LanceIndex(index.folder, "other", 16)
    update = update_index(other, CountingEmbedder("other", 16), corpus(3))
    assert (update.added, update.embedded) == (6, 6)
    assert state(other) == wanted(corpus(3))


class DyingEmbedder(CountingEmbedder):
    """Dies after a number of embedded texts."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def embed(self, texts, progress=lambda *_: None):  # type: ignore[no-untyped-def]
        if len(self.embedded) >= self.after:
            raise MemoryError
        return super().embed(texts)


def test_an_interrupted_update_keeps_what_it_embedded(index: LanceIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "SLICE", 4)
    with pytest.raises(MemoryError):
        update_index(index, DyingEmbedder(after=8), corpus(10))
    assert state(index) == {}
    embedder = CountingEmbedder()
    update = update_index(index, embedder, corpus(10))
    assert update.embedded == 12
    assert len(embedder.embedded) == 12
    assert state(index) == wanted(corpus(10))
    assert list(index.scratch.iterdir()) == []


CHILD = """
import sys, time
from pathlib import Path
from ragtune.backends.lance_index import LanceIndex
from ragtune.backends.elastic_index import ElasticIndex
from ragtune.knowledge import indexing
from tests.support.counting_embedder import CountingEmbedder
from tests.test_indexing import corpus
indexing.SLICE = 16
class Slow(CountingEmbedder):
    def embed(self, texts, progress=None):
        time.sleep(0.005)
        return super().embed(texts)
folder, url, name, edited = sys.argv[1:]
lance = LanceIndex(Path(folder), "words", 32)
index = ElasticIndex(url, "", name, "words", 32, Path(folder)) if url else lance
index.search_text("warm", 1)
print("ready", flush=True)
indexing.update_index(index, Slow(), corpus(200, edited=int(edited)))
print("done", flush=True)
"""


def start_child(folder: Path, edited: int, url: str = "", name: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CHILD, str(folder), url, name, str(edited)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def kill_while_updating(index: SearchIndex, kills: int, longest: float, url: str = "", name: str = "") -> None:
    """Kill real updates at random moments; after each one readers see the old state or the new one."""
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    before, folder = corpus(200), getattr(index, "folder", index.scratch)
    update_index(index, CountingEmbedder(), before)
    edited = 0
    for number in range(kills):
        edited += 20
        moment = rng.uniform(0, longest)
        child = start_child(folder, edited, url, name)
        time.sleep(moment)
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
        where = f"seed {seed}, kill {number} after {moment:.3f} s"
        after = corpus(200, edited=edited)
        assert state(index) in (wanted(before), wanted(after)), where
        words = index.search_text("herring edited", 50)
        assert {hit.chunk.id for hit in words} <= set(index.versions()), where
        update_index(index, CountingEmbedder(), after)
        assert state(index) == wanted(after), where
        before = after


def assert_same_as_clean_build(index: SearchIndex, clean: SearchIndex, chunks: list[Chunk]) -> None:
    update_index(clean, CountingEmbedder(), chunks)
    assert state(index) == state(clean)
    ids = sorted(clean.versions())
    ours, theirs = index.vectors(ids), clean.vectors(ids)
    for each in ids:
        np.testing.assert_array_equal(ours[each], theirs[each])
    for seed in range(20):
        vector = CountingEmbedder().embed([" ".join(random.Random(seed).choices(WORDS, k=4))])[0]
        mine = [round(hit.score, 4) for hit in index.search_vector(vector, 10)]
        assert mine == [round(hit.score, 4) for hit in clean.search_vector(vector, 10)]


def test_killed_updates_leave_the_old_index_or_the_new_one_and_end_as_a_clean_build(
    index: LanceIndex, tmp_path: Path
) -> None:
    kill_while_updating(index, kills=3, longest=0.3)
    assert_same_as_clean_build(index, LanceIndex(tmp_path / "clean", "words", 32), corpus(200, edited=60))


@pytest.mark.elasticsearch
def test_killed_updates_on_elasticsearch_leave_the_old_index_or_the_new_one(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    index = elastic_opener(request, tmp_path)("words", 32)
    kill_while_updating(index, kills=2, longest=0.8, url=elastic_url(), name=index.name)
    clean = elastic_opener(request, tmp_path / "clean")("words", 32)
    assert_same_as_clean_build(index, clean, corpus(200, edited=40))


@pytest.fixture(params=["lance", pytest.param("elasticsearch", marks=pytest.mark.elasticsearch)])
def two_handles(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[SearchIndex, SearchIndex]]:
    if request.param == "lance":
        yield LanceIndex(tmp_path / "index", "words", 32), LanceIndex(tmp_path / "index", "words", 32)
    else:
        opener = elastic_opener(request, tmp_path)
        yield opener("words", 32), opener("words", 32)


def test_two_writers_take_turns_and_the_last_one_wins(two_handles: tuple[SearchIndex, SearchIndex]) -> None:
    first, second = two_handles
    states = [corpus(30), corpus(40)[20:]]
    threads = [
        threading.Thread(target=update_index, args=(each, CountingEmbedder(), chunks))
        for each, chunks in zip((first, second), states, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state(first) == state(second)
    assert state(first) in [wanted(each) for each in states]


def test_readers_see_the_old_or_the_new_state_during_updates(two_handles: tuple[SearchIndex, SearchIndex]) -> None:
    reader, writer = two_handles
    states = [corpus(20), corpus(20, edited=20)]
    update_index(writer, CountingEmbedder(), states[0])
    allowed = [{each.id for each in chunks} for chunks in states]
    seen: list[set[str]] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append({hit.chunk.id for hit in reader.search_vector(np.full(32, 32**-0.5, dtype=np.float32), 100)})

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(1, 5):
        update_index(writer, CountingEmbedder(), states[number % 2])
    stop.set()
    thread.join()
    assert len(seen) > 4
    assert all(each in allowed for each in seen)
    assert all(each in seen for each in allowed)


def test_a_damaged_index_says_how_to_mend_it(index: LanceIndex) -> None:
    update_index(index, CountingEmbedder(), corpus(2))
    for manifest in index.folder.rglob("*.manifest"):
        manifest.unlink()
    with pytest.raises(SearchIndexError, match=r"delete .* and run"):
        LanceIndex(index.folder, "words", 32).search_text("herring", 1)
