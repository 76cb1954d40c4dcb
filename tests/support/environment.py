"""A fixture that undoes what the opening of a Dagster instance sets in the environment."""

import pytest


@pytest.fixture
def keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_HOME", "RAGTUNE_DAGSTER_STORAGE", "RAGTUNE_HOME", "TRANSFORMERS_VERBOSITY", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "")
