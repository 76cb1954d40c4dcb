"""Limits of a key: requests and tokens a minute, and requests at once.

The counts are in a SQLite file, so several processes on one machine share them. A request is counted before it is
answered, and its tokens are reserved before they are generated: requests that arrive together never pass a limit.
"""

import math
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ragtune.errors import RagTuneError, SettingsError

_WINDOW = 60.0
"""Seconds over which requests and tokens are counted: limits are per minute."""
_LEASE = 900.0
"""Seconds after which a request counts as ended although nobody said so: its process was killed. Chosen by hand: longer
than the longest answer (`gateway.timeout_seconds` is 600)."""
_BUSY_SECONDS = 1.0
"""How long one process waits for the other's transaction, which takes under a millisecond; chosen by hand."""
_TABLE = """
CREATE TABLE IF NOT EXISTS usage (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, started REAL NOT NULL, tokens INTEGER NOT NULL, running INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS usage_by_key ON usage (key, started);
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may use; 0 means no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0

    def __bool__(self) -> bool:
        return bool(self.requests_per_minute or self.tokens_per_minute or self.concurrency)


class LimitError(RagTuneError):
    """A key has used what it may; `retry_after` is the number of seconds until there is room again."""

    def __init__(self, found: str, retry_after: float) -> None:
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(found, fix=f"ask again in {self.retry_after} s")


class UsageLedger:
    """Counts requests and tokens of the last minute in a SQLite file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        # The counts matter for a minute only, so a crash of the machine may lose them.
        self._connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; {_TABLE}")

    def allowance(self, key: str, limits: Limits) -> "Allowance":
        """Return the account of one request."""
        return Allowance(self, key, limits)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def exclusive(self, now: float) -> Iterator[sqlite3.Connection]:
        """Run a transaction in which no other process counts; forget what is older than a minute."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.execute(
                    "DELETE FROM usage WHERE started < ? AND NOT running OR started < ?", (now - _WINDOW, now - _LEASE)
                )
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


@dataclass(slots=True)
class Allowance:
    """One request's account: `begin`, then `charge`, then `settle`. Without limits all three do nothing."""

    ledger: UsageLedger
    key: str
    limits: Limits
    headers: dict[str, str] = field(default_factory=dict)
    _id: str = ""

    def begin(self) -> None:
        """Count the request; raise LimitError if the key has too many, in the last minute or at once."""
        if not self.limits:
            return
        now, limits = time.time(), self.limits
        with self.ledger.exclusive(now) as connection:
            rows = _rows(connection, self.key, now)
            if limits.requests_per_minute and len(rows) >= limits.requests_per_minute:
                oldest = rows[len(rows) - limits.requests_per_minute][0]
                raise LimitError(
                    f"This key may ask {limits.requests_per_minute} times a minute.", oldest + _WINDOW - now
                )
            if limits.tokens_per_minute and sum(tokens for _, tokens in rows) >= limits.tokens_per_minute:
                raise self._too_many_tokens(rows, 1, now)
            running = connection.execute(
                "SELECT count(*) FROM usage WHERE key = ? AND running", (self.key,)
            ).fetchone()[0]
            if limits.concurrency and running >= limits.concurrency:
                raise LimitError(f"This key may have {limits.concurrency} requests under way at once.", 1)
            self._id = uuid.uuid4().hex
            connection.execute("INSERT INTO usage VALUES (?, ?, ?, 0, 1)", (self._id, self.key, now))
            self._describe([*rows, (now, 0)], now)

    def charge(self, tokens: int) -> None:
        """Reserve the tokens of the prompt and of the longest answer; raise LimitError if that is too many now."""
        if not self._id or not self.limits.tokens_per_minute:
            return
        if tokens > self.limits.tokens_per_minute:
            raise SettingsError(
                f"The request needs up to {tokens} tokens; this key may use {self.limits.tokens_per_minute} a minute.",
                fix="lower max_tokens, or shorten the conversation",
            )
        now = time.time()
        with self.ledger.exclusive(now) as connection:
            rows = _rows(connection, self.key, now)
            if sum(used for _, used in rows) + tokens > self.limits.tokens_per_minute:
                raise self._too_many_tokens(rows, tokens, now)
            connection.execute("UPDATE usage SET tokens = ? WHERE id = ?", (tokens, self._id))
            self._describe([*rows, (now, tokens)], now)

    def settle(self, tokens: int | None) -> None:
        """End the request with the tokens that it really used; None forgets it, because it was not answered."""
        if not self._id:
            return
        with self.ledger.exclusive(time.time()) as connection:
            if tokens is None:
                connection.execute("DELETE FROM usage WHERE id = ?", (self._id,))
            else:
                connection.execute("UPDATE usage SET tokens = ?, running = 0 WHERE id = ?", (tokens, self._id))
        self._id = ""

    def _too_many_tokens(self, rows: list[tuple[float, int]], tokens: int, now: float) -> LimitError:
        limit = self.limits.tokens_per_minute
        excess = sum(used for _, used in rows) + tokens - limit
        free_at = now
        for started, used in rows:
            if excess <= 0:
                break
            excess -= used
            free_at = started + _WINDOW
        return LimitError(f"This key may use {limit} tokens a minute.", free_at - now)

    def _describe(self, rows: list[tuple[float, int]], now: float) -> None:
        """Set the headers that OpenAI's clients know; `reset` is when the oldest request no longer counts."""
        reset = f"{max(0.0, rows[0][0] + _WINDOW - now):.0f}s"
        for kind, limit, used in (
            ("requests", self.limits.requests_per_minute, len(rows)),
            ("tokens", self.limits.tokens_per_minute, sum(tokens for _, tokens in rows)),
        ):
            if limit:
                self.headers[f"x-ratelimit-limit-{kind}"] = str(limit)
                self.headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, limit - used))
                self.headers[f"x-ratelimit-reset-{kind}"] = reset


def _rows(connection: sqlite3.Connection, key: str, now: float) -> list[tuple[float, int]]:
    """Return (start, tokens) of a key's requests of the last minute, and of those under way, oldest first."""
    query = "SELECT started, tokens FROM usage WHERE key = ? AND (started > ? OR running) ORDER BY started"
    return connection.execute(query, (key, now - _WINDOW)).fetchall()
