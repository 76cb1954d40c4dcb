"""Where a training run is written down: MLflow, or nowhere for whoever passes the null object."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragtune.errors import RegistryError


class Tracker:
    """Writes nothing; the null object and the shape of every tracker."""

    run_id = ""

    def start(self, run_id: str = "") -> str:
        """Begin a run, or go on with the given one where it still exists; return its id."""
        return run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write down what the run was given."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Write down numbers at a step."""

    def log_artifacts(self, folder: Path) -> None:
        """Keep a copy of the folder with the run."""

    def end(self, failed: bool = False) -> None:
        """Close the run."""


class MlflowTracker(Tracker):
    """Writes to an MLflow server or database.

    Artefacts go below `artifacts` when it makes the experiment; None leaves them to the server.
    """

    def __init__(
        self, url: str, experiment: str, run_name: str, artifacts: Path | None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.url, self.experiment, self.run_name = url, experiment, run_name
        self.artifacts, self.tags = artifacts, dict(tags or {})
        self._client: Any = None

    def start(self, run_id: str = "") -> str:
        """Begin a run in the experiment or reopen the given one; raise RegistryError when MLflow refuses."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if self.url.startswith("sqlite:///"):
            Path(self.url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._client = MlflowClient(tracking_uri=self.url)
            experiment_id = self._experiment_id()
            if run_id and run_id in {run.info.run_id for run in self._client.search_runs([experiment_id])}:
                self._client.update_run(run_id, status="RUNNING")
                self.run_id = run_id
            else:
                run = self._client.create_run(experiment_id, tags=self.tags, run_name=self.run_name)
                self.run_id = run.info.run_id
        except MlflowException as error:
            raise RegistryError(
                f"MLflow at {self.url} refuses a run: {error}", fix="check tracking.url and that the server runs"
            ) from error
        return self.run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write down what the run was given; a parameter that is there already stays."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        new = [Param(key, str(value)) for key, value in params.items() if key not in known]
        self._client.log_batch(self.run_id, params=new)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Write down numbers at a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(k, v, now, step) for k, v in metrics.items()])

    def log_artifacts(self, folder: Path) -> None:
        """Keep a copy of the folder with the run."""
        self._client.log_artifacts(self.run_id, str(folder), "adapter")

    def end(self, failed: bool = False) -> None:
        """Close the run as finished or failed."""
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        if self.artifacts is None:
            return str(self._client.create_experiment(self.experiment))
        self.artifacts.mkdir(parents=True, exist_ok=True)
        return str(self._client.create_experiment(self.experiment, artifact_location=self.artifacts.resolve().as_uri()))
