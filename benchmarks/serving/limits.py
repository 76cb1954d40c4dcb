"""Measures by how much clients that ask at the same time pass the limits of their key.

    python -m benchmarks.serving.limits [--clients 64] [--questions 5]

For every kind of limit a key is made, and all clients ask with it as fast as they can: first a gateway in this process,
then `ragtune serve` with two workers, which are processes that share the ledger of one home. What was used is counted
outside the gateway: in the answers, and in the mock engine for requests under way at once. Writes limits.json next to
this script.

Goal: an overshoot of 0 for every limit.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.serving.mock_gateway import Mocked, MockEngine, ServedApp, mock_home
from benchmarks.serving.served_home import ServedHome, facts
from ragtune.backends.engines import RemoteEngine
from ragtune.ports import RunningEngine
from ragtune_serving.keys import KeyStore
from ragtune_serving.limits import MICROS, WINDOW, Limits

LIMITS: dict[str, Any] = {
    "requests_per_minute": 100,
    "tokens_per_minute": 20_000,
    "concurrency": 8,
    "tokens_per_day": 20_000,
    "budget_per_day": 0.02,
}
"""{limit: its value}. Chosen by hand: each is used up before all clients have asked all questions."""
PRICE = 1.0
"""Money per million tokens."""
WORKERS = 2
"""Processes of the second gateway: two cores have no use for more."""
NAME = "metered"
_KEY_SECONDS = 1.5
"""A new key is known in all workers within a second."""
_PAUSE = 0.02
"""Seconds that the mock engine takes, so that requests overlap. Chosen by hand."""
_PROMPT_TOKENS = 5
"""Tokens of a prompt as the mock engine counts. Chosen by hand: fewer than any prompt has, because an engine that
counts more than the gateway reserved would pass a limit by that much."""


class MeteredEngine(MockEngine):
    """Starts mock servers that write answers of the longest length that they may; `most` is how many ran at once."""

    def __init__(self) -> None:
        super().__init__({})
        self.running_now, self.most = 0, 0

    def launch(self, model: Path, name: str, at_once: int = 1) -> RunningEngine:  # noqa: ARG002 the interface's
        """Start a server."""
        routes = [Route("/v1/chat/completions", self._chat, methods=["POST"])]
        listed = JSONResponse({"object": "list", "data": [{"id": name, "object": "model"}]})
        routes += [Route(path, lambda _: listed) for path in ("/v1/models", "/health")]
        self.servers.append(ServedApp(Starlette(routes=routes)))
        return RemoteEngine(f"{self.servers[-1].url}/v1", "none", name, Path("mock.log"))

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.running_now += 1
        self.most = max(self.most, self.running_now)
        await asyncio.sleep(_PAUSE)
        self.running_now -= 1
        longest = body["max_tokens"]
        usage = {
            "prompt_tokens": _PROMPT_TOKENS,
            "completion_tokens": longest,
            "total_tokens": _PROMPT_TOKENS + longest,
        }
        message = {"role": "assistant", "content": "It opens at nine."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "mock", "object": "chat.completion", "created": int(time.time()), "model": body["model"]}
        return JSONResponse({**head, "choices": [choice], "usage": usage})


def measure(home: Path, limits: dict[str, Any], clients: int, questions: int) -> list[dict[str, Any]]:
    """Return one row for each limit: what is allowed, what was used, and by how much that is more."""
    sections = {"gateway": {"poll_seconds": 0.2, "price": {"prompt": PRICE, "completion": PRICE}}}
    engine = MeteredEngine()
    with Mocked(home, {}, engine=engine, **sections) as gateway:
        return _measure(gateway.url, home, engine, "ragtune", limits, (clients, questions))


def measure_workers(folder: Path, limits: dict[str, Any], clients: int, questions: int) -> list[dict[str, Any]]:
    """Return the same rows for a gateway with several workers, each a process of its own."""
    engine = MeteredEngine()
    upstream = engine.launch(folder, NAME)
    home = ServedHome(
        folder,
        environment={
            "RAGTUNE_GATEWAY__WORKERS": str(WORKERS),
            "RAGTUNE_GATEWAY__PRICE": json.dumps({"prompt": PRICE, "completion": PRICE}),
            "RAGTUNE_ENGINE__BACKEND": "openai",
            "RAGTUNE_ENGINE__URL": upstream.url,
            "RAGTUNE_ENGINE__MODEL": NAME,
        },
    )
    try:
        home.start()
        # Without retrieval: these questions are not about the documents, and a refusal would ask no engine.
        return _measure(home.url, home.home, engine, "ragtune-raw", limits, (clients, questions))
    finally:
        home.stop()
        engine.servers[0].close()


def _measure(
    url: str, home: Path, engine: MeteredEngine, model: str, limits: dict[str, Any], load: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return a row for each limit; `load` is the number of clients, and of questions of each."""
    keys, rows = KeyStore(home / "keys"), []
    for name, value in limits.items():
        key = keys.create(name, limits=replace(Limits(), **{name: value}))
        time.sleep(_KEY_SECONDS)
        engine.most = 0
        began = time.monotonic()
        answers = asyncio.run(_ask(url, key, model, *load))
        if time.monotonic() - began > WINDOW:
            raise SystemExit(f"The requests took over {WINDOW:.0f} s, so limits per minute say nothing: ask fewer.")
        rows.append(_row(name, value, answers, engine.most))
    return rows


