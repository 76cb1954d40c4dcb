"""An open-loop load generator: requests are sent when they are due, however long earlier ones take.

Times are counted from the moment at which a request was due. If the gateway or the generator itself is late, the wait
is part of the latency, as it is for a user. See docs/decisions/own-load-generator.md.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE_SECONDS = 120.0
"""How long a request may take before it counts as failed. Chosen by hand: nobody waits longer for an answer."""
_CONNECT_SECONDS = 30.0
"""A saturated gateway accepts late; chosen by hand, not sensitive."""
_DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway: its URL without `/v1`, and a key that may ask questions and read `/metrics`."""

    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request."""
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a load: when it is due, in seconds from the beginning, and the body of the chat request."""

    due: float
    body: Mapping[str, Any]


@dataclass(slots=True)
class Sample:
    """What became of one request.

    `due` and `sent` are seconds from the beginning of the load; `first`, the first text, and `total` are seconds after
    `due`. Without a stream `first` is `total`. `between` is the time per token after the first, 0 if that is not known.
    `status` is that of HTTP, 0 if no whole answer came. `retry_after` says whether that header came.
    """

    due: float
    sent: float = 0.0
    first: float = 0.0
    total: float = 0.0
    between: float = 0.0
    status: int = 0
    retry_after: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    texts: list[float] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether a whole answer came."""
        return self.status == httpx.codes.OK

    @property
    def limited(self) -> bool:
        """Whether the gateway said that it has too much to do, or the key may not ask more."""
        return self.status == httpx.codes.TOO_MANY_REQUESTS

    @property
    def end(self) -> float:
        """Seconds from the beginning of the load to the end of this request."""
        return self.due + self.total


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return when `rate` requests per second are due, as they come from many independent users.

    The times are uniform and sorted: a Poisson process, given its number of arrivals, which is thus the same for every
    seed. At least one request is due.
    """
    draws = random.Random(seed)
    return sorted(draws.uniform(0, seconds) for _ in range(max(1, round(rate * seconds))))


def run_load(
    target: Target,
    requests: Sequence[Request],
    patience: float = PATIENCE_SECONDS,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> list[Sample]:
    """Send every request when it is due, and return what became of each, in their order.

    `meanwhile` is called at the beginning, and runs next to the load.
    """
    return asyncio.run(_run(target, requests, patience, meanwhile))


def run_one_by_one(target: Target, bodies: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Send each request as soon as the one before is answered: the latency of a single user."""

    async def run() -> list[Sample]:
        async with _client(target, PATIENCE_SECONDS) as client:
            began = time.perf_counter()
            return [await _send(client, Request(time.perf_counter() - began, body), began) for body in bodies]

    return asyncio.run(run())


async def _run(
    target: Target,
    requests: Sequence[Request],
    patience: float,
    meanwhile: Callable[[], Awaitable[None]] | None,
) -> list[Sample]:
    async with _client(target, patience) as client:
        began = time.perf_counter()
        tasks = [asyncio.create_task(_when_due(client, request, began, patience)) for request in requests]
        if meanwhile is not None:
            await meanwhile()
        return list(await asyncio.gather(*tasks))


def _client(target: Target, patience: float) -> httpx.AsyncClient:
    # No limit of connections: a request that waits for a free one would not be sent when it is due.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(patience, connect=_CONNECT_SECONDS)
    return httpx.AsyncClient(base_url=target.url, headers=target.headers, limits=limits, timeout=timeout)


async def _when_due(client: httpx.AsyncClient, request: Request, began: float, patience: float) -> Sample:
    await asyncio.sleep(began + request.due - time.perf_counter())
    try:
        async with asyncio.timeout(patience):
            return await _send(client, request, began)
    except TimeoutError:
        return Sample(due=request.due, sent=request.due, total=patience)


async def _send(client: httpx.AsyncClient, request: Request, began: float) -> Sample:
    """Send one request; a failure is part of the measurement, so it is returned and not raised."""
    sample = Sample(due=request.due, sent=time.perf_counter() - began)
    try:
        async with client.stream("POST", "/v1/chat/completions", json=request.body) as response:
            sample.retry_after = "retry-after" in response.headers
            whole = response.status_code != httpx.codes.OK
            if not whole:
                read = _read_stream if request.body.get("stream") else _read_whole
                whole = await read(response, sample, began)
            sample.status = response.status_code if whole else 0
    except httpx.HTTPError:
        sample.status = 0
    sample.total = time.perf_counter() - began - request.due
    sample.first = sample.texts[0] - request.due if sample.texts else sample.total
    if len(sample.texts) > 1 and sample.completion_tokens > 1:
        sample.between = (sample.texts[-1] - sample.texts[0]) / (sample.completion_tokens - 1)
    return sample


async def _read_whole(response: httpx.Response, sample: Sample, began: float) -> bool:  # noqa: ARG001
    """Read an answer that comes in one piece, and return whether it is whole."""
    await response.aread()
    _count(response.json().get("usage"), sample)
    return True


async def _read_stream(response: httpx.Response, sample: Sample, began: float) -> bool:
    """Read a stream of server-sent events, and return whether it came to its end without an error."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        text = line.removeprefix("data:").strip()
        if text == _DONE:
            return True
        event = json.loads(text)
        if "error" in event:
            return False
        if any(choice["delta"].get("content") for choice in event.get("choices", ())):
            sample.texts.append(time.perf_counter() - began)
        _count(event.get("usage"), sample)
    return False


def _count(usage: Mapping[str, int] | None, sample: Sample) -> None:
    if usage:
        sample.prompt_tokens = usage["prompt_tokens"]
        sample.completion_tokens = usage["completion_tokens"]
