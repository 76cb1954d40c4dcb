"""LanceDB's vector graph, which large indexes use, on an index that is large enough from the first chunks on."""

from pathlib import Path

import numpy as np
import pytest

from ragtune.backends.lance_index import LanceIndex
from ragtune.records import Chunk

DIMENSION, SIZE, CROWDS = 64, 3000, 30


def passages(first: int, last: int) -> list[tuple[Chunk, np.ndarray]]:
    """Return passages whose vectors stand in crowds, as those of a real corpus do."""
    middles = np.random.default_rng(0).normal(size=(CROWDS, DIMENSION))
    found = []
    for number in range(first, last):
        vector = middles[number % CROWDS] + 0.7 * np.random.default_rng(number).normal(size=DIMENSION)
        chunk = Chunk(f"c{number}", f"d{number}", "folder:docs", f"Page {number}", (), f"text {number}", 0)
        found.append((chunk, (vector / np.linalg.norm(vector)).astype(np.float32)))
    return found


@pytest.fixture
def index(tmp_path: Path) -> LanceIndex:
    found = LanceIndex(tmp_path / "index", "crowds", DIMENSION, graph_from=1000)
    with found.updating():
        found.apply(passages(0, SIZE), [])
    return found


def test_the_graph_finds_the_nearest_with_their_true_similarity(index: LanceIndex) -> None:
    stored = passages(0, SIZE)
    shares = []
    for _, vector in passages(SIZE, SIZE + 40):
        right = sorted(((float(each @ vector), chunk.id) for chunk, each in stored), reverse=True)[:50]
        hits = index.search_vector(vector, 50)
        shares.append(len({hit.chunk.id for hit in hits} & {name for _, name in right}) / 50)
        assert hits[0].score == pytest.approx(right[0][0], abs=1e-5)
    assert np.mean(shares) >= 0.98


def test_what_is_written_after_the_graph_was_built_is_found_and_what_left_is_not(index: LanceIndex) -> None:
    (late, vector), (gone, before) = passages(SIZE, SIZE + 1)[0], passages(7, 8)[0]
    with index.updating():
        index.apply([(late, vector)], [gone.id])
    assert index.search_vector(vector, 1)[0].chunk.id == late.id
    assert gone.id not in {hit.chunk.id for hit in index.search_vector(before, 50)}


def test_a_filter_is_applied_before_the_nearest_are_chosen(index: LanceIndex) -> None:
    _, vector = passages(SIZE, SIZE + 1)[0]
    (hit,) = index.search_vector(vector, 5, {"document_id": "d8"})
    assert hit.chunk.id == "c8"
