"""Finds runs of Dagster whose process is gone, closes them as failed and frees their slots in pools.

A run holds a lock file for as long as it is executed, so a run without one is dead: killed, or copied with its home.
`ragtune up` calls `python -m ragtune_assets.dead_runs` before anything of Dagster runs. Later a sensor looks, and
everything that takes the lock of the home.
"""

import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import dagster as dg

from ragtune.errors import RagTuneError, no_permission
from ragtune.settings import load_settings
from ragtune.store.locks import held, is_held
from ragtune_assets.dagster_instance import open_instance
from ragtune_assets.progress import LOGGER, log_to

START_SECONDS = 180.0
"""A run whose state changed less than this ago may still be starting, and not hold its lock yet. Dagster's default."""
POLL_SECONDS = 30
"""How often the sensor looks. Chosen by hand; a look takes milliseconds."""
MESSAGE = "The process of this run is gone: it was killed, or the machine went down. Run it again; it goes on."

_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def alive(home: Path, run_id: str) -> AbstractContextManager[None]:
    """Mark a run as alive during the block."""
    return held(_lock(home, run_id))


def close_dead_runs(instance: dg.DagsterInstance, home: Path, none_is_starting: bool = False) -> list[str]:
    """Close the runs without a process as failed, free the slots of ended runs, and return the ids of the closed.

    Args:
        instance: Dagster's instance of the home.
        home: the home.
        none_is_starting: close young runs too. Otherwise they are left alone, because they may still be starting.
    """
    dead = runs_without_process(instance, home, none_is_starting)
    for run in dead:
        instance.report_run_failed(run, MESSAGE)
    for run_id in _slot_holders(instance):
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    for run in dead:
        _lock(home, run.run_id).unlink(missing_ok=True)
    return [run.run_id for run in dead]


def runs_without_process(
    instance: dg.DagsterInstance, home: Path, none_is_starting: bool = False
) -> list[dg.DagsterRun]:
    """Return the unfinished runs whose process is gone; the arguments are those of `close_dead_runs`."""
    dead = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=_UNFINISHED)):
        run, age = record.dagster_run, time.time() - record.update_timestamp.timestamp()
        # After the clock was set back, a run seems to come from the future. It is not starting any more either.
        if (none_is_starting or not 0 <= age < START_SECONDS) and not is_held(_lock(home, run.run_id)):
            dead.append(run)
    return dead


def free_slots(instance: dg.DagsterInstance, but_of: str = "") -> None:
    """Free the slots of all pools, except those of the run `but_of`. Only the holder of the home's lock may do this."""
    for run_id in _slot_holders(instance) - {but_of}:
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)


@dg.sensor(
    minimum_interval_seconds=POLL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Closes runs whose process is gone as failed, and frees their slots in pools.",
)
def dead_runs(context: dg.SensorEvaluationContext, home: dg.ResourceParam[Path]) -> dg.SkipReason:
    """Close dead runs; this never requests a run."""
    closed = close_dead_runs(context.instance, home)
    return dg.SkipReason(f"Closed {', '.join(closed)}." if closed else "No run is dead.")


def main() -> int:
    """Close every run without a process. Call it if nothing of Dagster runs in this home, so that none is starting."""
    log_to(sys.stdout)
    try:
        settings = load_settings()
        with open_instance(settings) as instance:
            for run_id in close_dead_runs(instance, settings.home, none_is_starting=True):
                LOGGER.info("Run %s had no process any more and is closed as failed.", run_id[:8])
    except RagTuneError as error:
        LOGGER.error("%s", error)
        return 1
    except PermissionError as error:
        LOGGER.error("%s", no_permission(error))
        return 1
    return 0


def _slot_holders(instance: dg.DagsterInstance) -> set[str]:
    """Return the ids of the runs that hold a slot of a pool, or wait for one."""
    storage = instance.event_log_storage
    pools = [storage.get_concurrency_info(pool) for pool in storage.get_concurrency_keys()]
    claimed = {slot.run_id for pool in pools for slot in pool.claimed_slots}
    return claimed | {step.run_id for pool in pools for step in pool.pending_steps}


def _lock(home: Path, run_id: str) -> Path:
    return home / "dagster" / "running" / f"{run_id}.lock"


if __name__ == "__main__":
    sys.exit(main())
