"""MLflow runs of assets: one parent for each run of Dagster, and below it one for each asset that is tracked.

The parent comes from dagster-mlflow's resource, which finds it again in every process of the Dagster run. Its hook
is not used: docs/decisions/dagster-mlflow.md says why, and `end_runs` does what it should do.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Literal

import dagster as dg

from ragtune.model.runs.log import TRAINED
from ragtune.model.runs.record import DAGSTER_RUN, RESULT, run_record
from ragtune.model.training.tracking import MlflowTracker, RunRecord
from ragtune.records import ArtifactRef
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.mlflow_files import ASSET, PARENT, TRAINING

RESOURCE = "tracking"
PARENT_TAG = "ragtune/mlflow_run"
"""Tag of a Dagster run: the id of its run in MLflow."""
_OPEN: dict[str, Settings] = {}
"""Settings by Dagster run, for those whose parent this process opened. MLflow keeps it as the process's active run."""


Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run of MLflow ended."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a tracked asset computed, for the function that logs its numbers: the inputs by name, and the result."""

    tracking: "AssetTracking"
    inputs: Mapping[str, Any]
    result: ArtifactRef

    @property
    def store(self) -> ArtifactStore:
        """The artefact store, from which inputs and result are read."""
        return self.tracking.store


class AssetTracking:
    """The MLflow runs of one Dagster run: the parent, and the current child.

    `child` is the tracker of the asset that is being computed. Its run is started, except for an asset that starts it
    itself, because it continues an earlier run.
    """

    def __init__(self, settings: Settings, store: ArtifactStore, dagster_run_id: str, parent: str) -> None:
        self.settings, self.store, self.dagster_run_id, self.parent = settings, store, dagster_run_id, parent
        self.child = self.tracker("")

    def tracker(self, name: str, record: RunRecord | None = None) -> MlflowTracker:
        """Return a tracker in the experiment of the settings, whose run is not started yet."""
        settings = self.settings
        return MlflowTracker(settings.tracking_url, settings.tracking.experiment, name, settings.run_files, record)

    @contextmanager
    def run(self, asset: str, code_version: str, inputs: Mapping[str, Any], starts: bool = True) -> Iterator[None]:
        """Track what happens in the block as a child run of this asset."""
        data = [value for value in inputs.values() if isinstance(value, ArtifactRef)]
        index = self.store.current("search_index")
        if index is not None and "search_index" not in inputs:
            data.append(index)  # assets read the index itself, not its reference
        page = f"http://127.0.0.1:{self.settings.ports.dagster}"
        tags = {
            PARENT: self.parent,
            DAGSTER_RUN: self.dagster_run_id,
            ASSET: asset,
            "ragtune.code_version": code_version,
            "mlflow.note.content": f"[Asset]({page}/assets/{asset}) in [Dagster]({page}/runs/{self.dagster_run_id})",
        }
        if training := self.training_run(data):
            tags[TRAINING] = training
        self.child = self.tracker(asset, run_record(self.settings, data, tags))
        if starts:
            self.child.start()
        with self.child.ending() if starts else nullcontext():
            yield

    def training_run(self, data: list[ArtifactRef]) -> str:
        """Return the id of the run that trained the model behind these artefacts, or "" if none did."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.settings.tracking_url)
        experiment = client.get_experiment_by_name(self.settings.tracking.experiment)
        for ref in data if experiment else ():
            condition = f"tags.`{RESULT}` = '{ref.sha256}'"
            for run in client.search_runs([experiment.experiment_id], condition, max_results=1):
                tags = run.data.tags
                if found := tags.get(TRAINING) or (run.info.run_id if tags.get(ASSET) == TRAINED else ""):
                    return str(found)
        return ""


def resource(settings: Settings, store: ArtifactStore) -> dg.ResourceDefinition:
    """Return the resource `tracking`: MLflow is imported, and the parent run opened, when a step first asks for it."""

    def open_runs(context: dg.InitResourceContext) -> Iterator[AssetTracking]:
        assert context.run is not None
        run_id = context.run.run_id
        tracking = AssetTracking(settings, store, run_id, "")
        # dagster-mlflow would make an experiment whose files lie in the current folder.
        parent = tracking.tracker("")
        experiment_id = parent.experiment_id()
        if context.instance is not None:
            _end_dead_runs(context.instance, settings, experiment_id)
        with warnings.catch_warnings():
            # dagster-mlflow is in beta, and asks Dagster for the run by a deprecated name.
            warnings.simplefilter("ignore", dg.BetaWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            from dagster_mlflow import mlflow_tracking
            from mlflow import active_run, end_run

            while active_run() is not None:  # of a Dagster run that nobody ended; the resource would write into it
                end_run()
            open_parent: Any = mlflow_tracking.resource_fn
            opened = open_parent(context.replace_config(_dagster_mlflow_config(settings, run_id)))
            next(opened)
        _OPEN[run_id] = settings
        tracking.parent = active_run().info.run_id
        if context.instance is not None:
            context.instance.add_run_tags(run_id, {PARENT_TAG: tracking.parent})
        parent.open(tracking.parent)
        parent.describe(run_record(settings))
        yield tracking
        next(opened, None)

    return dg.ResourceDefinition(open_runs)


def _dagster_mlflow_config(settings: Settings, dagster_run_id: str) -> dict[str, Any]:
    """Return the configuration of dagster-mlflow's resource."""
    link = f"[Dagster](http://127.0.0.1:{settings.ports.dagster}/runs/{dagster_run_id})"
    return {
        "experiment_name": settings.tracking.experiment,
        "mlflow_tracking_uri": settings.tracking_url,
        "env": {},
        "extra_tags": {"mlflow.runName": f"Dagster run {dagster_run_id[:8]}", "mlflow.note.content": link},
    }


