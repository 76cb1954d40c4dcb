"""The benchmark of limits counts what clients used at the same time, and finds no limit passed."""

import pytest

from benchmarks.serving.limits import measure
from benchmarks.serving.mock_gateway import mock_home

LIMITS = {"requests_per_minute": 10, "concurrency": 2, "tokens_per_minute": 1000, "budget_per_day": 0.001}


@pytest.fixture
def rows(tmp_path, give_mlflow):
    give_mlflow(tmp_path)
    return {row["limit"]: row for row in measure(mock_home(tmp_path), LIMITS, clients=8, questions=3)}


def test_clients_that_ask_at_the_same_time_use_a_limit_up_and_never_pass_it(rows):
    assert set(rows) == set(LIMITS)
    for row in rows.values():
        assert row["overshoot"] == 0, row
        assert row["answered"] > 0, row
        assert row["refused"] > 0, row
        assert row["answered"] + row["refused"] == 24, row
    assert rows["requests_per_minute"]["used"] == 10
