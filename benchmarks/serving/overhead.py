"""Measures what the gateway adds to an engine: latency and throughput of four paths, interleaved in one run.

    python -m benchmarks.serving.overhead

The paths: the mock engine alone, LiteLLM's router alone in front of it, the gateway without retrieval, and the gateway
with retrieval over the pages of docs/decisions/. Every round visits all of them at each concurrency, in an order that
rotates, so that whatever else the machine does falls on all paths alike. Every process runs one worker.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from benchmarks.serving.upstream import MODEL
from ragtune.backends.engines import free_port
from ragtune.evaluation.benchmark import hardware
from ragtune.settings import child_environment

ROOT = Path(__file__).parents[2]
INDEXED = ROOT / "docs" / "decisions"
"""The documents behind the gateway with retrieval: some 150 passages."""
CONCURRENCY = (1, 8, 32)
START_SECONDS = 600
"""How long a server may take to start on a busy machine."""


@dataclass(frozen=True, slots=True)
class Target:
    """One path: where requests go and what they name."""

    name: str
    url: str
    key: str
    model: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: seconds to the first token, and to the end."""

    first: float
    total: float


def questions() -> list[str]:
    """Return a question about each indexed page, so that retrieval has different work each time."""
    titles = [page.read_text().partition("\n")[0].lstrip("# ") for page in sorted(INDEXED.glob("*.md"))]
    return [f"Why was it decided that {title[0].lower()}{title[1:]}?" for title in titles]


def fresh_questions() -> Iterator[str]:
    """Yield questions that were not asked before: the vectors of those that were may be kept."""
    asked = questions()
    for number in count():
        yield f"{asked[number % len(asked)]} (Question {number})"


@contextmanager
def running(command: Sequence[str], ready: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run a server for the length of the block, once it answers at `ready`."""
    with log.open("ab") as stream:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{' '.join(command)} did not start:\n{log.read_text()}")
            try:
                if httpx.get(ready).status_code < 500:
                    break
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def targets(home: Path) -> Iterator[list[Target]]:
    """Yield the four paths, with an index of docs/decisions/ behind the gateway."""
    ports = [free_port() for _ in range(3)]
    engine, router, gateway = (f"http://127.0.0.1:{port}" for port in ports)
    environment = child_environment(
        RAGTUNE_HOME=str(home),
        RAGTUNE_CONFIG=str(home / "ragtune.yaml"),
        RAGTUNE_ENGINE__BACKEND="openai",
        RAGTUNE_ENGINE__URL=f"{engine}/v1",
        RAGTUNE_ENGINE__MODEL=MODEL,
        RAGTUNE_GATEWAY__PORT=str(ports[2]),
        RAGTUNE_GATEWAY__CACHE__ENTRIES="0",  # the same questions come again and again
    )
    (home / "ragtune.yaml").write_text("sources: []\n")
    cli = [sys.executable, "-m", "ragtune_serving.cli"]
    subprocess.run([*cli, "index", "--source", f"folder:{INDEXED}"], cwd=ROOT, env=environment, check=True)
    mock = [sys.executable, "-m", "benchmarks.serving.upstream"]
    with ExitStack() as servers:
        log = home / "servers.log"
        servers.enter_context(running([*mock, "engine", str(ports[0])], f"{engine}/v1/models", environment, log))
        through = [*mock, "router", str(ports[1]), f"{engine}/v1"]
        servers.enter_context(running(through, f"{router}/", environment, log))
        servers.enter_context(running([*cli, "serve"], f"{gateway}/health/readiness", environment, log))
        key = (home / "keys" / "client.key").read_text().strip()
        yield [
            Target("engine", engine, "none", MODEL),
            Target("router", router, "none", MODEL),
            Target("gateway without retrieval", gateway, key, "ragtune-raw"),
            Target("gateway with retrieval", gateway, key, "ragtune"),
        ]


async def load(target: Target, texts: Sequence[str], concurrency: int, stream: bool) -> tuple[list[Sample], float]:
    """Ask all questions with this many at once; return a sample per request, and the seconds for all."""
    waiting = list(reversed(texts))
    samples: list[Sample] = []
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    headers = {"Authorization": f"Bearer {target.key}"}

    async def client(session: httpx.AsyncClient) -> None:
        while waiting:
            messages = [{"role": "user", "content": waiting.pop()}]
            body = {"model": target.model, "messages": messages, "stream": stream}
            began, first = time.perf_counter(), 0.0
            async with session.stream("POST", f"{target.url}/v1/chat/completions", json=body) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise SystemExit(f"{target.name} answered {answer.status_code}: {(await answer.aread()).decode()}")
                async for line in answer.aiter_lines():
                    if not first and '"content": "' in line.replace('":"', '": "'):
                        first = time.perf_counter() - began
            samples.append(Sample(first, time.perf_counter() - began))

    async with httpx.AsyncClient(timeout=120, limits=limits, headers=headers) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
        return samples, time.perf_counter() - began


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile in milliseconds: the smallest value with at least this share at or below it."""
    ordered = sorted(values)
    return round(1000 * ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)], 2)


def main() -> None:
    """Measure and write `overhead.json` next to this script."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended, too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=96, help="requests of each path at each concurrency in a round")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    samples: dict[tuple[str, int, bool], list[Sample]] = defaultdict(list)
    seconds: dict[tuple[str, int, bool], float] = defaultdict(float)
    fresh = fresh_questions()
    with TemporaryDirectory(prefix="ragtune-overhead-") as folder, targets(Path(folder)) as paths:
        for target in paths:  # so that no path pays for imports and first connections
            asyncio.run(load(target, questions()[:16], 4, stream=False))
        for number in range(options.rounds):
            for concurrency in CONCURRENCY:
                for stream in (False, True):
                    texts = [next(fresh) for _ in range(options.requests)]
                    for place in range(len(paths)):
                        target = paths[(place + number) % len(paths)]
                        measured, took = asyncio.run(load(target, texts, concurrency, stream))
                        samples[target.name, concurrency, stream] += measured
                        seconds[target.name, concurrency, stream] += took
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        names = [target.name for target in paths]
    rows = [
        {
            "path": name,
            "concurrency": concurrency,
            "n": len(samples[name, concurrency, False]),
            "p50_ms": percentile([sample.total for sample in samples[name, concurrency, False]], 0.5),
            "p99_ms": percentile([sample.total for sample in samples[name, concurrency, False]], 0.99),
            "first_token_p50_ms": percentile([sample.first for sample in samples[name, concurrency, True]], 0.5),
            "requests_per_second": round(len(samples[name, concurrency, False]) / seconds[name, concurrency, False], 1),
        }
        for concurrency in CONCURRENCY
        for name in names
    ]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    result = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", "benchmarks.serving.overhead", *sys.argv[1:]]),
        "commit": commit.strip(),
        "hardware": hardware(),
        "load_average_at_the_end": [round(value, 2) for value in os.getloadavg()],
        "packages": {name: version(name) for name in ("litellm", "fastapi", "uvicorn")},
        "results": rows,
    }
    options.out.write_text("{\n" + ",\n".join(
        f' "{name}": ' + (
            "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]" if name == "results" else json.dumps(value)
        )
        for name, value in result.items()
    ) + "\n}\n")  # fmt: skip
    for row in rows:
        print("  ".join(f"{value!s:>12}" for value in row.values()))


if __name__ == "__main__":
    main()
