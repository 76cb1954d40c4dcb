"""A job of two assets that do not depend on each other, the first of which fails, with dagster-mlflow's hook and not.

Dagster builds it again in the process of each step, so its folder comes from the instance.
"""

import sys
from pathlib import Path
from typing import Any

import dagster as dg

from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets import tracking
from ragtune_assets.exclusive_executor import exclusive_executor

EXPERIMENT = "hooked"


def hooked_resource(url: str) -> dg.ResourceDefinition:
    """Return dagster-mlflow's resource for the experiment of these tests."""
    from dagster_mlflow import mlflow_tracking

    config = {"experiment_name": EXPERIMENT, "mlflow_tracking_uri": url, "env": {}, "extra_tags": {}}
    return mlflow_tracking.configured(config)


def hooked_asset(name: str, fails: bool = False, deps: tuple[str, ...] = ()) -> dg.AssetsDefinition:
    """Return an asset with dagster-mlflow's hook."""
    from dagster_mlflow import end_mlflow_on_run_finished

    @dg.asset(name=name, deps=deps, hooks={end_mlflow_on_run_finished}, required_resource_keys={"mlflow"})
    def hooked() -> None:
        if fails:
            raise ValueError("no")

    return hooked


def tracked_asset(name: str, fails: bool = False) -> dg.AssetsDefinition:
    """Return an asset with the parent run of RagTune's assets."""

    @dg.asset(name=name, required_resource_keys={tracking.RESOURCE})
    def tracked() -> None:
        if fails:
            raise ValueError("no")

    return tracked


def home_of_instance() -> Path:
    return Path(dg.DagsterInstance.get().root_directory).parent


def hooked_job() -> dg.JobDefinition:
    """Return the job that dagster-mlflow's hook ends."""
    settings = load_settings({"home": home_of_instance()})
    return _job(
        [hooked_asset("first", fails=True), hooked_asset("second")],
        {"mlflow": hooked_resource(settings.tracking_url)},
        dg.multiprocess_executor.configured({"max_concurrent": 1}),
    )


def tracked_job() -> dg.JobDefinition:
    """Return the job that RagTune's executor ends."""
    settings = load_settings({"home": home_of_instance()})
    return _job(
        [tracked_asset("first", fails=True), tracked_asset("second")],
        {tracking.RESOURCE: tracking.resource(settings, ArtifactStore(settings.home / "artifacts"))},
        exclusive_executor(settings.home, settings),
    )


def _job(assets: list[dg.AssetsDefinition], resources: dict[str, Any], executor: dg.ExecutorDefinition) -> Any:
    job = dg.define_asset_job("both", selection=assets)
    return dg.Definitions(assets, jobs=[job], resources=resources, executor=executor).resolve_job_def("both")


def main() -> int:
    """Execute both jobs in the instance of the environment, and print whether Dagster calls them successful."""
    with dg.DagsterInstance.get() as instance:
        for build in (hooked_job, tracked_job):
            done = dg.execute_job(dg.reconstructable(build), instance=instance)
            sys.stdout.write(f"{build.__name__} {done.run_id} {done.success}\n")
    return 0


if __name__ == "__main__":
    from tests.support.hooked_job import main as run

    sys.exit(run())
