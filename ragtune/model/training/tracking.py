"""Records runs in MLflow; `Tracker` itself records nothing, for training without MLflow."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ragtune.errors import RegistryError
from ragtune.store.artifacts import write_atomically
from ragtune.store.mlflow_files import SCHEME, make_portable, store_files

_BATCH, _LONGEST = 100, 6000
"""Parameters of one request, and characters of a value: MLflow's own limits."""
_SAMPLE_SECONDS = 5
"""Seconds between two measurements of processor, memory, disk and GPU. MLflow's default is 10; many runs are short."""
_TABLES = "mlflow.loggedArtifacts"
"""The tag by which MLflow's pages know which files are tables, to show them next to those of other runs."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run when it starts: tags, parameters, and files by name."""

    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def with_files(record: RunRecord, files: Mapping[str, bytes]) -> RunRecord:
    """Return the record with further files."""
    return replace(record, files={**record.files, **files})


class Tracker:
    """Records nothing; the null object and the interface of every tracker."""

    run_id = ""

    def start(self, run_id: str = "") -> str:
        """Start a run, or continue the given one if it still exists; return its id."""
        return run_id

    def open(self, run_id: str) -> bool:
        """Write to this run from now on, even if it has finished; return whether it exists."""
        return not run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the parameters of the run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers of one step."""

    def log_artifacts(self, folder: Path, name: str = "adapter") -> None:
        """Store a copy of the folder with the run, under this name."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Store a table with the run, under this name without an ending."""

    def end(self, failed: bool = False) -> None:
        """Close the run."""

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Close the run at the end of a `with` block, as failed if the block raises, even on an interrupt."""
        try:
            yield
        except BaseException:
            self.end(failed=True)
            raise
        self.end()


class MlflowTracker(Tracker):
    """Records in an MLflow server or database.

    Files go to the folder `artifacts`, which MLflow knows by a relative name; None leaves them to the server. The
    `record` is stored when the run starts. While it runs, MLflow measures processor, memory, disk and GPU.
    """

    def __init__(
        self, url: str, experiment: str, run_name: str, artifacts: Path | None, record: RunRecord | None = None
    ) -> None:
        self.url, self.experiment, self.run_name = url, experiment, run_name
        self.artifacts, self.record = artifacts, record or RunRecord()
        self._client: Any = None
        self._monitor: Any = None

    def start(self, run_id: str = "") -> str:
        """Start a run in the experiment or reopen the given one; raise RegistryError if MLflow refuses."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        experiment_id = self.experiment_id()
        if run_id and self.open(run_id) and self._client.get_run(run_id).info.lifecycle_stage == "active":
            self._client.update_run(run_id, status="RUNNING")
        else:
            self.run_id = self._client.create_run(experiment_id, run_name=self.run_name).info.run_id
        self.describe(self.record)
        self._monitor = SystemMetricsMonitor(self.run_id, _SAMPLE_SECONDS, resume_logging=True, tracking_uri=self.url)
        self._monitor.start()
        return self.run_id

    def open(self, run_id: str) -> bool:
        """Write to this run from now on, even if it has finished; return whether it exists."""
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
        return True

    def describe(self, record: RunRecord) -> None:
        """Store tags, parameters and files with the run."""
        self.set_tags(record.tags)
        self.log_params(record.params)
        for name, content in record.files.items():
            self.log_file(name, content)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters that the run does not have yet: MLflow refuses to change one."""
        from mlflow.entities import Param

        existing = self._client.get_run(self.run_id).data.params
        new = [Param(key, str(value)[:_LONGEST]) for key, value in params.items() if key not in existing]
        for start in range(0, len(new), _BATCH):
            self._client.log_batch(self.run_id, params=new[start : start + _BATCH])

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

    def log_file(self, name: str, content: bytes) -> None:
        """Store a file with the run; `name` is its path among the files of the run."""
        uri = self._client.get_run(self.run_id).info.artifact_uri
        if self.artifacts is not None and uri.startswith(SCHEME):
            write_atomically(self.artifacts / uri.removeprefix(SCHEME) / name, content)
            return
        path = PurePosixPath(name)
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, path.name).write_bytes(content)
            folder = "" if path.parent == PurePosixPath() else str(path.parent)
            self._client.log_artifact(self.run_id, str(Path(scratch, path.name)), folder)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Store a table as JSON, in the form that MLflow's pages show next to tables of other runs."""
        file = f"{name}.json"
        self.log_file(file, json.dumps({"columns": list(columns), "data": [list(row) for row in rows]}).encode())
        tables = json.loads(self._client.get_run(self.run_id).data.tags.get(_TABLES, "[]"))
        entry = {"path": file, "type": "table"}
        self.set_tags({_TABLES: json.dumps([*(table for table in tables if table != entry), entry])})

    def attach(self, run_id: str, folder: Path, name: str) -> bool:
        """Store a copy of the folder with a run that may be finished; return whether there is such a run."""
        if not self.open(run_id):
            return False
        self.log_artifacts(folder, name)
        return True

    def end(self, failed: bool = False) -> None:
        """Close the run as finished or failed."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")

    def experiment_id(self) -> str:
        """Return the id of the experiment, which is made if there is none; files of its runs are named relatively.

        Raises RegistryError if MLflow refuses.
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if self.url.startswith("sqlite:///"):
            Path(self.url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        try:
            make_portable(self.url)
            self._client = MlflowClient(tracking_uri=self.url)
            experiment = self._client.get_experiment_by_name(self.experiment)
            if experiment is not None:
                return str(experiment.experiment_id)
            place = None if self.artifacts is None else SCHEME
            return str(self._client.create_experiment(self.experiment, artifact_location=place))
        except MlflowException as error:
            raise RegistryError(
                f"MLflow at {self.url} refuses a run: {error}", fix="check tracking.url and that the server runs"
            ) from error
