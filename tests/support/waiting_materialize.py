"""Materialises an asset whose pool is full: `python -m tests.support.waiting_materialize HOME`."""

import signal
import sys
from pathlib import Path

import dagster as dg

from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.materialize import interrupt, materialize
from ragtune_assets.progress import log_to


@dg.asset(pool="gpu")
def trained() -> None:
    """Do nothing in the pool."""


def main(home: Path) -> None:
    log_to(sys.stdout)
    signal.signal(signal.SIGTERM, interrupt)
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 0)
        materialize(dg.Definitions([trained]), ArtifactStore(home / "artifacts"), instance)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
