"""Limits of a key: requests and tokens a minute, requests at once, and tokens a day.

A request is counted before it is answered. The tokens of its prompt and of its longest answer are reserved before they
are generated, and settled afterwards: requests that arrive together never pass a limit. The rules are here; where the
counts are kept is in ledgers.py.
"""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ragtune.errors import RagTuneError, SettingsError

WINDOW = 60.0
"""Seconds over which requests and tokens are counted: limits are per minute."""
LEASE = 900.0
"""Seconds after which a request counts as ended although nobody said so: its process was killed. Chosen by hand: longer
than the longest answer (`gateway.timeout_seconds` is 600)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may use; 0 means no limit. A day begins at midnight UTC."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0
    tokens_per_day: int = 0

    def __bool__(self) -> bool:
        return any((self.requests_per_minute, self.tokens_per_minute, self.concurrency, self.tokens_per_day))


class LimitError(RagTuneError):
    """A key has used what it may.

    `retry_after` is the number of seconds until there is room again; `headers` say what is left.
    """

    def __init__(self, found: str, retry_after: float, headers: dict[str, str]) -> None:
        self.retry_after, self.headers = max(1, math.ceil(retry_after)), headers
        super().__init__(found, fix=f"ask again in {self.retry_after} s")


@dataclass(frozen=True, slots=True)
class CountedRequest:
    """One request of a key: when it began, its tokens (reserved while it is running), and whether it is running."""

    started: float
    tokens: int = 0
    running: bool = True


@dataclass(slots=True)
class Account:
    """What one key has used: the requests that still count, and the tokens that were settled today.

    Its methods decide and count; a ledger keeps the result. `now` is a Unix time.
    """

    limits: Limits
    requests: dict[str, CountedRequest] = field(default_factory=dict)
    settled_today: int = 0

    def begin(self, request: str, now: float) -> dict[str, str]:
        """Count a request and return the headers for its response; raise LimitError if the key has too many."""
        self._forget(now)
        limits, rows = self.limits, self._by_time()
        if limits.requests_per_minute and len(rows) >= limits.requests_per_minute:
            free_at = rows[len(rows) - limits.requests_per_minute].started + WINDOW
            raise self._error(f"This key may ask {limits.requests_per_minute} times a minute.", free_at - now, now)
        if limits.concurrency and sum(row.running for row in rows) >= limits.concurrency:
            raise self._error(f"This key may have {limits.concurrency} requests under way at once.", 1, now)
        self._check_tokens(1, rows, now)
        self.requests[request] = CountedRequest(now)
        return self.headers(now)

    def charge(self, request: str, tokens: int, now: float) -> dict[str, str]:
        """Reserve the tokens of a request and return the headers; raise LimitError if that is too many now.

        Raises SettingsError for more tokens than the key may ever use at once.
        """
        limits = self.limits
        for limit, time in ((limits.tokens_per_minute, "minute"), (limits.tokens_per_day, "day")):
            if limit and tokens > limit:
                raise SettingsError(
                    f"The request needs up to {tokens} tokens; this key may use {limit} a {time}.",
                    fix="lower max_tokens, or shorten the conversation",
                )
        self._forget(now)
        row = self.requests.pop(request, CountedRequest(now))  # what it reserved before does not count twice
        self._check_tokens(tokens, self._by_time(), now)
        self.requests[request] = CountedRequest(row.started, tokens)
        return self.headers(now)

    def settle(self, request: str, tokens: int | None) -> dict[str, str]:
        """End a request with the tokens that it really used; None forgets it, because it was not answered."""
        row = self.requests.pop(request, None)
        if tokens is not None:
            self.settled_today += tokens
            if row is not None:
                self.requests[request] = CountedRequest(row.started, tokens, running=False)
        return {}

    def headers(self, now: float) -> dict[str, str]:
        """Return the headers that OpenAI's clients know, and the same for a day.

        `reset` is when the oldest request no longer counts, or the day ends.
        """
        rows, limits = self._by_time(), self.limits
        minute = max(0.0, rows[0].started + WINDOW - now) if rows else 0.0
        counts = (
            ("requests", limits.requests_per_minute, len(rows), minute),
            ("tokens", limits.tokens_per_minute, sum(row.tokens for row in rows), minute),
            ("tokens-day", limits.tokens_per_day, self._used_today(), _rest_of_day(now)),
        )
        headers: dict[str, str] = {}
        for kind, limit, used, reset in counts:
            if limit:
                headers[f"x-ratelimit-limit-{kind}"] = str(limit)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, limit - used))
                headers[f"x-ratelimit-reset-{kind}"] = f"{reset:.0f}s"
        return headers

    def _check_tokens(self, tokens: int, rows: list[CountedRequest], now: float) -> None:
        """Raise LimitError if these tokens, added to what is used, pass a limit."""
        limits = self.limits
        if limits.tokens_per_day and self._used_today() + tokens > limits.tokens_per_day:
            raise self._error(f"This key may use {limits.tokens_per_day} tokens a day.", _rest_of_day(now), now)
        excess = sum(row.tokens for row in rows) + tokens - limits.tokens_per_minute
        if not limits.tokens_per_minute or excess <= 0:
            return
        free_at = now
        for row in rows:
            if excess <= 0:
                break
            excess -= row.tokens
            free_at = row.started + WINDOW
        raise self._error(f"This key may use {limits.tokens_per_minute} tokens a minute.", free_at - now, now)

    def _used_today(self) -> int:
        return self.settled_today + sum(row.tokens for row in self.requests.values() if row.running)

    def _forget(self, now: float) -> None:
        """Forget requests that ended over a minute ago, and those whose process must have been killed."""
        self.requests = {
            name: row
            for name, row in self.requests.items()
            if row.started > now - (LEASE if row.running else WINDOW)
        }  # fmt: skip

    def _by_time(self) -> list[CountedRequest]:
        return sorted(self.requests.values(), key=lambda row: row.started)

    def _error(self, found: str, retry_after: float, now: float) -> LimitError:
        return LimitError(found, retry_after, self.headers(now))


def day_of(now: float) -> str:
    """Return the day of a Unix time, in UTC and ISO format."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def _rest_of_day(now: float) -> float:
    """Return the seconds until midnight UTC."""
    time = datetime.fromtimestamp(now, UTC)
    midnight = (time + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - time).total_seconds()
