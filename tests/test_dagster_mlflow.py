"""Where dagster-mlflow's resource and hook hold up, and where they do not: the cases behind docs/decisions."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ragtune.model.training.tracking import MlflowTracker
from ragtune.settings import child_environment, load_settings
from tests.support.hooked_job import EXPERIMENT, hooked_asset, hooked_resource

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def home(tmp_path: Path, give_mlflow) -> Path:
    give_mlflow(tmp_path)
    settings = load_settings({"home": tmp_path})
    MlflowTracker(settings.tracking_url, EXPERIMENT, "", settings.run_files).experiment_id()
    return tmp_path


def client_of(home: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=load_settings({"home": home}).tracking_url)


def materialize(home: Path, *assets: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    resources = {"mlflow": hooked_resource(load_settings({"home": home}).tracking_url)}
    return dg.materialize(list(assets), resources=resources, raise_on_error=False)


def statuses(home: Path, dagster_run: str, experiment: str = EXPERIMENT) -> list[str]:
    client = client_of(home)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], f"tags.dagster_run_id = '{dagster_run}'")
    return [run.info.status for run in runs]


def test_the_hook_ends_a_run_whose_last_asset_has_it(home: Path) -> None:
    done = materialize(home, hooked_asset("first"), hooked_asset("second"))
    assert statuses(home, done.run_id) == ["FINISHED"]


def test_the_hook_leaves_a_run_open_whose_last_asset_lacks_it_and_the_next_run_takes_it_over(home: Path) -> None:
    @dg.asset(deps=["first"])
    def untracked() -> None: ...

    done = materialize(home, hooked_asset("first"), untracked)
    assert done.success
    assert statuses(home, done.run_id) == ["RUNNING"]

    following = materialize(home, hooked_asset("first"))
    assert statuses(home, done.run_id) == [], "the second run of Dagster has put its own id on the run of the first"
    assert statuses(home, following.run_id) == ["FINISHED"]


def test_the_hook_calls_a_failed_run_finished_and_ours_calls_it_failed(home: Path) -> None:
    (home / "dagster_home").mkdir()
    (home / "dagster_home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.hooked_job"],
        env=child_environment(DAGSTER_HOME=str(home / "dagster_home"), PYTHONWARNINGS="ignore"),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = {name: (run_id, success) for name, run_id, success in map(str.split, done.stdout.splitlines()[-2:])}
    assert {success for _, success in outcome.values()} == {"False"}
    assert statuses(home, outcome["hooked_job"][0]) == ["FINISHED"], "dagster-mlflow learnt it; use its hook then"
    assert statuses(home, outcome["tracked_job"][0], "ragtune") == ["FAILED"]
