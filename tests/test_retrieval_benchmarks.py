"""The parts of the retrieval benchmarks that decide what their numbers mean."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.retrieval.faults import edit
from benchmarks.retrieval.latency import grown
from benchmarks.retrieval.quality import Question, spread, table, with_section
from benchmarks.retrieval.update import edited
from ragtune.records import Chunk, Document, Hit


def chunk(name: str, document: str, heading: str = "") -> Chunk:
    return Chunk(
        id=name,
        document_id=document,
        source="folder:docs",
        title=document,
        heading_path=(heading,),
        text=f"text of {name}",
        position=0,
    )


A1, A2, A3, B1 = chunk("a1", "a", "x"), chunk("a2", "a", "x"), chunk("a3", "a", "y"), chunk("b1", "b")
HITS = [Hit(A1, 4), Hit(A3, 3), Hit(B1, 2)]


def names(hits: list[Hit]) -> list[str]:
    return [hit.chunk.id for hit in hits]


def test_spreading_puts_further_passages_of_a_document_behind_the_others() -> None:
    assert names(spread(HITS, 1)) == ["a1", "b1", "a3"]
    assert names(spread(HITS, 2)) == ["a1", "a3", "b1"]


def test_a_section_follows_its_first_hit_and_no_passage_comes_twice() -> None:
    assert names(with_section([*HITS, Hit(A2, 1)], [A1, A2, A3, B1])) == ["a1", "a2", "a3", "b1"]


def test_the_gain_over_hybrid_is_paired_by_question() -> None:
    questions = [Question("q", str(n), lambda hits: [float(hit.chunk.id == "a1") for hit in hits], [1.0]) for n in "12"]
    rows = table({"hybrid": [HITS, HITS], "same": [HITS, HITS], "worse": [HITS, HITS[1:]]}, questions, seed=1)
    assert rows["same"]["ndcg_10_over_hybrid"] == [0, 0, 0]
    assert rows["worse"]["ndcg_10_over_hybrid"][0] == pytest.approx(-0.5)
    assert rows["worse"]["recall_1"][0] == 0.5


def test_a_grown_corpus_has_the_real_passages_first_and_unit_vectors_near_them() -> None:
    vectors = np.eye(4, 384, dtype=np.float32)
    made = list(grown([A1, A2, A3, B1], vectors, 50, seed=3))
    assert [each.id for each, _ in made[:4]] == ["a1", "a2", "a3", "b1"]
    assert len({each.id for each, _ in made}) == 50
    for _, vector in made[4:]:
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert max(vectors @ vector) > 0.8


def test_so_many_documents_are_edited_and_the_others_stay() -> None:
    documents = [Document(id=str(n), source="s", path=str(n), title="t", text="text", sha256="h") for n in range(200)]
    changed = [i for i, (a, b) in enumerate(zip(documents, edited(documents, 0.01, 1, 0), strict=True)) if a != b]
    assert len(changed) == 2
    assert edited(documents, 0.01, 1, 0) == edited(documents, 0.01, 1, 0)
    assert replace(edited(documents, 0.01, 1, 1)[changed[0]], text="text") == documents[changed[0]]


def test_each_round_of_faults_edits_deletes_and_adds_the_same_by_seed(tmp_path: Path) -> None:
    states = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        for n in range(10):
            (folder / f"{n}.md").write_text(f"text {n}")
        edit(folder, 0.2, random.Random(5), 1)
        states.append({path.name: path.read_text() for path in folder.iterdir()})
    assert states[0] == states[1]
    assert len(states[0]) == 10
    assert "added-1.md" in states[0]
    assert sum("Revision 1 says" in text and name != "added-1.md" for name, text in states[0].items()) in (1, 2)
