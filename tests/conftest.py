"""The order of the tests, the longest file first, and the databases that what lives in one is tested over."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.environment import keep_environment  # noqa: F401 a fixture
from tests.support.migrated_mlflow import give_mlflow  # noqa: F401 a fixture
from tests.support.postgres import postgres_url, schema_of_its_own
from tests.support.small_disk import small_disk  # noqa: F401 a fixture

_DRAWN: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(hypothesis.HealthCheck),
}
# `pytest --hypothesis-profile thorough tests/test_round_trips.py` draws ten times as many.
hypothesis.settings.register_profile("suite", max_examples=50, **_DRAWN)
hypothesis.settings.register_profile("thorough", max_examples=500, **_DRAWN)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the whole-graph test to the front, so that the others run at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("graph") is None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_url() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'deep' / 'tests.db'}"
        return
    with schema_of_its_own(request.getfixturevalue("postgres")) as url:
        yield url
