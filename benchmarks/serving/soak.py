"""Measures whether the gateway's memory grows: a low load for half an hour, over a stand-in for the engine.

    python -m benchmarks.serving.soak [--minutes 30] [--rate 5]

Clients ask, stream, give feedback and leave in the middle of streams. The memory of the gateway's process is the
anonymous part of its resident set: pages of files come and go with what else the machine does. The slope is fitted
(Theil-Sen: the median slope of all pairs of samples) after the first fifth of the time, in which caches fill; its
interval is that of scipy's `theilslopes`. Writes soak.json next to this script.

Goal: a slope under 1 MB a minute.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from scipy.stats import theilslopes

from benchmarks.serving.clients import Clients, outcomes, times
from benchmarks.serving.overhead import questions
from benchmarks.serving.served_home import ServedHome, facts, served_home

SAMPLE_SECONDS = 5.0
WARM_SHARE = 0.2
"""Part of the time that is not fitted. Chosen by hand."""
_MB = 1_000_000
_LEAVE_EVERY = 20.0
"""Seconds between two clients that go away in the middle of a stream. Chosen by hand."""


def main() -> None:
    """Ask for a while, fit, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second, at most")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    with served_home(pause=0.005) as home:
        pause = options.clients / options.rate
        with Clients(home.url, home.key, questions(), options.clients, rates=True, pause=pause) as clients:
            samples = watch(home, options.minutes)
        result = {
            **facts("benchmarks.serving.soak"),
            "minutes": options.minutes,
            "requests": len(clients.requests),
            "outcomes": outcomes(clients.requests),
            "feedback": {str(status): count for status, count in clients.feedback.items()},
            "times": times(clients.requests),
            **slope(samples),
            "samples": samples,
        }
        lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items())
        options.out.write_text(f"{{\n{lines}\n}}\n")
    print(json.dumps({name: value for name, value in result.items() if name != "samples"}, indent=1))


def watch(home: ServedHome, minutes: float) -> list[list[float]]:
    """Return [minute, MB of the gateway] every few seconds; now and then a client leaves in the middle of a stream."""
    began, left = time.monotonic(), 0.0
    samples: list[list[float]] = []
    while (now := time.monotonic() - began) < minutes * 60:
        samples.append([round(now / 60, 3), round(anonymous_bytes(home.pid) / _MB, 2)])
        if now - left > _LEAVE_EVERY:
            left = now
            _leave(home)
            print(samples[-1], file=sys.stderr)
        time.sleep(SAMPLE_SECONDS)
    return samples


def anonymous_bytes(pid: int) -> int:
    """Return the resident memory of a process that is no page of a file."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def _leave(home: ServedHome) -> None:
    """Ask, read the first event of the stream, and go away."""
    body = {"model": "ragtune", "messages": [{"role": "user", "content": questions()[0]}], "stream": True}
    headers = {"Authorization": f"Bearer {home.key}"}
    with httpx.stream("POST", f"{home.url}/v1/chat/completions", json=body, headers=headers, timeout=60.0) as reply:
        next(reply.iter_lines())


def slope(samples: list[list[float]]) -> dict[str, Any]:
    """Return the slope in MB a minute with its 95% interval, and the memory at the beginning and at the end."""
    fitted = samples[int(len(samples) * WARM_SHARE) :]
    middle, _, low, high = theilslopes([memory for _, memory in fitted], [minute for minute, _ in fitted])
    return {
        "MB a minute": [round(float(value), 3) for value in (middle, low, high)],
        "MB at first, after the warm-up, and at last": [samples[0][1], fitted[0][1], samples[-1][1]],
    }


if __name__ == "__main__":
    main()
