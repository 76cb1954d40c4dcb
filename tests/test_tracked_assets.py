"""Assets that train, quantise, evaluate and benchmark are runs of MLflow below one parent for each run of Dagster."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import dagster as dg
import pytest
import yaml

from ragtune.answer.prompt import prompt_sha256
from ragtune.errors import RagTuneError
from ragtune.records import AnswerSet, BenchmarkRow
from ragtune_assets.run_logs import log_benchmarks
from ragtune_assets.tracking import AssetTracking, Computed
from tests.support.measured_candidate import answers, benchmark
from tests.support.tracked_home import TrackedHome


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, give_mlflow) -> tuple[TrackedHome, str]:
    """A home whose adapter is trained and merged, and the Dagster run that trained it."""
    folder = tmp_path_factory.mktemp("trained")
    give_mlflow(folder)
    home = TrackedHome(folder, index={"api_key": "hunter2"}, feedback={"url": "postgresql+psycopg://ada:s3cret@db/x"})
    dagster_run = home.run("lora_adapter")
    home.run("preference_adapter")
    home.run("merged_model")
    return home, dagster_run


def test_a_training_is_a_child_of_the_run_of_its_dagster_run_and_both_link_to_each_other(trained) -> None:
    home, dagster_run = trained
    run = home.newest("lora_adapter")
    parent = home.client.get_run(run.data.tags["mlflow.parentRunId"])
    assert (run.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert run.data.tags["dagster_run_id"] == parent.data.tags["dagster_run_id"] == dagster_run
    assert parent.info.run_name == f"Dagster run {dagster_run[:8]}"
    assert f"/runs/{dagster_run}" in run.data.tags["mlflow.note.content"]
    event = home.instance.get_latest_materialization_event(dg.AssetKey("lora_adapter"))
    assert event.run_id == dagster_run
    assert event.asset_materialization.metadata["mlflow run"].value.endswith(f"/#/runs/{run.info.run_id}")
    assert home.instance.get_run_by_id(dagster_run).tags["ragtune/mlflow_run"] == parent.info.run_id


def test_a_run_holds_whatever_it_takes_to_repeat_it(trained) -> None:
    home, _ = trained
    run = home.newest("lora_adapter")
    params = run.data.params
    assert (params["training.rank"], params["seed"], params["dataset.judge.least"]) == ("4", "17", "0.5")
    assert params["training.start_from"] == ""
    for name in ("base_model", "qa_splits", "chunks", "replay_questions"):
        assert params[f"data.{name}"] == home.ref(name).sha256
    assert params["code.prompt"] == prompt_sha256()
    assert params["code.embedder"] == "minilm"
    assert "cores" in params["code.hardware"]
    assert run.data.tags["ragtune.result"] == home.ref("lora_adapter").sha256
    assert run.data.tags.get("mlflow.source.git.commit", "not a checkout") == params["code.commit"]
    assert len(run.data.tags["ragtune.code_version"]) > 10
    files = home.files(run.info.run_id)
    assert yaml.safe_load((files / "settings.yaml").read_text())["training"]["learning_rate"] == 0.01
    assert any(line.startswith("torch==") for line in (files / "packages.txt").read_text().splitlines())
    assert {path.name for path in (files / "adapter").iterdir()} >= {"adapter_model.safetensors", "report.json"}


def test_no_secret_reaches_mlflow(trained) -> None:
    home, _ = trained
    everything = [path.read_bytes() for path in (home.settings.home / "mlflow").rglob("*") if path.is_file()]
    assert not any(secret in content for content in everything for secret in (b"hunter2", b"s3cret"))
    shown = yaml.safe_load((home.files(home.newest("merged_model").info.run_id) / "settings.yaml").read_text())
    assert shown["index"]["api_key"] == "**********"
    assert shown["feedback"]["url"] == "postgresql+psycopg://**********@db/x"


def test_a_run_holds_the_curves_of_its_training(trained) -> None:
    home, _ = trained
    run_id = home.newest("lora_adapter").info.run_id
    assert [m.step for m in home.client.get_metric_history(run_id, "loss")] == list(range(1, 13))
    assert len(home.client.get_metric_history(run_id, "learning_rate")) == 12


def test_each_dagster_run_has_a_parent_of_its_own_and_what_follows_names_the_training(trained) -> None:
    home, dagster_run = trained
    training, merging = home.newest("lora_adapter"), home.newest("merged_model")
    assert merging.data.tags["dagster_run_id"] != dagster_run
    assert merging.data.tags["mlflow.parentRunId"] != training.data.tags["mlflow.parentRunId"]
    assert merging.data.tags["ragtune.training_run"] == training.info.run_id
    assert "ragtune.training_run" not in training.data.tags
    assert merging.data.metrics["bytes/bf16"] > 0
    assert home.runs("attributes.status = 'RUNNING'") == []


def test_models_are_ranked_by_the_same_metrics_with_intervals(trained) -> None:
    home, _ = trained
    version = home.ref("merged_model").sha256[:12]
    evaluated = [
        AnswerSet("base", "bf16", "base", "test", tuple(answers(0.4))),
        AnswerSet("fine-tuned", "bf16", version, "test", tuple(answers(0.7))),
        AnswerSet("fine-tuned", "w8a8", version, "test", tuple(answers(0.65))),
    ]
    ref = home.store.write_records("eval_answers", evaluated)
    home.store.set_current(ref)
    # What eval_answers would have logged about its result.
    merging = home.newest("merged_model")
    home.client.set_tag(merging.info.run_id, "ragtune.result", ref.sha256)

    home.run("eval_scores")

    scoring = home.newest("eval_scores")
    models = home.runs(f"tags.mlflow.parentRunId = '{scoring.info.run_id}'")
    values = {run.info.run_name: run.data.metrics["test/token_f1"] for run in models}
    means = [fmean(answer.metrics["token_f1"] for answer in one.answers) for one in evaluated]
    assert values == pytest.approx(dict(zip(["base bf16", "fine-tuned bf16", "fine-tuned w8a8"], means, strict=True)))
    for run in models:
        metrics = run.data.metrics
        assert metrics["test/token_f1/low"] < metrics["test/token_f1"] < metrics["test/token_f1/high"]
        assert metrics["test/token_f1/n"] == 48
        assert run.data.params["data.eval_answers"] == ref.sha256
        table = json.loads((home.files(run.info.run_id) / "answers.json").read_text())
        assert (len(table["data"]), table["columns"][:2]) == (48, ["split", "pair_id"])
        assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "answers.json", "type": "table"}]
    trained_by = {run.info.run_name: run.data.tags.get("ragtune.training_run") for run in models}
    training = home.newest("lora_adapter")
    assert trained_by["fine-tuned w8a8"] == training.info.run_id
    assert trained_by["base bf16"] is None
    assert training.data.metrics["test/token_f1"] == pytest.approx(means[2]), "the precision that is served"


def test_a_benchmark_logs_its_numbers(trained) -> None:
    home, _ = trained
    ref = home.store.write_records("benchmark_runs", [benchmark(1, 520.0), replace(benchmark(8, 1900.0), errors=1)])
    tracking = AssetTracking(home.settings, home.store, "d1", "")
    with tracking.run("benchmark_runs", "1", {}):
        log_benchmarks(Computed(tracking, {}, ref))
    metrics = home.client.get_run(tracking.child.run_id).data.metrics
    assert metrics["w8a8/1_at_once/p50_ms"] == 520.0
    assert metrics["w8a8/8_at_once/tokens_per_second"] == 60.0
    assert metrics["w8a8/8_at_once/errors"] == 1.0
    assert home.store.read_records(ref, BenchmarkRow)[0].hardware


def test_a_failed_asset_is_a_failed_run_below_a_failed_parent(tmp_path: Path, give_mlflow) -> None:
    give_mlflow(tmp_path)
    home = TrackedHome(tmp_path)
    home.run("lora_adapter")
    home.run("preference_adapter")
    (home.store.folder(home.ref("preference_adapter")) / "adapter_model.safetensors").unlink()
    with pytest.raises(RagTuneError, match=r"holds no adapter_model\.safetensors"):
        home.run("merged_model")
    failed = home.newest("merged_model")
    parent = home.client.get_run(failed.data.tags["mlflow.parentRunId"])
    assert (failed.info.status, parent.info.status) == ("FAILED", "FAILED")


def test_runs_that_a_killed_process_left_running_are_ended_by_the_next_one(tmp_path: Path, give_mlflow) -> None:
    give_mlflow(tmp_path)
    home = TrackedHome(tmp_path)
    tracking = AssetTracking(home.settings, home.store, "killed", "")
    killed, alive, foreign = (tracking.tracker(name) for name in ("killed", "alive", "foreign"))
    for tracker, dagster_run in ((killed, "r-killed"), (alive, "r-alive"), (foreign, "")):
        tracker.start()
        tracker.set_tags({"dagster_run_id": dagster_run} if dagster_run else {})
    for run_id, status in (("r-killed", dg.DagsterRunStatus.FAILURE), ("r-alive", dg.DagsterRunStatus.STARTED)):
        home.instance.add_run(dg.DagsterRun(job_name="build", run_id=run_id, status=status))

    home.run("lora_adapter")

    states = [home.client.get_run(tracker.run_id).info.status for tracker in (killed, alive, foreign)]
    assert states == ["KILLED", "RUNNING", "RUNNING"]
    for tracker in (killed, alive, foreign):
        tracker.end()


def test_processor_and_memory_are_measured_while_a_run_goes_on(tmp_path: Path, give_mlflow, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    give_mlflow(tmp_path)
    home = TrackedHome(tmp_path)
    home.run("lora_adapter")
    metrics = home.newest("lora_adapter").data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in metrics
