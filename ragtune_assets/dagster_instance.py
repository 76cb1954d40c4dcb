"""Opens Dagster's instance of a home: its settings come with the package, its storage lies in the home."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from ragtune.settings import Settings, prepare_process

DAGSTER_HOME = Path(__file__).with_name("instance")


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Yield the Dagster instance whose storage lies in the home."""
    storage = settings.home / "dagster"
    storage.mkdir(parents=True, exist_ok=True)
    prepare_process(
        DAGSTER_HOME=str(DAGSTER_HOME),
        RAGTUNE_DAGSTER_STORAGE=str(storage),
        RAGTUNE_HOME=str(settings.home),
        TRANSFORMERS_VERBOSITY="error",
        TQDM_DISABLE="1",
    )
    with dg.DagsterInstance.from_config(str(DAGSTER_HOME)) as instance:
        yield instance