def tracked(body: Callable[..., Any], log: Callable[[Computed], None], starts: bool = True) -> Callable[..., Any]:
    """Return the body of an asset that computes as a child run, with a link to it in its metadata.

    Args:
        body: the function of the asset. It may have a parameter `tracking`.
        log: logs the numbers of what was computed; its run is `tracking.child`.
        starts: whether the child run starts before the body. Otherwise the body starts it.
    """
    has_parameter = RESOURCE in signature(body).parameters

    @wraps(body)
    def computed(*context: Any, **inputs: Any) -> Any:
        tracking: AssetTracking = inputs[RESOURCE] if has_parameter else inputs.pop(RESOURCE)
        step = dg.AssetExecutionContext.get()
        name, code_version = step.asset_key.to_user_string(), step.assets_def.code_versions_by_key[step.asset_key]
        with tracking.run(name, code_version or "", inputs, starts):
            result = body(*context, **inputs)
            if not tracking.child.run_id:  # the asset had nothing to do, and started no run
                return result
            tracking.child.set_tags({RESULT: result.value.sha256})
            log(Computed(tracking, inputs, result.value))
        link = dg.MetadataValue.url(f"{tracking.settings.mlflow_pages}/#/runs/{tracking.child.run_id}")
        step.add_asset_metadata({"mlflow run": link})
        return result

    if not has_parameter:
        parameter = Parameter(RESOURCE, Parameter.KEYWORD_ONLY, annotation=dg.ResourceParam[AssetTracking])
        whole: Any = computed
        whole.__signature__ = signature(body).replace(parameters=[*signature(body).parameters.values(), parameter])
        computed.__annotations__ = {**body.__annotations__, RESOURCE: dg.ResourceParam[AssetTracking]}
    return computed


def end_in_this_process(dagster_run_id: str, status: Status) -> None:
    """End the MLflow runs of a Dagster run whose steps ran in this process, if it had any."""
    if dagster_run_id in _OPEN:
        import mlflow

        # The next Dagster run of this process would write into a run that is still active.
        mlflow.end_run(status)
        end_runs(_OPEN.pop(dagster_run_id), dagster_run_id, status)


def end_runs(settings: Settings, dagster_run_id: str, status: Status) -> None:
    """End the parent of a Dagster run, and the children that an interrupted process left running."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=settings.tracking_url)
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    condition = f"tags.{DAGSTER_RUN} = '{dagster_run_id}'"
    for run in client.search_runs([experiment.experiment_id], condition) if experiment else ():
        # MLflow itself calls the parent finished whenever the process of a step ends.
        if run.info.status == "RUNNING" or ASSET not in run.data.tags:
            client.set_terminated(run.info.run_id, status)


def _end_dead_runs(instance: dg.DagsterInstance, settings: Settings, experiment_id: str) -> None:
    """End the runs of Dagster runs that are over: a process that was killed could not do it."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=settings.tracking_url)
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        of = instance.get_run_by_id(run.data.tags.get(DAGSTER_RUN, ""))
        if of is not None and of.is_finished:
            client.set_terminated(run.info.run_id, "KILLED")
