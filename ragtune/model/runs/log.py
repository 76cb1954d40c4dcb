"""Reads tracked runs back from MLflow: lists them, finds one by the start of its id, opens its files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ragtune.errors import ExperimentError
from ragtune.model.runs.record import REPEATS
from ragtune.model.runs.scored import PRECISION
from ragtune.settings import Settings
from ragtune.store.mlflow_files import ASSET, PARENT, SCHEME, TRAINING, search_runs

TRAINED, PREFERRED, SCORED = "lora_adapter", "preference_adapter", "scored_model"
"""Kinds of runs: those that trained an adapter by SFT and by preferences, and one with the scores of one model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """A run as MLflow has it. Times are in UTC and seconds; `asset` is "" for the parent of a Dagster run."""

    id: str
    name: str
    asset: str
    status: str
    started_at: str
    seconds: float
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    files: str

    @property
    def short_id(self) -> str:
        """The first digits of the id, which are enough for commands."""
        return self.id[:8]

    @property
    def training_run(self) -> str:
        """The id of the run that trained the model that this run is about; "" if it is about none."""
        return self.id if self.asset == TRAINED else self.tags.get(TRAINING, "")


class RunLog:
    """The tracked runs of a home."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def runs(self, asset: str = "", condition: str = "", limit: int = 0) -> list[LoggedRun]:
        """Return the runs that MLflow has, the newest first.

        Args:
            asset: only runs of this asset; "" are those of all assets.
            condition: a further condition in MLflow's language.
            limit: the most that are returned; 0 are all.
        """
        client = self._client()
        experiment = client.get_experiment_by_name(self.settings.tracking.experiment) if client else None
        if client is None or experiment is None:
            return []
        of_asset = f"tags.`{ASSET}` = '{asset}'" if asset else f"tags.`{ASSET}` != ''"
        condition = " and ".join(part for part in (of_asset, condition) if part)
        return [_logged(run) for run in search_runs(client, experiment.experiment_id, condition, limit)]

    def run(self, start: str) -> LoggedRun:
        """Return the run whose id starts with these digits; raise ExperimentError unless there is exactly one."""
        client = self._client()
        experiment = client.get_experiment_by_name(self.settings.tracking.experiment) if client else None
        digits = start.strip().lower()
        if client is not None and experiment is not None and digits and digits.isalnum():
            condition = f"attributes.run_id LIKE '{digits}%'"
            page = client.search_runs([experiment.experiment_id], condition, max_results=5)
            if len(page) == 1:
                return _logged(page[0])
            if page:
                raise ExperimentError(
                    f"The ids of several runs start with '{start}': {', '.join(run.info.run_id for run in page)}.",
                    fix="name more digits",
                )
        raise ExperimentError(
            f"No tracked run has an id that starts with '{start}'.",
            "the id of a run, or its first digits",
            "`ragtune experiments list --all` shows them; A/B tests on users are `ragtune experiment`",
        )

    def below(self, run: LoggedRun) -> list[LoggedRun]:
        """Return the runs below this one, the newest first."""
        return self.runs(condition=f"tags.{PARENT} = '{run.id}'")

    def scored(self, run: LoggedRun) -> dict[str, LoggedRun]:
        """Return the newest scores of the model that this run is about, by precision; empty if it was not scored."""
        if run.asset == SCORED:
            return {run.tags[PRECISION]: run}
        if not run.training_run:
            return {}
        newest: dict[str, LoggedRun] = {}
        for scored in self.runs(SCORED, f"tags.`{TRAINING}` = '{run.training_run}'"):
            newest.setdefault(scored.tags[PRECISION], scored)
        return newest

    def repetitions(self, run: LoggedRun) -> list[LoggedRun]:
        """Return the runs that repeated this one."""
        return self.runs(condition=f"tags.`{REPEATS}` = '{run.id}'")

    def file(self, run: LoggedRun, name: str) -> bytes:
        """Return a file of a run; raise ExperimentError if it has none of this name."""
        with self.path(run, name) as path:
            return path.read_bytes()

    @contextmanager
    def path(self, run: LoggedRun, name: str) -> Iterator[Path]:
        """Yield the place of a file or folder of a run; what a server keeps is fetched, and removed afterwards.

        Raises ExperimentError if the run has none of this name.
        """
        if self.settings.run_files is not None and run.files.startswith(SCHEME):
            place = self.settings.run_files / run.files.removeprefix(SCHEME) / name
            if not place.exists():
                raise _no_file(run, name)
            yield place
            return
        from mlflow.exceptions import MlflowException

        with TemporaryDirectory() as scratch:
            try:
                place = Path(self._client().download_artifacts(run.id, name, scratch))
            except (MlflowException, OSError) as error:
                raise _no_file(run, name) from error
            yield place

    def _client(self) -> Any:
        """Return MLflow's client, or None if the home has no database yet: reading must not make one."""
        from mlflow import MlflowClient

        url = self.settings.tracking_url
        if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
            return None
        return MlflowClient(tracking_uri=url)


def _no_file(run: LoggedRun, name: str) -> ExperimentError:
    return ExperimentError(
        f"Run {run.short_id} has no file '{name}'.",
        "a run that this version of RagTune tracked to its end, whose files were not deleted",
    )


def _logged(run: Any) -> LoggedRun:
    info, data = run.info, run.data
    end = info.end_time or info.start_time
    return LoggedRun(
        id=info.run_id,
        name=info.run_name,
        asset=data.tags.get(ASSET, ""),
        status=info.status,
        started_at=datetime.fromtimestamp(info.start_time / 1000, UTC).isoformat(timespec="seconds"),
        seconds=(end - info.start_time) / 1000,
        params=data.params,
        metrics=data.metrics,
        tags=data.tags,
        files=info.artifact_uri,
    )
