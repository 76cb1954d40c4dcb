"""`ragtune prune`: what goes, what stays, and that a dry run changes nothing."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from ragtune.errors import ResourceError
from ragtune.model.training.tracking import MlflowTracker, RunRecord
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.home_lock import exclusive
from ragtune.store.mlflow_files import ASSET, PARENT, TRAINING
from ragtune.store.registry import ModelRegistry
from ragtune.store.retention import delete, disposable
from ragtune_assets.old_runs import delete_runs, old_runs
from ragtune_serving.cli import app
from tests.support.releases import released


@dataclass(frozen=True)
class Line:
    text: str


@pytest.fixture
def settings(tmp_path: Path, give_mlflow: Callable[[Path], None]) -> Settings:
    give_mlflow(tmp_path / "home")
    policy = {"models": 0, "artifacts": 1, "checkpoint_days": 1, "log_days": 1, "log_mib": 1}
    return load_settings({"home": tmp_path / "home", "retention": policy})


def age(path: Path, days: float) -> None:
    moment = time.time() - days * 24 * 3600
    for each in (path, *path.rglob("*")):
        os.utime(each, (moment, moment))


def built(settings: Settings, name: str, texts: list[str]) -> list[Path]:
    """Write artefacts one after the other, and return their folders, oldest first; the last one is current."""
    store, folders = ArtifactStore(settings.home / "artifacts"), []
    for number, text in enumerate(texts):
        ref = store.write_records(name, [Line(text)])
        store.set_current(ref)
        folders.append(store.folder(ref))
        age(folders[-1], len(texts) - number)
    return folders


def test_what_is_current_newest_or_needed_by_a_released_version_stays(settings):
    store = ArtifactStore(settings.home / "artifacts")
    needed = store.write_records("qa_splits", [Line("what version 1 was trained on")])
    age(store.folder(needed), 30)
    folders = built(settings, "qa_splits", ["old", "newer", "newest but one", "current"])
    cached = store.write_records("answers", [Line("kept by its inputs")])
    registry = ModelRegistry(settings)
    champion = released(settings.home, dataset_sha256=needed.sha256)
    registry.move("champion", registry.register(champion))
    paths = [item.path for item in disposable(settings)]
    assert paths == folders[:2]
    delete(settings, disposable(settings))
    assert [folder.exists() for folder in folders] == [False, False, True, True]
    assert store.folder(needed).exists()
    assert store.folder(cached).exists()
    assert champion.exists()
    assert disposable(settings) == []


def test_models_without_a_name_and_folders_without_a_version_go(settings):
    registry = ModelRegistry(settings)
    folders = [released(settings.home, weights=weights) for weights in (b"one", b"two", b"three")]
    for folder in folders:
        registry.move("champion", registry.register(folder))
    left_over = released(settings.home, weights=b"never registered")
    delete(settings, disposable(settings))
    assert [folder.exists() for folder in (*folders, left_over)] == [False, True, True, False]
    assert registry.rollback().folder == str(folders[1])


def test_runs_of_mlflow_go_when_they_are_old_but_not_those_about_a_kept_version(settings):
    from mlflow import MlflowClient

    def run(name: str, parent: str = "", training: str = "", asset: str = "") -> str:
        tags = {PARENT: parent, TRAINING: training, ASSET: asset}
        record = RunRecord({key: value for key, value in tags.items() if value}, {}, {"settings.yaml": b"seed: 17"})
        tracker = MlflowTracker(settings.tracking_url, settings.tracking.experiment, name, settings.run_files, record)
        run_id = tracker.start()
        tracker.end()
        return run_id

    dagster_run, evaluation = run("Dagster run 1"), run("Dagster run 2")
    training = run("training", dagster_run, asset="lora_adapter")
    scoring = run("scoring", evaluation, training, "eval_scores")
    base = run("base bf16", scoring, asset="scored_model")
    benchmark = run("retrieval", evaluation, asset="retrieval_scores")
    others = run("Dagster run 3")
    refused = run("refused", others, asset="lora_adapter")
    registry = ModelRegistry(settings)
    registry.move("champion", registry.register(released(settings.home, mlflow_run_id=training)))
    later = time.time() + 31 * 24 * 3600
    assert disposable(settings) == []
    gone = {item.run: item.path for item in disposable(settings, later)}
    assert gone.keys() == {benchmark, others, refused}
    assert all(path.is_dir() for path in gone.values())
    delete(settings, disposable(settings, later))
    client = MlflowClient(tracking_uri=settings.tracking_url)
    left = {one.info.run_id for one in client.search_runs(["1"])}
    assert left == {dagster_run, evaluation, training, scoring, base}
    assert not any(path.exists() for path in gone.values())


def test_old_logs_and_checkpoints_go_and_a_long_log_keeps_its_end(settings):
    logs, work = settings.home / "logs", settings.home / "work"
    for folder in (logs, work / "lora_adapter" / "checkpoint-20", work / "other"):
        folder.mkdir(parents=True)
    (work / "lora_adapter" / "checkpoint-20" / "weights").write_text("w")
    age(work / "lora_adapter", 3)
    (logs / "old.log").write_text("a line")
    age(logs / "old.log", 3)
    (logs / "gateway.log").write_text("first\n" + "x" * (2 << 20) + "last\n")
    (logs / "dagster.log").write_text("short")
    with (logs / "gateway.log").open("a") as still_open:
        delete(settings, disposable(settings))
        still_open.write("after\n")
    assert sorted(path.name for path in logs.iterdir()) == ["dagster.log", "gateway.log"]
    text = (logs / "gateway.log").read_text()
    assert len(text) == (1 << 20) + len("after\n")
    assert text.endswith("last\nafter\n")
    assert [path.name for path in work.iterdir()] == ["other"]


def test_a_dry_run_changes_nothing_and_a_build_is_not_disturbed(settings, monkeypatch, tmp_path):
    folders = built(settings, "chunks", ["one", "two", "three"])
    monkeypatch.setenv("RAGTUNE_HOME", str(settings.home))
    monkeypatch.setenv("RAGTUNE_RETENTION__ARTIFACTS", "1")
    monkeypatch.chdir(tmp_path)
    output = CliRunner().invoke(app, ["prune", "--dry-run"], catch_exceptions=False).stdout
    assert f"artifacts/chunks/{folders[0].name}: neither current" in output
    assert "1 thing (" in output
    assert all(folder.exists() for folder in folders)
    with exclusive(settings.home), pytest.raises(ResourceError, match="is already building"):
        delete(settings, disposable(settings))
    assert "are deleted" in CliRunner().invoke(app, ["prune"], catch_exceptions=False).stdout
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_old_runs_of_dagster_go_but_not_the_one_that_made_the_newest_version_of_an_asset(tmp_path):
    @dg.asset
    def built_once() -> None: ...

    @dg.asset
    def built_often() -> None: ...

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        job = dg.Definitions([built_once, built_often]).resolve_implicit_global_asset_job_def()
        runs = [
            job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(name)]).run_id
            for name in ("built_once", "built_often", "built_often")
        ]
        soon = datetime.now(UTC) + timedelta(seconds=1)
        assert old_runs(instance, soon - timedelta(days=1)) == []
        assert old_runs(instance, soon) == [runs[1]]
        (tmp_path / "storage" / runs[1]).mkdir(parents=True, exist_ok=True)
        delete_runs(instance, old_runs(instance, soon), tmp_path)
        assert {run.run_id for run in instance.get_runs()} == {runs[0], runs[2]}
        assert not (tmp_path / "storage" / runs[1]).exists()
        assert instance.get_latest_materialization_event(dg.AssetKey("built_often")).run_id == runs[2]
