"""Records training runs in MLflow; `Tracker` itself records nothing, for training without MLflow."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragtune.errors import RegistryError
from ragtune.store.mlflow_files import SCHEME, make_portable, store_files


class Tracker:
    """Records nothing; the null object and the interface of every tracker."""

    run_id = ""

    def start(self, run_id: str = "") -> str:
        """Start a run, or continue the given one if it still exists; return its id."""
        return run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the parameters of the run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers of one step."""

    def log_artifacts(self, folder: Path, name: str = "adapter") -> None:
        """Store a copy of the folder with the run, under this name."""

    def end(self, failed: bool = False) -> None:
        """Close the run."""


class MlflowTracker(Tracker):
    """Records in an MLflow server or database.

    Files go to the folder `artifacts`, which MLflow knows by a relative name; None leaves them to the server.
    """

    def __init__(
        self, url: str, experiment: str, run_name: str, artifacts: Path | None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.url, self.experiment, self.run_name = url, experiment, run_name
        self.artifacts, self.tags = artifacts, dict(tags or {})
        self._client: Any = None

    def start(self, run_id: str = "") -> str:
        """Start a run in the experiment or reopen the given one; raise RegistryError if MLflow refuses."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if self.url.startswith("sqlite:///"):
            Path(self.url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        try:
            make_portable(self.url)
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
        """Record parameters that the run does not have yet: MLflow refuses to change one."""
        from mlflow.entities import Param

        existing = self._client.get_run(self.run_id).data.params
        new = [Param(key, str(value)) for key, value in params.items() if key not in existing]
        self._client.log_batch(self.run_id, params=new)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers of one step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(k, v, now, step) for k, v in metrics.items()])

    def log_artifacts(self, folder: Path, name: str = "adapter") -> None:
        """Store a copy of the folder with the run, under this name."""
        uri = self._client.get_run(self.run_id).info.artifact_uri
        if self.artifacts is not None and uri.startswith(SCHEME):
            store_files(folder, uri, name, self.artifacts)
        else:
            self._client.log_artifacts(self.run_id, str(folder), name)

    def attach(self, run_id: str, folder: Path, name: str) -> bool:
        """Store a copy of the folder with a run that may be finished; return whether there is such a run."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._client = MlflowClient(tracking_uri=self.url)
        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self.run_id = run_id
        self.log_artifacts(folder, name)
        return True

    def end(self, failed: bool = False) -> None:
        """Close the run as finished or failed."""
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self.experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        if self.artifacts is None:
            return str(self._client.create_experiment(self.experiment))
        return str(self._client.create_experiment(self.experiment, artifact_location=SCHEME))