async def _ask(url: str, key: str, model: str, clients: int, questions: int) -> list[httpx.Response]:
    """Let clients ask questions at the same time, each one after the other, and return all responses."""

    async def ask(number: int) -> list[httpx.Response]:
        messages = [{"role": "user", "content": f"When does shop {number} open?"}]
        body = {"model": model, "messages": messages, "ragtune": {"cache": "no-store"}}
        return [await http.post(f"{url}/v1/chat/completions", json=body) for _ in range(questions)]

    headers = {"Authorization": f"Bearer {key}"}
    # Without connections that are kept: the gateway closes those that were idle, perhaps while a request is sent.
    pool = httpx.Limits(max_connections=clients, max_keepalive_connections=0)
    async with httpx.AsyncClient(headers=headers, timeout=120, limits=pool) as http:
        return [answer for answers in await asyncio.gather(*map(ask, range(clients))) for answer in answers]


def _row(name: str, allowed: float, answers: Sequence[httpx.Response], most: int) -> dict[str, Any]:
    statuses = Counter(answer.status_code for answer in answers)
    if others := set(statuses) - {httpx.codes.OK, httpx.codes.TOO_MANY_REQUESTS}:
        wrong = next(answer for answer in answers if answer.status_code in others)
        raise SystemExit(f"The gateway answered {wrong.status_code}: {wrong.text}")
    tokens = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.is_success)
    used = {
        "requests_per_minute": statuses[httpx.codes.OK],
        "concurrency": most,
        "budget_per_day": tokens * PRICE / MICROS,
    }.get(name, tokens)
    return {
        "limit": name,
        "allowed": allowed,
        "used": used,
        "overshoot": round(max(0, used - allowed), 6),
        "answered": statuses[httpx.codes.OK],
        "refused": statuses[httpx.codes.TOO_MANY_REQUESTS],
    }


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--questions", type=int, default=5, help="questions of each client")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    with TemporaryDirectory(prefix="ragtune-limits-") as folder:
        rows = measure(mock_home(Path(folder) / "one"), LIMITS, options.clients, options.questions)
        shared = measure_workers(Path(folder) / "several", LIMITS, options.clients, options.questions)
    result = {
        **facts("benchmarks.serving.limits"),
        "clients": options.clients,
        "results": rows,
        "workers": WORKERS,
        "results with several workers": shared,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
