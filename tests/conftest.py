"""The order of the tests: the longest file first, so that the others run beside it."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the whole-graph test to the front."""
    items.sort(key=lambda item: item.get_closest_marker("graph") is None)
