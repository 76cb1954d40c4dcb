"""Keeps the accounts of keys: in a SQLite file, for all processes of one machine, or in Redis, for several machines.

Both do the same: read an account, let the rules of limits.py change it, and store the difference, in one step that no
other process can interleave with.
"""

import asyncio
import logging
import random
import sqlite3
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragtune.errors import RagTuneError, ResourceError
from ragtune.extras import require
from ragtune.settings import Settings
from ragtune_serving.limits import LEASE, NOTHING, Account, CountedRequest, Limits, Use, day_of

_BUSY_SECONDS = 10.0
"""How long a request waits for the transactions of other processes, each of which takes about a millisecond. Chosen by
hand: with 64 clients of two gateways on a busy machine one second was too little."""
_BUSY_PAUSE = 0.005
"""Longest pause until it tries again. Chosen by hand: some transactions long, and drawn, so that each gets its turn."""
_PRIMARY_CODE = 0xFF
"""The bits of SQLite's error codes that say the kind; the others say more, such as SQLITE_BUSY_RECOVERY."""
_TABLES = """
CREATE TABLE IF NOT EXISTS usage (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, started REAL NOT NULL, tokens INTEGER NOT NULL, running INTEGER NOT NULL,
    cost INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS usage_by_key ON usage (key, started);
CREATE TABLE IF NOT EXISTS days (
    key TEXT NOT NULL, day TEXT NOT NULL, tokens INTEGER NOT NULL, cost INTEGER NOT NULL, PRIMARY KEY (key, day)
);
"""
_PREFIX = "ragtune:usage:"
_DAY = "used on "
"""Beginning of the field with what a key used on a day; the other fields are requests."""
_REDIS_SECONDS = 1.0
"""How long Redis may take, which is away if it does not answer in that time. Chosen by hand."""
_KEPT_SECONDS = 2 * 86_400
"""An account in Redis goes this long after its last change: nothing in it counts for over a day."""
_ATTEMPTS = 100
"""How often a change in Redis is tried again because another process was faster. Chosen by hand: at each attempt one
process succeeds, so it takes more than 100 gateways to fail."""
logger = logging.getLogger(__name__)


Step = Callable[[Account, float], dict[str, str]]
"""Changes an account at a time and returns headers; it may run again if another process was faster."""


@dataclass(slots=True)
class Allowance:
    """One request's part in its key's account: `begin`, then `charge`, then `settle`. Without limits they do nothing.

    `headers` say what is left of the limits; `reserved` is what was reserved last.
    """

    ledger: "Ledger"
    key: str
    limits: Limits
    headers: dict[str, str] = field(default_factory=dict)
    reserved: Use = NOTHING
    _id: str = ""
    _changing: "asyncio.Future[dict[str, str]] | None" = None

    async def begin(self) -> None:
        """Count the request; raise LimitError if the key has too many, in the last minute or at once."""
        if not self.limits:
            return
        self._id = request = uuid.uuid4().hex
        try:
            await self._change(lambda account, now: account.begin(request, now))
        except RagTuneError:
            self._id = ""
            raise

    async def charge(self, use: Use) -> None:
        """Reserve the prompt and the longest answer; raise LimitError if that is too much now."""
        request, limits = self._id, self.limits
        if request and (limits.tokens_per_minute or limits.tokens_per_day or limits.budget):
            await self._change(lambda account, now: account.charge(request, use, now))
            self.reserved = use

    async def settle(self, use: Use | None) -> None:
        """End the request with what it really used; None forgets it, because it was not answered."""
        request, self._id = self._id, ""
        if not request:
            return
        if self._changing is not None:
            await asyncio.gather(self._changing, return_exceptions=True)
        try:
            await self._change(lambda account, _: account.settle(request, use))
        except RagTuneError as error:  # the answer is there all the same, and the reservation ends by itself
            logger.warning("what a request used was not counted: %s", error)

    async def _change(self, step: Step) -> None:
        """Change the account, to the end even if the client goes away meanwhile: `settle` takes back what is done."""
        self._changing = asyncio.ensure_future(self.ledger.change(self.key, self.limits, step))
        self.headers.update(await asyncio.shield(self._changing))


class Ledger(ABC):
    """The accounts of all keys."""

    def allowance(self, key: str, limits: Limits) -> Allowance:
        """Return the part of one request in the account of its key."""
        return Allowance(self, key, limits)

    @abstractmethod
    async def change(self, key: str, limits: Limits, step: Step) -> dict[str, str]:
        """Change the account of a key and return what the step returns; nothing changes if it raises.

        Raises:
            ResourceError: the accounts cannot be read or written now.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the file or the connections."""


