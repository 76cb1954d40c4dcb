"""Runs one asset as the Dagster UI does, in processes of its own: `python -m tests.support.dagster_run HOME`.

The asset waits until the file `go` lies in the home, so that a test decides how long the run takes.
"""

import os
import sys
import time
from pathlib import Path

import dagster as dg

from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.exclusive_executor import exclusive_executor
from ragtune_assets.resources import artifact_io


@dg.asset(config_schema={"home": str})
def waits(context: dg.AssetExecutionContext) -> None:
    """Say that the step runs, and wait for the file `go`."""
    home = Path(context.op_config["home"])
    (home / "started").write_text(str(os.getpid()))
    while not (home / "go").exists():
        time.sleep(0.05)


def build_job() -> dg.JobDefinition:
    home = Path(dg.DagsterInstance.get().root_directory).parent
    io = dg.IOManagerDefinition(lambda _context: artifact_io(ArtifactStore(home / "artifacts")))
    job = dg.define_asset_job("build", selection=[waits])
    defs = dg.Definitions([waits], executor=exclusive_executor(home), jobs=[job], resources={"io_manager": io})
    return defs.resolve_job_def("build")


def main() -> int:
    home = Path(sys.argv[1])
    config = {"ops": {"waits": {"config": {"home": str(home)}}}}
    with dg.DagsterInstance.get() as instance:
        job = dg.reconstructable(build_job)
        result = dg.execute_job(job, instance=instance, run_config=config)
    return 0 if result.success else 1


if __name__ == "__main__":
    from tests.support.dagster_run import main as run

    sys.exit(run())
