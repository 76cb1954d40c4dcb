"""Limits of a key, counted by several threads and processes at once."""

import subprocess
import sys
import threading
from contextlib import closing

import pytest

from ragtune.errors import SettingsError
from ragtune_serving.limits import LimitError, Limits, UsageLedger


@pytest.fixture
def ledger(tmp_path):
    with closing(UsageLedger(tmp_path / "usage.db")) as ledger:
        yield ledger


def begun(ledger, limits, key="ann"):
    allowance = ledger.allowance(key, limits)
    allowance.begin()
    return allowance


def test_a_key_that_asked_often_enough_waits_for_the_rest_of_the_minute(ledger):
    limits = Limits(requests_per_minute=3)
    for left in (2, 1, 0):
        allowance = begun(ledger, limits)
        assert allowance.headers["x-ratelimit-limit-requests"] == "3"
        assert allowance.headers["x-ratelimit-remaining-requests"] == str(left)
        allowance.settle(10)
    with pytest.raises(LimitError, match="3 times a minute") as error:
        begun(ledger, limits)
    assert 55 <= error.value.retry_after <= 60
    begun(ledger, limits, "bob")


def test_a_minute_later_there_is_room_again(ledger, monkeypatch):
    limits = Limits(requests_per_minute=1)
    begun(ledger, limits).settle(10)
    with ledger.exclusive(0.0) as connection:
        connection.execute("UPDATE usage SET started = started - 61")
    begun(ledger, limits)


def test_tokens_are_reserved_before_and_settled_after(ledger):
    limits = Limits(tokens_per_minute=100)
    first = begun(ledger, limits)
    first.charge(80)
    assert first.headers["x-ratelimit-remaining-tokens"] == "20"
    second = begun(ledger, limits)
    with pytest.raises(LimitError, match="100 tokens a minute"):
        second.charge(30)
    second.settle(None)
    first.settle(15)
    third = begun(ledger, limits)
    third.charge(85)
    with pytest.raises(LimitError):
        begun(ledger, limits)


def test_a_request_that_can_never_fit_is_wrong_and_not_late(ledger):
    with pytest.raises(SettingsError, match="up to 500 tokens"):
        begun(ledger, Limits(tokens_per_minute=100)).charge(500)


def test_requests_at_once_are_limited_and_an_ended_one_makes_room(ledger):
    limits = Limits(concurrency=2)
    first, second = begun(ledger, limits), begun(ledger, limits)
    with pytest.raises(LimitError, match="2 requests under way"):
        begun(ledger, limits)
    first.settle(None)
    begun(ledger, limits).settle(5)
    second.settle(5)
    assert begun(ledger, limits)


def test_a_request_of_a_killed_process_ends_with_its_lease(ledger):
    limits = Limits(concurrency=1)
    begun(ledger, limits)
    with ledger.exclusive(0.0) as connection:
        connection.execute("UPDATE usage SET started = started - 1000")
    begun(ledger, limits)


def test_without_limits_nothing_is_counted(ledger):
    allowance = begun(ledger, Limits())
    allowance.charge(10**9)
    allowance.settle(10**9)
    assert allowance.headers == {}


CLIENT = """
import sys
from pathlib import Path
from ragtune_serving.limits import LimitError, Limits, UsageLedger
ledger = UsageLedger(Path(sys.argv[1]))
limits, passed = Limits(requests_per_minute=50, tokens_per_minute=300), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    allowance = ledger.allowance("ann", limits)
    try:
        allowance.begin()
        allowance.charge(10)
    except LimitError:
        allowance.settle(None)
    else:
        passed += 1
print(passed)
"""


def test_four_processes_together_never_pass_a_limit(tmp_path):
    command = [sys.executable, "-c", CLIENT, str(tmp_path / "usage.db")]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * 4
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    passed = [int(process.communicate(timeout=120)[0]) for process in running]
    assert sum(passed) == 30, "300 tokens a minute, 10 each"


def test_sixty_four_threads_together_never_pass_a_limit(ledger):
    limits = Limits(concurrency=5)
    outcomes = []
    ready = threading.Barrier(64)

    def ask() -> None:
        ready.wait()
        try:
            begun(ledger, limits)
            outcomes.append("passed")
        except LimitError:
            outcomes.append("limited")

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count("passed"), outcomes.count("limited")) == (5, 59)
