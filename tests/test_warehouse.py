import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ragtune.errors import ResourceError
from ragtune.records import BenchmarkRow, GateDecision, RetrievalRow, Score, ScoredAnswer
from ragtune.store.warehouse import Warehouse

SCORE = Score(
    model="ragtune",
    precision="w4a16",
    metric="token_f1",
    value=0.7,
    low=0.6,
    high=0.8,
    n=160,
    split="test",
    dataset_sha256="d" * 64,
    model_version="1",
    seed=17,
    signature="token_f1|v1",
)
ROW = BenchmarkRow(
    run_id="r1",
    measured_at="2026-01-01T00:00:00",
    model="ragtune",
    precision="w8a8",
    concurrency=4,
    requests=24,
    errors=1,
    p50_ms=500,
    p95_ms=900,
    ttft_p50_ms=90,
    ttft_p95_ms=120,
    tokens_per_second=33.5,
    peak_memory_bytes=10,
    model_bytes=20,
    hardware="cpu",
)
RETRIEVAL = RetrievalRow(
    run_id="r1",
    measured_at="2026-01-01",
    index_sha256="i" * 64,
    dataset_sha256="d" * 64,
    embedder="minilm",
    chunks=9,
    n=5,
    recall_1=0.4,
    recall_5=0.6,
    recall_10=0.8,
    mrr_10=0.5,
    ndcg_10=0.6,
    p50_ms=12,
    p95_ms=20,
    index_bytes=1024,
)
DECISION = GateDecision(
    promoted=True,
    reason="better",
    metric="token_f1",
    live=0.5,
    candidate=0.6,
    gain=0.1,
    low=0.02,
    high=0.2,
    smallest_detectable_gain=0.05,
    n=120,
    alpha=0.05,
    live_version="1",
    candidate_version="2",
)


def test_what_was_appended_is_read_back_whole(tmp_path: Path):
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.append([SCORE])
    warehouse.append([ROW])
    warehouse.append([DECISION])
    warehouse.append([RETRIEVAL])
    assert warehouse.retrieval() == [RETRIEVAL]
    assert warehouse.scores() == [SCORE]
    assert warehouse.benchmarks() == [ROW]
    assert warehouse.decisions() == [DECISION]


def test_a_second_measurement_is_added_and_the_view_shows_the_newest(tmp_path: Path):
    warehouse = Warehouse(tmp_path / "w.duckdb")
    second = replace(ROW, run_id="r2", p50_ms=400)
    warehouse.append([ROW, replace(ROW, concurrency=8)])
    warehouse.append([second])
    assert warehouse.benchmarks(newest=False) == [ROW, replace(ROW, concurrency=8), second]
    assert warehouse.benchmarks() == [replace(ROW, concurrency=8), second]
    warehouse.append([SCORE])
    warehouse.append([replace(SCORE, value=0.9), replace(SCORE, split="gate")])
    assert {(score.split, score.value) for score in warehouse.scores()} == {("test", 0.9), ("gate", 0.7)}
    warehouse.append([replace(SCORE, origin="people", value=0.4)])
    assert {(score.origin, score.value) for score in warehouse.scores()} >= {("", 0.9), ("people", 0.4)}


def test_an_empty_warehouse_has_its_tables(tmp_path: Path):
    warehouse = Warehouse(tmp_path / "w.duckdb")
    assert warehouse.scores() == []
    assert warehouse.query("SELECT count(*) AS n FROM newest_decision") == (["n"], [(0,)])


def test_single_answers_can_be_looked_into(tmp_path: Path):
    warehouse = Warehouse(tmp_path / "w.duckdb")
    answer = ScoredAnswer(
        pair_id="p",
        question="q?",
        expected="5",
        answer="It is 5. [1]",
        kind="api",
        answerable=True,
        refused=False,
        retrieved=True,
        cited=("c1",),
        metrics={"token_f1": 0.5},
        latency_ms=12.0,
        document_id="d",
    )
    warehouse.append_answers("run1", "ragtune", "w4a16", "test", [answer])
    _, rows = warehouse.query("SELECT question, cited[0], metrics->>'token_f1' FROM answers")
    assert rows == [("q?", '"c1"', "0.5")]


def test_a_query_cannot_write(tmp_path: Path):
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.append([SCORE])
    with pytest.raises(Exception, match="read-only"):
        warehouse.query("DELETE FROM scores")
    assert warehouse.scores() == [SCORE]


def test_two_writers_wait_for_each_other_and_lose_nothing(tmp_path: Path):
    path = tmp_path / "w.duckdb"
    code = (
        "import sys; from pathlib import Path; from ragtune.store.warehouse import Warehouse\n"
        "from tests.test_warehouse import SCORE\n"
        "for _ in range(5): Warehouse(Path(sys.argv[1])).append([SCORE])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(Warehouse(path).scores(newest=False)) == 10


def test_a_file_that_is_no_warehouse_says_so(tmp_path: Path):
    path = tmp_path / "w.duckdb"
    path.write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(ResourceError, match="cannot be opened"):
        Warehouse(path).scores()


def test_a_file_of_an_earlier_release_gets_the_columns_that_came_later(tmp_path: Path):
    import duckdb

    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.append([DECISION])
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute("DROP VIEW newest_decision")
        for name in ("out_of_domain_gain", "out_of_domain_low", "out_of_domain_n", "decided_on", "by_origin"):
            connection.execute(f"ALTER TABLE decisions DROP COLUMN {name}")
    newer = replace(DECISION, out_of_domain_n=48)
    warehouse.append([newer])
    assert warehouse.decisions() == [DECISION, newer], "the row that was there has the defaults"
    assert warehouse.query("SELECT out_of_domain_n FROM newest_decision") == (["out_of_domain_n"], [(48,)])


def test_the_order_is_that_of_the_writing_even_if_the_clock_was_set_back(tmp_path):
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.append([replace(DECISION, reason="first")])
    with warehouse._open() as connection:
        connection.execute("UPDATE decisions SET recorded_at = '2999-01-01T00:00:00.000+00:00'")
    warehouse.append([replace(DECISION, reason="second")])
    assert [decision.reason for decision in warehouse.decisions()] == ["first", "second"]
