"""Measures what clients notice when the served version changes: failed requests, and times during a swap.

    python -m benchmarks.serving.swaps --engine vllm --rows .ragtune/swaps.jsonl [--swaps 10] [--clients 4]
    python -m benchmarks.serving.swaps --engine stand-in --rows .ragtune/swaps.jsonl --least 4000

Two released versions take turns as champion while clients ask without a pause. A swap begins when the registry names
the other version, and ends when the engine of the old one is gone. vLLM serves the packaged model in INT8, twice: the
versions differ in their manifests only, because what is measured is the change. Each run appends its requests and
swaps to the file of rows, so that a long measurement may be done in parts; `swaps.json` has the scores of all rows.

Goals: ten swaps on vLLM, at least 1,000 requests to it and 5,000 in all, 0 failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.clients import Clients, Request, outcomes, times
from benchmarks.serving.overhead import questions
from benchmarks.serving.served_home import ServedHome, facts, plain, served_home
from ragtune.settings import load_settings
from ragtune.store.registry import ModelRegistry

SWAP_SECONDS = 300.0
"""A swap that takes longer is stuck: an engine starts in half a minute on a machine that does nothing else."""
_POLL_SECONDS = 0.1


def main() -> None:
    """Swap under load, append the rows, then print and write the scores of all rows."""
    options = _options()
    if options.swaps:
        with served_home(real=options.engine == "vllm") as home:
            rows = measure(home, options)
        options.rows.parent.mkdir(parents=True, exist_ok=True)
        with options.rows.open("a") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    result = {**facts("benchmarks.serving.swaps"), **scores(rows)}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["vllm", "stand-in"], default="vllm")
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines file; rows in it are kept")
    parser.add_argument("--swaps", type=int, default=10, help="0 only scores the rows")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--least", type=int, default=1000, help="requests in all of this run")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    return parser.parse_args()


def measure(home: ServedHome, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each swap and for each request."""
    registry = ModelRegistry(load_settings({"home": home.home}))
    swaps: list[dict[str, Any]] = []
    between = options.least // (options.swaps + 1)
    with Clients(home.url, home.key, questions(), options.clients) as clients:
        clients.wait_for(between // 2, SWAP_SECONDS)
        for number in range(options.swaps):
            version = "2" if registry.alias_version("champion") == "1" else "1"
            began, before = time.monotonic(), len(clients.requests)
            registry.move("champion", version)
            served = _wait(home, version)
            swaps.append({"kind": "swap", "began": began, "served": served, "ended": time.monotonic()})
            clients.wait_for(max(0, between - (len(clients.requests) - before)), SWAP_SECONDS)
            print(f"swap {number + 1} of {options.swaps}, {outcomes(clients.requests)}", file=sys.stderr)
    origin = swaps[0]["began"]
    rows: list[dict[str, Any]] = [*swaps, *({"kind": "request", **plain(request)} for request in clients.requests)]
    return [{"engine": options.engine, "run": round(time.time()), **_relative(row, origin)} for row in rows]


def _wait(home: ServedHome, version: str) -> float:
    """Wait until a version serves and is the only one with an engine; return the moment when it began to serve."""
    end, served = time.monotonic() + SWAP_SECONDS, 0.0
    while time.monotonic() < end:
        live = home.status()["live"] or {}
        if not served and (live.get("version"), live.get("state")) == (version, "ready"):
            served = time.monotonic()
        if served and len(home.engines()) == 1:
            return served
        time.sleep(_POLL_SECONDS)
    raise SystemExit(f"Version {version} was not served alone after {SWAP_SECONDS:.0f} s: {home.status()}")


def _relative(row: dict[str, Any], origin: float) -> dict[str, Any]:
    """Return a row whose moments count from the first swap, in seconds."""
    moments = {"began", "served", "ended"}
    return {name: round(value - origin, 3) if name in moments else value for name, value in row.items()}


def scores(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what clients noticed, by engine and in all."""
    by_engine = {name: _scores_of([row for row in rows if row["engine"] == name]) for name in ("vllm", "stand-in")}
    return {
        "requests": sum(part["requests"] for part in by_engine.values()),
        "not answered": sum(part["not answered"] for part in by_engine.values()),
        "engines": by_engine,
    }


def _scores_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    requests, during, swaps = [], [], [row for row in rows if row["kind"] == "swap"]
    for row in rows:
        if row["kind"] != "request":
            continue
        request = Request(**{name: row[name] for name in Request.__dataclass_fields__})
        requests.append(request)
        ended = request.began + request.seconds
        if any(swap["run"] == row["run"] and request.began < swap["ended"] and ended > swap["began"] for swap in swaps):
            during.append(request)
    calm = [request for request in requests if not any(request is one for one in during)]
    seconds = sorted(round(swap["served"] - swap["began"], 1) for swap in swaps)
    return {
        "swaps": len(swaps),
        "requests": len(requests),
        "not answered": sum(request.outcome != "answered" for request in requests),
        "outcomes": outcomes(requests),
        "answers by version": {
            version: sum(request.version == version for request in requests)
            for version in sorted({request.version for request in requests})
        },
        "seconds until the new version answers": seconds,
        "during a swap": times(during),
        "between swaps": times(calm),
        "errors": sorted({request.error for request in requests if request.error})[:10],
    }


if __name__ == "__main__":
    main()
