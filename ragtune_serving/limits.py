"""Limits of a key: requests and tokens a minute, requests at once, and tokens and money a day.

A request is counted before it is answered. The tokens of its prompt and of its longest answer are reserved before they
are generated, and settled afterwards: requests that arrive together never pass a limit. The rules are here; where the
counts are kept is in ledgers.py.
"""

import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

from ragtune.errors import RagTuneError, SettingsError
from ragtune.gateway_settings import GatewaySettings, PriceSettings

WINDOW = 60.0
"""Seconds over which requests and tokens are counted: limits are per minute."""
LEASE = 900.0
"""Seconds after which a request counts as ended although nobody said so: its process was killed. Chosen by hand: longer
than the longest answer (`gateway.timeout_seconds` is 600)."""


MICROS = 1_000_000
"""Parts into which a unit of money is divided, so that costs are whole numbers and add up exactly."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may use; 0 means no limit. A day begins at midnight UTC.

    `budget_per_day` is in the currency of the prices in the settings.
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0
    tokens_per_day: int = 0
    budget_per_day: float = 0.0

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def over(self, general: "Limits") -> "Limits":
        """Return these limits, with the general one in place of each that is 0."""
        return Limits(**{name: value or getattr(general, name) for name, value in asdict(self).items()})

    @property
    def budget(self) -> int:
        """The budget of a day in millionths."""
        return round(self.budget_per_day * MICROS)


@dataclass(frozen=True, slots=True)
class Use:
    """What a request uses: tokens of the prompt and of the answer together, and their cost in millionths."""

    tokens: int = 0
    cost: int = 0

    def __mul__(self, times: int) -> "Use":
        return Use(self.tokens * times, self.cost * times)


NOTHING = Use()


class LimitError(RagTuneError):
    """A key has used what it may.

    `retry_after` is the number of seconds until there is room again; `headers` say what is left.
    """

    def __init__(self, found: str, retry_after: float, headers: dict[str, str]) -> None:
        self.retry_after, self.headers = max(1, math.ceil(retry_after)), headers
        super().__init__(found, fix=f"ask again in {self.retry_after} s")


@dataclass(frozen=True, slots=True)
class CountedRequest:
    """One request of a key: when it began, what it uses (reserved while it is running), and whether it is running."""

    started: float
    tokens: int = 0
    running: bool = True
    cost: int = 0


@dataclass(slots=True)
class Account:
    """What one key has used: the requests that still count, and the tokens and costs that were settled today.

    Its methods decide and count; a ledger keeps the result. `now` is a Unix time.
    """

    limits: Limits
    requests: dict[str, CountedRequest] = field(default_factory=dict)
    settled_today: Use = NOTHING

    def begin(self, request: str, now: float) -> dict[str, str]:
        """Count a request and return the headers for its response; raise LimitError if the key has too many."""
        self._forget(now)
        limits, rows = self.limits, self._by_time()
        if limits.requests_per_minute and len(rows) >= limits.requests_per_minute:
            free_at = rows[len(rows) - limits.requests_per_minute].started + WINDOW
            raise self._error(f"This key may ask {limits.requests_per_minute} times a minute.", free_at - now, now)
        if limits.concurrency and sum(row.running for row in rows) >= limits.concurrency:
            raise self._error(f"This key may have {limits.concurrency} requests under way at once.", 1, now)
        self._check(Use(1, 1), rows, now)
        self.requests[request] = CountedRequest(now)
        return self.headers(now)

    def charge(self, request: str, use: Use, now: float) -> dict[str, str]:
        """Reserve what a request may use and return the headers; raise LimitError if that is too much now.

        Raises SettingsError for more than the key may ever use at once.
        """
        limits, shorter = self.limits, "lower max_tokens, or shorten the conversation"
        for limit, time in ((limits.tokens_per_minute, "minute"), (limits.tokens_per_day, "day")):
            if limit and use.tokens > limit:
                message = f"The request needs up to {use.tokens} tokens; this key may use {limit} a {time}."
                raise SettingsError(message, fix=shorter)
        if limits.budget and use.cost > limits.budget:
            message = f"The request may cost {_money(use.cost)}; this key may spend {_money(limits.budget)} a day."
            raise SettingsError(message, fix=shorter)
        self._forget(now)
        row = self.requests.pop(request, CountedRequest(now))  # what it reserved before does not count twice
        self._check(use, self._by_time(), now)
        self.requests[request] = CountedRequest(row.started, use.tokens, cost=use.cost)
        return self.headers(now)

    def settle(self, request: str, use: Use | None) -> dict[str, str]:
        """End a request with what it really used; None forgets it, because it was not answered.

        There are no headers to return: those of the response were sent before.
        """
        row = self.requests.pop(request, None)
        if use is not None:
            today = self.settled_today
            self.settled_today = Use(today.tokens + use.tokens, today.cost + use.cost)
            if row is not None:
                self.requests[request] = CountedRequest(row.started, use.tokens, running=False, cost=use.cost)
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
            ("tokens-day", limits.tokens_per_day, self._used_today().tokens, _rest_of_day(now)),
        )
        headers: dict[str, str] = {}
        for kind, limit, used, reset in counts:
            if limit:
                headers[f"x-ratelimit-limit-{kind}"] = str(limit)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, limit - used))
                headers[f"x-ratelimit-reset-{kind}"] = f"{reset:.0f}s"
        if limits.budget:
            headers["x-ratelimit-limit-cost-day"] = _money(limits.budget)
            headers["x-ratelimit-remaining-cost-day"] = _money(max(0, limits.budget - self._used_today().cost))
            headers["x-ratelimit-reset-cost-day"] = f"{_rest_of_day(now):.0f}s"
        return headers

    def _check(self, use: Use, rows: list[CountedRequest], now: float) -> None:
        """Raise LimitError if this, added to what is used, passes a limit."""
        limits, today = self.limits, self._used_today()
        if limits.tokens_per_day and today.tokens + use.tokens > limits.tokens_per_day:
            raise self._error(f"This key may use {limits.tokens_per_day} tokens a day.", _rest_of_day(now), now)
        if limits.budget and today.cost + use.cost > limits.budget:
            raise self._error(f"This key may spend {_money(limits.budget)} a day.", _rest_of_day(now), now)
        excess = sum(row.tokens for row in rows) + use.tokens - limits.tokens_per_minute
        if not limits.tokens_per_minute or excess <= 0:
            return
        free_at = now
        for row in rows:
            if excess <= 0:
                break
            excess -= row.tokens
            free_at = row.started + WINDOW
        raise self._error(f"This key may use {limits.tokens_per_minute} tokens a minute.", free_at - now, now)

    def _used_today(self) -> Use:
        running = [row for row in self.requests.values() if row.running]
        return Use(
            self.settled_today.tokens + sum(row.tokens for row in running),
            self.settled_today.cost + sum(row.cost for row in running),
        )

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


class Prices:
    """What tokens cost: of the engine, and of each fallback by its name."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._engine = settings.price
        self._fallbacks = {server.model: server.price for server in settings.fallbacks}

    def __bool__(self) -> bool:
        return any(price.prompt or price.completion for price in (self._engine, *self._fallbacks.values()))

    def most(self, prompt_tokens: int, completion_tokens: int) -> Use:
        """Return what a request uses at most, by the dearest server that may answer it."""
        prices = (self._engine, *self._fallbacks.values())
        cost = max(_cost(price, prompt_tokens, completion_tokens) for price in prices)
        return Use(prompt_tokens + completion_tokens, cost)

    def of(self, version: str, prompt_tokens: int, completion_tokens: int) -> Use:
        """Return what a request used; `version` is that of the model that answered, `fallback:NAME` for a fallback."""
        price = self._fallbacks.get(version.removeprefix("fallback:"), self._engine)
        return Use(prompt_tokens + completion_tokens, _cost(price, prompt_tokens, completion_tokens))


def _cost(price: PriceSettings, prompt_tokens: int, completion_tokens: int) -> int:
    """Return a cost in millionths, rounded up; a price is for a million tokens."""
    return math.ceil(price.prompt * prompt_tokens + price.completion * completion_tokens)


def _money(micros: int) -> str:
    return f"{micros / MICROS:g}" if micros >= MICROS else f"{micros / MICROS:.6f}".rstrip("0").rstrip(".")


def day_of(now: float) -> str:
    """Return the day of a Unix time, in UTC and ISO format."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def _rest_of_day(now: float) -> float:
    """Return the seconds until midnight UTC."""
    time = datetime.fromtimestamp(now, UTC)
    midnight = (time + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - time).total_seconds()
