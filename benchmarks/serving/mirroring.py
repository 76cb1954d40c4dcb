"""Measures what mirroring adds to the latency of users: the same gateway with and without it, interleaved in one run.

    python -m benchmarks.serving.mirroring [--rounds 20] [--requests 100]

The engines are mock servers that answer at once. Every round asks the same questions without mirroring, with all
requests mirrored to a second version when the engines are idle, and with all of them mirrored at once, in an order that
rotates. The queue holds half of a round's requests, so that some are dropped when mirrors wait. Answers are not cached,
because a cached answer is not mirrored. Writes mirroring.json next to this script. The gateway, the engines and the
client share one process, so what is compared are the differences between the rows, not their sizes.

`offer_p50_us` is what a user's request itself does for a mirror, called directly: a hash and a lock. It is measured in
addition, because on a busy machine the noise between whole requests is larger than that.

`added_p50_ms` is the mean over the rounds of the difference between a path's median and that of the path without
mirroring in the same round, with its 95% interval by the bootstrap over rounds. Every sampled request must have been
mirrored or dropped; otherwise nothing is written.

Goal: mirroring when idle adds less than 1 ms to p50.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from benchmarks.serving.mock_gateway import Mocked, mock_home
from benchmarks.serving.overhead import percentile
from ragtune.evaluation.agreement import bootstrapped
from ragtune.evaluation.benchmark import hardware
from ragtune.experiments.shadow import Mirror
from ragtune.store.shadows import ShadowDesign

PATHS = {"no mirroring": None, "mirrored when idle": True, "mirrored at once": False}
"""{path: whether mirrors wait until the engines are idle, None without mirroring}."""
REFERENCE = "no mirroring"


def main() -> None:
    """Measure and write `mirroring.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=100, help="requests of each path in a round")
    parser.add_argument("--seed", type=int, default=17, help="of the bootstrap")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    seconds: dict[str, list[list[float]]] = defaultdict(list)
    counts: dict[str, dict[str, int]] = {}
    without_cache = {"poll_seconds": 0.2, "cache": {"entries": 0}}
    with (
        TemporaryDirectory(prefix="ragtune-mirroring-") as folder,
        Mocked(mock_home(Path(folder)), {}, gateway=without_cache) as gateway,
        httpx.Client(headers={"Authorization": f"Bearer {gateway.key}"}, timeout=120) as client,
    ):
        _ask(client, gateway.url, options.requests)  # so that no path pays for imports and first connections
        for number in range(options.rounds):
            for place in range(len(PATHS)):
                path = list(PATHS)[(place + number) % len(PATHS)]
                seconds[path].append(_measure(client, gateway, path, number, options.requests, counts))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        offers = _offer(gateway)
    rows = [_row(path, seconds, counts.get(path, {}), options.seed) for path in PATHS]
    result = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", "benchmarks.serving.mirroring", *sys.argv[1:]]),
        "hardware": hardware(),
        "seed": options.seed,
        "offer_p50_us": round(1e6 * float(np.median(offers)), 1),
        "offer_p99_us": round(1e6 * float(np.quantile(offers, 0.99)), 1),
        "offers": len(offers),
        "load_average_at_the_end": [round(value, 2) for value in os.getloadavg()],
        "results": rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def _row(path: str, seconds: Mapping[str, list[list[float]]], counts: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Return what a path took; raise SystemExit if a sampled request was neither mirrored nor dropped."""
    dropped = sum(count for name, count in counts.items() if name.startswith("dropped: "))
    if PATHS[path] is not None and not counts["sampled"] == counts["mirrored"] + dropped > 0:
        raise SystemExit(f"{path}: of the sampled requests some are neither mirrored nor dropped: {dict(counts)}")
    medians = {name: np.array([percentile(round_, 0.5) for round_ in seconds[name]]) for name in (path, REFERENCE)}
    differences = medians[path] - medians[REFERENCE]
    added = bootstrapped(lambda draw: float(differences[draw].mean()), len(differences), seed)
    every = [value for round_ in seconds[path] for value in round_]
    return {
        "path": path,
        "n": len(every),
        "rounds": len(differences),
        "p50_ms": percentile(every, 0.5),
        "p99_ms": percentile(every, 0.99),
        "added_p50_ms": {name: round(getattr(added, name), 2) for name in ("value", "low", "high")},
        "counts": {**counts, "dropped": dropped},
    }


def _offer(gateway: Mocked, count: int = 5000) -> list[float]:
    """Return the seconds of each offer of a request; the queue is full, so that no engine is asked."""
    shadowing = gateway.services.chat.shadowing
    shadow = shadowing.store.start("offers", ShadowDesign(versions=("2",), share=1.0, queue=0))
    shadowing.refresh()
    seconds = []
    for number in range(count):
        mirror = Mirror(f"offered-{number}", "client", 300, None)
        began = time.perf_counter()
        shadowing.offer("1", mirror)
        seconds.append(time.perf_counter() - began)
    sampled = shadowing.counts()["2"]["sampled"]
    if sampled != count:
        raise SystemExit(f"{sampled} of {count} offered requests were sampled.")
    shadowing.store.stop(shadow.name)
    shadowing.refresh()
    return seconds


def _measure(
    client: httpx.Client, gateway: Mocked, path: str, number: int, requests: int, counts: dict[str, dict[str, int]]
) -> list[float]:
    """Return the seconds of each request of a path in one round; add its counts to `counts`."""
    shadowing = gateway.services.chat.shadowing
    when_idle = PATHS[path]
    if when_idle is None:
        return _ask(client, gateway.url, requests)
    design = ShadowDesign(versions=("2",), share=1.0, queue=max(1, requests // 2), when_idle=when_idle)
    shadow = shadowing.store.start(f"{path} {number}", design)
    shadowing.refresh()
    while (engine := gateway.services.deployment.engine_of("2")) is None or not engine.ready:
        time.sleep(0.05)
    measured = _ask(client, gateway.url, requests)
    while (now := shadowing.counts()["2"])["waiting"] + now["running"]:
        time.sleep(0.05)
    shadowing.store.stop(shadow.name)
    shadowing.refresh()
    total = counts.setdefault(path, defaultdict(int))
    for name, count in now.items():
        total[name] += count
    return measured


def _ask(client: httpx.Client, url: str, requests: int) -> list[float]:
    """Ask one question after the other and return the seconds of each."""
    seconds = []
    for number in range(requests):
        body = {"model": "ragtune", "messages": [{"role": "user", "content": f"What is number {number}?"}]}
        began = time.perf_counter()
        answer = client.post(f"{url}/v1/chat/completions", json=body)
        seconds.append(time.perf_counter() - began)
        if answer.status_code != httpx.codes.OK:
            raise SystemExit(f"The gateway answered {answer.status_code}: {answer.text}")
    return seconds


if __name__ == "__main__":
    main()
