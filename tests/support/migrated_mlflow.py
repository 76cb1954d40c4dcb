"""An MLflow database without models, made once for all tests of a file, because the first tables take seconds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ragtune.settings import load_settings
from ragtune.store.registry import ModelRegistry


@pytest.fixture(scope="module")
def give_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Return a function that puts the database into a home."""
    first = tmp_path_factory.mktemp("migrated")
    with ModelRegistry(load_settings({"home": first}))._writing():
        pass

    def give(home: Path) -> None:
        (home / "mlflow").mkdir(parents=True)
        shutil.copy(first / "mlflow" / "mlflow.db", home / "mlflow")

    return give
