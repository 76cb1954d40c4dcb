"""Limits of a key, counted by several requests and processes at once, in a file and in Redis."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from ragtune.errors import ResourceError, SettingsError
from ragtune.settings import load_settings
from ragtune_serving import limits as limits_module
from ragtune_serving.ledgers import RedisLedger, SqliteLedger
from ragtune_serving.limits import Account, CountedRequest, LimitError, Limits, Prices, Use
from tests.support.redis_server import redis_server

NOON = 1_764_504_000.0
"""2025-11-30 12:00 UTC."""


@pytest.fixture(params=["sqlite", "redis"])
def opened(request, tmp_path):
    """Return an async context manager that opens a ledger of this kind, again and again with the same counts."""

    @asynccontextmanager
    async def sqlite():
        ledger = SqliteLedger(tmp_path / "usage.db")
        try:
            yield ledger
        finally:
            await ledger.close()

    if request.param == "sqlite":
        yield sqlite
        return
    with redis_server() as url:

        @asynccontextmanager
        async def redis():
            ledger = RedisLedger(url)
            try:
                yield ledger
            finally:
                await ledger.close()

        yield redis


async def begun(ledger, limits, key="ann"):
    allowance = ledger.allowance(key, limits)
    await allowance.begin()
    return allowance


def test_a_key_that_asked_often_enough_waits_for_the_rest_of_the_minute(opened):
    async def steps() -> None:
        limits = Limits(requests_per_minute=3)
        async with opened() as ledger:
            for left in (2, 1, 0):
                allowance = await begun(ledger, limits)
                assert allowance.headers["x-ratelimit-limit-requests"] == "3"
                assert allowance.headers["x-ratelimit-remaining-requests"] == str(left)
                await allowance.settle(Use(10))
            with pytest.raises(LimitError, match="3 times a minute") as error:
                await begun(ledger, limits)
            assert 50 <= error.value.retry_after <= 60
            assert error.value.headers["x-ratelimit-remaining-requests"] == "0"
            await begun(ledger, limits, "bob")

    asyncio.run(steps())


def test_tokens_are_reserved_before_and_settled_after(opened):
    async def steps() -> None:
        limits = Limits(tokens_per_minute=100)
        async with opened() as ledger:
            first = await begun(ledger, limits)
            await first.charge(Use(80))
            assert first.headers["x-ratelimit-remaining-tokens"] == "20"
            second = await begun(ledger, limits)
            with pytest.raises(LimitError, match="100 tokens a minute"):
                await second.charge(Use(30))
            await second.settle(None)
            await first.settle(Use(15))
            third = await begun(ledger, limits)
            await third.charge(Use(85))
            with pytest.raises(LimitError):
                await begun(ledger, limits)

    asyncio.run(steps())


def test_a_budget_of_a_day_outlives_the_process_and_counts_what_is_reserved(opened):
    async def steps() -> None:
        limits = Limits(tokens_per_day=100)
        async with opened() as ledger:
            first = await begun(ledger, limits)
            await first.charge(Use(90))
            with pytest.raises(LimitError, match="100 tokens a day"):
                await (await begun(ledger, limits)).charge(Use(11))
            await first.settle(Use(60))
        async with opened() as ledger:
            last = await begun(ledger, limits)
            assert last.headers["x-ratelimit-remaining-tokens-day"] == "40"
            with pytest.raises(LimitError, match="100 tokens a day") as error:
                await last.charge(Use(41))
            assert 1 <= error.value.retry_after <= 86_400
            with pytest.raises(SettingsError, match="this key may use 100 a day"):
                await last.charge(Use(101))

    asyncio.run(steps())


def test_a_budget_of_a_day_counts_costs_to_the_millionth_and_outlives_the_process(opened):
    async def steps() -> None:
        limits = Limits(budget_per_day=0.5)
        async with opened() as ledger:
            first = await begun(ledger, limits)
            await first.charge(Use(1000, 400_000))
            assert first.headers["x-ratelimit-limit-cost-day"] == "0.5"
            assert first.headers["x-ratelimit-remaining-cost-day"] == "0.1"
            with pytest.raises(LimitError, match=r"may spend 0\.5 a day"):
                await (await begun(ledger, limits)).charge(Use(1, 100_001))
            await first.settle(Use(10, 7))
        async with opened() as ledger:
            last = await begun(ledger, limits)
            assert last.headers["x-ratelimit-remaining-cost-day"] == "0.499993"
            with pytest.raises(LimitError, match=r"0\.5 a day") as error:
                await last.charge(Use(1, 499_994))
            assert 1 <= error.value.retry_after <= 86_400
            with pytest.raises(SettingsError, match=r"may cost 0\.6; this key may spend 0\.5 a day"):
                await last.charge(Use(1, 600_000))

    asyncio.run(steps())


def test_a_cost_is_that_of_the_server_that_answers_and_the_dearest_is_reserved():
    fallback = {"model": "openai/dear", "price": {"prompt": 3, "completion": 15}}
    settings = load_settings({"home": "x", "gateway": {"price": {"completion": 0.1}, "fallbacks": [fallback]}})
    prices = Prices(settings.gateway)
    assert prices.most(1000, 100) == Use(1100, 3 * 1000 + 15 * 100)
    assert prices.of("fallback:openai/dear", 1000, 10) == Use(1010, 3150)
    assert prices.of("3", 1000, 11) == Use(1011, 2), "1.1 millionths, rounded up"
    assert not Prices(load_settings({"home": "x"}).gateway)


def test_requests_at_once_are_limited_and_an_ended_one_makes_room(opened):
    async def steps() -> None:
        limits = Limits(concurrency=2)
        async with opened() as ledger:
            first, second = await begun(ledger, limits), await begun(ledger, limits)
            with pytest.raises(LimitError, match="2 requests under way"):
                await begun(ledger, limits)
            await first.settle(None)
            await (await begun(ledger, limits)).settle(Use(5))
            await second.settle(Use(5))
            assert await begun(ledger, limits)

    asyncio.run(steps())


def test_sixty_four_requests_at_once_never_pass_a_limit(opened):
    async def ask(ledger, limits: Limits) -> str:
        allowance = ledger.allowance("ann", limits)
        try:
            await allowance.begin()
            await allowance.charge(Use(10))
        except LimitError:
            await allowance.settle(None)
            return "limited"
        return "passed"

    async def steps(limits: Limits) -> list[str]:
        async with opened() as one, opened() as other:
            return await asyncio.gather(*(ask(ledger, limits) for _ in range(32) for ledger in (one, other)))

    assert asyncio.run(steps(Limits(tokens_per_day=105))).count("passed") == 10, "105 tokens, 10 each"


def test_a_client_that_goes_away_while_it_is_counted_leaves_nothing_behind(opened):
    async def steps() -> None:
        limits = Limits(concurrency=1)
        async with opened() as ledger:
            for _ in range(5):
                allowance = ledger.allowance("ann", limits)
                beginning = asyncio.ensure_future(allowance.begin())
                await asyncio.sleep(0)
                beginning.cancel()
                await asyncio.gather(beginning, return_exceptions=True)
                await allowance.settle(None)
            assert await begun(ledger, limits)

    asyncio.run(steps())


def test_without_limits_nothing_is_counted(opened):
    async def steps() -> None:
        async with opened() as ledger:
            allowance = await begun(ledger, Limits())
            await allowance.charge(Use(10**9))
            await allowance.settle(Use(10**9))
            assert allowance.headers == {}

    asyncio.run(steps())


def test_a_limit_that_a_key_does_not_have_itself_is_the_general_one():
    general = Limits(requests_per_minute=10, tokens_per_day=1000)
    assert Limits(concurrency=1, tokens_per_day=5).over(general) == Limits(10, 0, 1, 5)
    assert Limits().over(general) == general


def test_a_request_that_can_never_fit_is_wrong_and_not_late():
    with pytest.raises(SettingsError, match="up to 500 tokens"):
        Account(Limits(tokens_per_minute=100)).charge("r", Use(500), NOON)


def test_a_request_may_reserve_more_and_is_not_counted_twice():
    account = Account(Limits(tokens_per_minute=100, tokens_per_day=100))
    account.begin("r", NOON)
    account.charge("r", Use(40), NOON)
    account.charge("r", Use(80), NOON)
    assert account.headers(NOON)["x-ratelimit-remaining-tokens"] == "20"
    account.begin("other", NOON)
    with pytest.raises(LimitError):
        account.charge("other", Use(21), NOON)


def test_a_minute_later_there_is_room_again_and_a_killed_process_ends_with_its_lease():
    ended, open_ = CountedRequest(NOON, 10, running=False), CountedRequest(NOON, 10)
    account = Account(Limits(requests_per_minute=2), {"ended": ended, "open": open_})
    with pytest.raises(LimitError):
        account.begin("third", NOON + 59)
    account.begin("third", NOON + 61)
    assert set(account.requests) == {"open", "third"}
    account.begin("fourth", NOON + limits_module.LEASE + 1)
    assert set(account.requests) == {"third", "fourth"}


def test_a_day_ends_at_midnight_utc():
    account = Account(Limits(tokens_per_day=100), settled_today=Use(100))
    with pytest.raises(LimitError) as error:
        account.begin("r", NOON)
    assert error.value.retry_after == 12 * 3600
    assert error.value.headers["x-ratelimit-reset-tokens-day"] == "43200s"


def test_tokens_of_a_request_that_was_forgotten_still_count_for_the_day():
    account = Account(Limits(tokens_per_day=100))
    account.settle("gone", Use(30))
    assert (account.settled_today, account.requests) == (Use(30), {})


def test_a_redis_that_is_away_is_an_error_that_names_the_setting():
    async def steps() -> None:
        with redis_server() as url:
            ledger = RedisLedger(url)
            allowance = await begun(ledger, Limits(concurrency=1))
            await ledger.close()
        with pytest.raises(ResourceError, match="redis_url"):
            await begun(ledger, Limits(concurrency=1))
        await allowance.settle(Use(5))  # an answer is not lost because nobody can count it
        await ledger.close()

    asyncio.run(steps())


def test_an_account_in_redis_goes_after_two_days():
    async def steps(url: str) -> int:
        ledger, client = RedisLedger(url), Redis.from_url(url)
        await begun(ledger, Limits(tokens_per_day=100))
        left = await client.ttl("ragtune:usage:ann")
        await ledger.close()
        await client.aclose()
        return left

    with redis_server() as url:
        assert 86_400 < asyncio.run(steps(url)) <= 2 * 86_400


CLIENT = """
import asyncio
import sys
from pathlib import Path
from ragtune_serving.ledgers import SqliteLedger
from ragtune_serving.limits import LimitError, Limits, Use
ledger = SqliteLedger(Path(sys.argv[1]))
limits = Limits(requests_per_minute=50, tokens_per_minute=300)
print("ready", flush=True)
sys.stdin.readline()

async def ask():
    allowance = ledger.allowance("ann", limits)
    try:
        await allowance.begin()
        await allowance.charge(Use(10))
    except LimitError:
        await allowance.settle(None)
        return 0
    return 1

async def main():
    print(sum([await ask() for _ in range(40)]))

asyncio.run(main())
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


def test_a_request_waits_for_the_transaction_of_another_process_without_stopping_the_others(tmp_path):
    path = tmp_path / "usage.db"

    async def steps() -> None:
        ledger = SqliteLedger(path)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(begun(ledger, Limits(concurrency=1)))
        await asyncio.sleep(1.5)
        assert not waiting.done(), "the event loop went on, and the request waits"
        other.execute("COMMIT")
        await asyncio.wait_for(waiting, 5)
        other.close()
        await ledger.close()

    asyncio.run(steps())
