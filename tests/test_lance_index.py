"""What is LanceDB's own: the vector graph of large indexes, and what many updates leave behind."""

from pathlib import Path

import numpy as np
import pytest

from ragtune.backends.lance_index import COMPACT_FROM, LanceIndex
from ragtune.records import Chunk

DIMENSION, SIZE, CROWDS = 64, 3000, 30


def passages(first: int, last: int) -> list[tuple[Chunk, np.ndarray]]:
    """Return passages whose vectors stand in crowds, as those of a real corpus do."""
    middles = np.random.default_rng(0).normal(size=(CROWDS, DIMENSION))
    found = []
    for number in range(first, last):
        vector = middles[number % CROWDS] + 0.7 * np.random.default_rng(number).normal(size=DIMENSION)
        chunk = Chunk(
            id=f"c{number}",
            document_id=f"d{number}",
            source="folder:docs",
            title=f"Page {number}",
            heading_path=(),
            text=f"text {number}",
            position=0,
        )
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


def test_many_updates_leave_few_fragments_and_the_scores_of_a_clean_build(tmp_path: Path) -> None:
    import lancedb

    many, clean = (LanceIndex(tmp_path / name, "crowds", DIMENSION) for name in ("many", "clean"))
    for number in range(COMPACT_FROM + 3):
        with many.updating():
            many.apply(passages(10 * number, 10 * number + 10), [f"c{10 * number - 1}"])
    last = 10 * (COMPACT_FROM + 3)
    with clean.updating():
        clean.apply([each for each in passages(0, last) if not each[0].id.endswith("9")], [])
        clean.apply(passages(last - 1, last), [])
    (table,) = lancedb.connect(tmp_path / "many").list_tables().tables
    fragments = lancedb.connect(tmp_path / "many").open_table(table).stats()["fragment_stats"]["num_fragments"]
    assert fragments < COMPACT_FROM
    assert many.versions() == clean.versions()
    for text in ("text 7", "page 33"):
        assert many.search_text(text, 10) == clean.search_text(text, 10)
