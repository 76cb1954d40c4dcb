"""`ragtune validate` reads what is in a home, and says so if a result is missing or old."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragtune.evaluation.acceptance import CRITERIA, validate
from ragtune.evaluation.speed import PRESENT, VLLM_DEFAULTS
from ragtune.records import AgreementRow, AnswerSet, QAPair, RetrievalRow, ScoredAnswer, SplitItem
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse
from ragtune_serving.cli import app
from tests.support.migrated_mlflow import give_mlflow as give_mlflow
from tests.support.releases import released
from tests.support.scored_answers import scored_answer
from tests.test_benchmark_report import difference, results
from tests.test_benchmark_report import run as run

PAGE = Path(__file__).parent.parent / "docs" / "acceptance.md"
ITEMS = [
    SplitItem(
        QAPair(id=f"p{n}", question=f"q{n}?", answer="a", kind="k", document_id=f"d{n}", chunk_id=f"c{n}"),
        "test" if n < 40 else "train",
        f"cluster{n}",
    )
    for n in range(60)
]


def answers(right: int, origin: str = "people") -> tuple[ScoredAnswer, ...]:
    return tuple(replace(scored_answer(n, float(n < right)), origin=origin) for n in range(40))


@pytest.fixture
def settings(tmp_path, give_mlflow):
    give_mlflow(tmp_path)
    return load_settings({"home": tmp_path})


def fill(settings, right: int = 36, promoted: bool = True, versions: str = "") -> None:
    """Write a home whose candidate has this many right answers of 40; the raw model has 10 and the base 20."""
    store = ArtifactStore(settings.home / "artifacts")
    for name, size in (("merged_model", 1000), ("quantized_model", 400)):
        with store.stage(name) as scratch:
            for precision in ("w8a8",) if name == "quantized_model" else ("",):
                (scratch / precision).mkdir(exist_ok=True)
                (scratch / precision / "model.safetensors").write_bytes(b"x" * size)
            store.set_current(store.commit(name, scratch))
    version = versions or store.current("quantized_model").sha256[:12]
    sets = [
        AnswerSet("raw", "bf16", "raw", "test", answers(10)),
        AnswerSet("base", "bf16", "base", "test", answers(20)),
        AnswerSet("fine-tuned", "bf16", version, "test", answers(right)),
        AnswerSet("fine-tuned", "w8a8", version, "test", answers(right)),
    ]
    for name, records in (
        ("qa_splits", ITEMS),
        ("qa_dataset", [item.pair for item in ITEMS]),
        ("search_index", []),
        ("eval_answers", sets),
    ):
        store.set_current(store.write_records(name, records))
    gate = {"gain": 0.4, "low": 0.2, "high": 0.6, "n": 40, "live_version": "base", "promoted": promoted}
    ModelRegistry(settings).register(released(settings.home, mlflow_run_id="r1", gate=gate))


def verdicts(settings) -> dict[str, str]:
    return {row.criterion.name: row.finding.verdict for row in validate(settings, CRITERIA)}


def test_an_empty_home_has_run_nothing_and_claims_nothing(settings):
    assert set(verdicts(settings).values()) == {"not run"}


def test_a_good_candidate_meets_what_it_can_and_too_few_pairs_are_missed(settings):
    fill(settings)
    found = verdicts(settings)
    assert found["Better than the raw model on test questions"] == "met"
    assert found["Better than the raw model on people's questions"] == "met"
    assert found["Better than the live model"] == "met"
    assert found["Better throughout"] == "met"
    assert found["Smaller without loss"] == "met"
    assert found["No near-duplicate of a training text is tested"] == "met"
    assert found["Every release names its run, its data and its files"] == "met"
    assert found["Enough checked pairs"] == "missed"
    assert found["Annotators agree"] == found["Feedback is collected and trained on"] == "not run"


def test_a_candidate_that_is_no_better_misses_its_gains(settings):
    fill(settings, right=10, promoted=False)
    found = verdicts(settings)
    assert found["Better than the raw model on test questions"] == "missed"
    assert found["Better than the live model"] == "missed"
    assert found["Better throughout"] == "missed"


def test_answers_of_an_earlier_candidate_are_stale(settings):
    fill(settings, versions="earlier")
    found = verdicts(settings)
    assert found["Better than the raw model on test questions"] == "stale"
    assert found["Smaller without loss"] == "stale"


def test_a_cluster_in_two_splits_is_a_leak(settings):
    fill(settings)
    store = ArtifactStore(settings.home / "artifacts")
    store.set_current(store.write_records("qa_splits", [*ITEMS[:-1], replace(ITEMS[-1], cluster="cluster0")]))
    assert verdicts(settings)["No near-duplicate of a training text is tested"] == "missed"


def test_recall_of_an_earlier_index_is_stale_and_that_of_this_one_counts(settings):
    fill(settings)
    store, warehouse = ArtifactStore(settings.home / "artifacts"), Warehouse(settings.home / "warehouse.duckdb")
    row = RetrievalRow(
        run_id="r", measured_at="2026-11-30", index_sha256="old", dataset_sha256=store.current("qa_splits").sha256,
        embedder="e", chunks=9, n=40, recall_1=0.7, recall_5=0.9, recall_10=0.95, mrr_10=0.8, ndcg_10=0.8,
        p50_ms=9.0, p95_ms=12.0, index_bytes=1,
    )  # fmt: skip
    warehouse.append([row])
    assert verdicts(settings)["Search finds the passage"] == "stale"
    warehouse.append([replace(row, index_sha256=store.current("search_index").sha256)])
    assert verdicts(settings)["Search finds the passage"] == "met"
    warehouse.append([replace(row, index_sha256=store.current("search_index").sha256, recall_10=0.8)])
    assert verdicts(settings)["Search finds the passage"] == "missed"


def test_speed_over_vllms_defaults_counts_on_every_work_load_and_for_the_served_version_only(settings):
    warehouse = Warehouse(settings.home / "warehouse.duckdb")
    row = difference(
        "x", "1", "0", "better", 0.5, settings="{}", before=VLLM_DEFAULTS, after=PRESENT, model_version="7"
    )
    warehouse.append([row])
    assert verdicts(settings)["Faster than vLLM's defaults"] == "stale"
    warehouse.append([replace(row, model_version="base")])
    assert verdicts(settings)["Faster than vLLM's defaults"] == "met"
    warehouse.append([replace(row, model_version="base", workload="chat", low=0.1)])
    assert verdicts(settings)["Faster than vLLM's defaults"] == "missed"


def test_overload_that_fails_otherwise_than_by_a_429_is_missed(settings, run):
    warehouse = Warehouse(settings.home / "warehouse.duckdb")
    [row] = [row for row in results(run).rows() if row.part == "during"]
    warehouse.append([replace(row, failed=0)])
    assert verdicts(settings)["Overload is refused, not failed"] == "met"
    warehouse.append([replace(row, failed=1)])
    assert verdicts(settings)["Overload is refused, not failed"] == "missed"
    warehouse.append([replace(row, model_version="7")])
    assert verdicts(settings)["Overload is refused, not failed"] == "stale"


def test_the_question_on_which_annotators_agree_least_decides(settings):
    row = AgreementRow(
        study="s", question="clear", annotators="ada, bob", items=60, percent=0.9, kappa=0.5, alpha=0.5,
        alpha_low=0.3, alpha_high=0.7, ac2=0.8, ac2_low=0.7, ac2_high=0.9,
    )  # fmt: skip
    warehouse = Warehouse(settings.home / "warehouse.duckdb")
    warehouse.append([row, replace(row, annotators="ada", ac2_low=0.0)])
    assert verdicts(settings)["Annotators agree"] == "met"
    warehouse.append([replace(row, question="complete", ac2_low=0.39)])
    assert verdicts(settings)["Annotators agree"] == "missed"


def test_the_page_lists_the_criteria_with_their_targets_in_their_order():
    targets, _, measured = PAGE.read_text().partition("## What one home shows")
    table, rows = (
        [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
        for text in (targets, measured)
    )
    assert table[1:] == [[criterion.name, criterion.target] for criterion in CRITERIA]
    assert [row[1:3] for row in rows[2:]] == table[1:], "the example has a row of each"


def test_the_command_prints_every_row_and_is_strict_on_request(settings, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(settings.home))
    rows = json.loads(CliRunner().invoke(app, ["validate", "--json"]).stdout)
    assert [row["criterion"] for row in rows] == [criterion.name for criterion in CRITERIA]
    assert CliRunner().invoke(app, ["validate"]).stdout.count("not run") == len(CRITERIA)
    as_markdown = CliRunner().invoke(app, ["validate", "--markdown"]).stdout
    assert as_markdown.count("| not run |") == len(CRITERIA)
    assert "cores" in as_markdown.splitlines()[0], "the machine stands above the table"
    assert CliRunner().invoke(app, ["validate", "--strict"]).exit_code == 1