class SqliteLedger(Ledger):
    """Accounts in a SQLite file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        # In WAL mode NORMAL does not wait for the disk at each transaction; a crash of the machine may lose the last.
        self._connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_TABLES}")
        now = time.time()
        self._connection.execute("DELETE FROM usage WHERE started < ?", (now - LEASE,))
        self._connection.execute("DELETE FROM days WHERE day < ?", (day_of(now - _KEPT_SECONDS),))
        # SQLite would wait in the event loop, and its own pauses grow so long that others are always faster.
        self._connection.execute("PRAGMA busy_timeout=0")

    async def change(self, key: str, limits: Limits, step: Step) -> dict[str, str]:
        """Change the account in a transaction; it takes too little time to be worth a thread."""
        end = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return self._changed(key, limits, step)
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > end:
                    message = f"The limits of keys cannot be counted: {self._path}: {error}"
                    raise ResourceError(message, fix="free some disk, or try again") from error
            await asyncio.sleep(random.uniform(0, _BUSY_PAUSE))

    def _changed(self, key: str, limits: Limits, step: Step) -> dict[str, str]:
        now = time.time()
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                account = self._account(key, limits, now)
                before, settled = dict(account.requests), account.settled_today
                result = step(account, now)
                self._store(key, account, before)
                if account.settled_today != settled:
                    self._connection.execute(
                        "INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?)",
                        (key, day_of(now), account.settled_today.tokens, account.settled_today.cost),
                    )
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        return result

    async def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _account(self, key: str, limits: Limits, now: float) -> Account:
        rows = self._connection.execute("SELECT id, started, tokens, running, cost FROM usage WHERE key = ?", (key,))
        requests = {
            name: CountedRequest(started, tokens, bool(running), cost) for name, started, tokens, running, cost in rows
        }
        day = self._connection.execute("SELECT tokens, cost FROM days WHERE key = ? AND day = ?", (key, day_of(now)))
        return Account(limits, requests, Use(*(day.fetchone() or ())))

    def _store(self, key: str, account: Account, before: dict[str, CountedRequest]) -> None:
        gone = [(name,) for name in before.keys() - account.requests.keys()]
        changed = [
            (name, key, row.started, row.tokens, int(row.running), row.cost)
            for name, row in account.requests.items()
            if before.get(name) != row
        ]
        self._connection.executemany("DELETE FROM usage WHERE id = ?", gone)
        self._connection.executemany("INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?, ?, ?)", changed)


class RedisLedger(Ledger):
    """Accounts in a Redis server, one hash for each key. The clocks of the machines should agree to a second."""

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis

        self._redis = Redis.from_url(
            url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS, decode_responses=True
        )
        # Requests of this process take turns, so that only those of other processes can come in between.
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def change(self, key: str, limits: Limits, step: Step) -> dict[str, str]:
        """Change the account; read it again and repeat the step if another process changed it meanwhile."""
        from redis.exceptions import RedisError, WatchError

        name = _PREFIX + key
        try:
            async with self._turns[key], self._redis.pipeline() as pipeline:
                for _ in range(_ATTEMPTS):
                    try:
                        return await self._attempt(pipeline, name, limits, step)
                    except WatchError:
                        await asyncio.sleep(0)
        except (RedisError, OSError) as error:
            raise ResourceError(
                f"The limits of keys cannot be counted: Redis: {error}", fix="start Redis, or correct gateway.redis_url"
            ) from error
        raise ResourceError(f"The limits of {key} are changed all the time.", fix="try again")

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _attempt(self, pipeline: Any, name: str, limits: Limits, step: Step) -> dict[str, str]:
        await pipeline.watch(name)
        fields: dict[str, str] = await pipeline.hgetall(name)
        now = time.time()
        day = f"{_DAY}{day_of(now)}"
        settled = Use(*map(int, fields.pop(day, "").split()))
        days = [field for field in fields if field.startswith(_DAY)]
        before = {field: _parsed(text) for field, text in fields.items() if field not in days}
        account = Account(limits, dict(before), settled)
        result = step(account, now)
        changed = {field: _text(row) for field, row in account.requests.items() if before.get(field) != row}
        if account.settled_today != settled:
            changed[day] = f"{account.settled_today.tokens} {account.settled_today.cost}"
        pipeline.multi()
        if gone := [*(before.keys() - account.requests.keys()), *days]:
            pipeline.hdel(name, *gone)
        if changed:
            pipeline.hset(name, mapping=changed)
        pipeline.expire(name, _KEPT_SECONDS)
        await pipeline.execute()
        return result


def ledger_from(settings: Settings) -> Ledger:
    """Return the ledger that the settings name."""
    if settings.gateway.redis_url:
        require("redis")
        return RedisLedger(settings.gateway.redis_url)
    return SqliteLedger(settings.home / "gateway" / "limits.db")


def _text(row: CountedRequest) -> str:
    return f"{row.started!r} {row.tokens} {int(row.running)} {row.cost}"


def _parsed(text: str) -> CountedRequest:
    started, tokens, running, cost = text.split()
    return CountedRequest(float(started), int(tokens), running == "1", int(cost))
