"""Deletes old runs of Dagster: `python -m ragtune_assets.old_runs --days 30 [--dry-run]`, called by `ragtune prune`.

A run that made the newest version of an asset stays, however old it is: without its events the asset would be built
again, and its page would be empty.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from ragtune.errors import RagTuneError, no_permission
from ragtune.settings import load_settings
from ragtune_assets.dagster_instance import open_instance


def old_runs(instance: dg.DagsterInstance, before: datetime) -> list[str]:
    """Return the ids of the ended runs created before this moment that no asset needs."""
    needed = _needed(instance)
    records = instance.get_run_records(dg.RunsFilter(created_before=before))
    return [
        record.dagster_run.run_id
        for record in records
        if record.dagster_run.is_finished and record.dagster_run.run_id not in needed
    ]


def delete_runs(instance: dg.DagsterInstance, run_ids: Sequence[str], storage: Path) -> None:
    """Delete runs with their events and what their steps printed; `storage` is the folder of Dagster in the home."""
    for run_id in run_ids:
        instance.delete_run(run_id)
        shutil.rmtree(storage / run_id, ignore_errors=True)
        shutil.rmtree(storage / "storage" / run_id, ignore_errors=True)


def _needed(instance: dg.DagsterInstance) -> set[str]:
    """Return the ids of the runs that made the newest version of each asset."""
    # The checks of an asset are evaluated in the run that builds it.
    events = [instance.get_latest_materialization_event(key) for key in instance.all_asset_keys()]
    return {event.run_id for event in events if event is not None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Delete old runs, or only count them, and print `{"runs": N}`."""
    parser = argparse.ArgumentParser(prog="python -m ragtune_assets.old_runs", description=__doc__)
    parser.add_argument("--days", type=float, required=True, help="age from which a run is old")
    parser.add_argument("--dry-run", action="store_true", help="delete nothing")
    chosen = parser.parse_args(arguments)
    try:
        settings = load_settings()
        with open_instance(settings) as instance:
            run_ids = old_runs(instance, datetime.now(UTC) - timedelta(days=chosen.days))
            if not chosen.dry_run:
                delete_runs(instance, run_ids, settings.home / "dagster")
    except RagTuneError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except PermissionError as error:
        sys.stderr.write(f"{no_permission(error)}\n")
        return 1
    sys.stdout.write(json.dumps({"runs": len(run_ids)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
