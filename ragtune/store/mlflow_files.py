"""Where MLflow keeps the files of runs: below the home and named relative to it, so that a home can be moved.

MLflow stores the place of a run's files as an absolute URL. A copy of the home would then write to the original and
delete from it. URLs of the scheme `mlflow-artifacts` have no folder: the MLflow server of a home adds its own, and the
tracker writes into it.
"""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

from ragtune.settings import Settings

SCHEME = "mlflow-artifacts:/"
ASSET, TRAINING, PARENT = "ragtune.asset", "ragtune.training_run", "mlflow.parentRunId"
"""Tags: the asset that a run computed, the run that trained the model behind it, and MLflow's own for the run above."""
_PAGE = 1000
"""Runs of one request; MLflow's largest is 50,000."""
_OLD_FOLDER = "/mlflow/runs"
"""What the stored places ended with before they were relative."""
_PORTABLE = (
    # Experiments of ours, and those without runs: MLflow's own first one lies in the folder where the process ran.
    f"UPDATE experiments SET artifact_location = '{SCHEME}' WHERE artifact_location LIKE 'file:%{_OLD_FOLDER}'",
    f"UPDATE experiments SET artifact_location = '{SCHEME}' || experiment_id "
    "WHERE (artifact_location LIKE 'file:%' OR artifact_location LIKE '/%' OR artifact_location LIKE './%') "
    "AND experiment_id NOT IN (SELECT experiment_id FROM runs)",
    f"UPDATE runs SET artifact_uri = '{SCHEME}' || "
    f"substr(artifact_uri, instr(artifact_uri, '{_OLD_FOLDER}/') + {len(_OLD_FOLDER) + 1}) "
    f"WHERE artifact_uri LIKE 'file:%{_OLD_FOLDER}/%'",
)


def make_portable(url: str) -> None:
    """Make the places of files in a home's MLflow database relative, as earlier versions did not.

    `url` is the tracking URL. Nothing happens if it is not a SQLite file that exists.
    """
    file = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not file.is_file():
        return
    connection = sqlite3.connect(file, timeout=15)
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if {"experiments", "runs"} <= tables:
            with connection:
                for statement in _PORTABLE:
                    connection.execute(statement)
    finally:
        connection.close()


def store_files(folder: Path, artifact_uri: str, name: str, files: Path) -> None:
    """Copy a folder to the files of a run, as `name`; `files` is the folder that the scheme stands for."""
    shutil.copytree(folder, files / artifact_uri.removeprefix(SCHEME) / name, dirs_exist_ok=True)


def search_runs(client: Any, experiment_id: str, condition: str = "", limit: int = 0) -> list[Any]:
    """Return the runs that fulfil the condition, the newest first; a limit of 0 returns all of them."""
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=limit or _PAGE, page_token=token)
        runs += page
        token = page.token
        if not token or (limit and len(runs) >= limit):
            return runs


def runs_about(runs: list[Any], training: set[str]) -> set[str]:
    """Return the ids of the runs that belong to these trainings: with what measured their models, above and below.

    A run above holds what one run of Dagster did. One needed run below it is enough to keep it, without the others.
    """
    about = {
        run.info.run_id for run in runs if run.info.run_id in training or run.data.tags.get(TRAINING, "") in training
    }
    below = {run.info.run_id for run in runs if run.data.tags.get(PARENT, "") in about}
    above = {run.data.tags.get(PARENT, "") for run in runs if run.info.run_id in about}
    return about | below | above


def delete_run(settings: Settings, run_id: str) -> Path:
    """Mark a run as deleted in MLflow, delete its files in the home, and return the folder that they had."""
    from mlflow import MlflowClient

    assert settings.run_files is not None
    MlflowClient(tracking_uri=settings.tracking_url).delete_run(run_id)
    folder = settings.run_files / run_id
    shutil.rmtree(folder, ignore_errors=True)
    return folder
