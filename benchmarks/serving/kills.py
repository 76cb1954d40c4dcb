"""Kills engines and gateways under load, fills disks, and looks for wrong answers, lost feedback and silent errors.

    truncate -s 300M /tmp/small.img && mkfs.ext4 -q /tmp/small.img && mkdir -p /tmp/small
    mount -o loop /tmp/small.img /tmp/small
    python -m benchmarks.serving.kills --scratch .ragtune/kills --disk /tmp/small [--kills 10] [--only engine gateway]

The parts: the engine is killed under load; the gateway is killed while it streams, and started again; the disk of the
feedback log is full for a while; the disk of the whole home is. The engine is a stand-in, whose answers are known: each
answer has to be, letter by letter, that of a calm gateway, and a part of one its beginning. Each answer gets feedback;
what the gateway acknowledged has to be in the log at the end. Each answer has to be in the log as well, unless the
gateway was killed. Writes kills.json next to this script; the exit code is 1 if there is a complaint.

`--disk` names an empty folder on a disk that was made for this. Without it, no disk is filled.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.serving.clients import Clients, Request, outcomes, references, times, wrong
from benchmarks.serving.overhead import questions
from benchmarks.serving.served_home import ServedHome, facts
from ragtune.store.feedback import FeedbackLog

PAUSE = 0.02
"""Seconds between two words of the stand-in, so that half of the requests are streams in progress at any moment."""
BETWEEN = 60
"""Requests between two kills, at least. Chosen by hand."""
FULL_SECONDS = 30.0
SMALL_DISK = 1 << 30
"""A disk with more room is never filled: it is not one that was made for this."""
_PATIENCE = 120.0
"""How long an engine, a gateway or the recorder may take to be well again."""
_ASKED = 24
"""Different questions: each needs a calm answer first."""


def main() -> int:
    """Run the parts, write and print; the exit code is 1 if there is a complaint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disk", type=Path, help="an empty folder on a small disk")
    parser.add_argument("--kills", type=int, default=10, help="of the engine, and of the gateway")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=["engine", "gateway", "log", "home"])
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the homes; each is deleted")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if not options.disk:
        options.only = [part for part in options.only if part in ("engine", "gateway")]
    elif shutil.disk_usage(options.disk).total > SMALL_DISK:
        raise SystemExit(f"{options.disk} is on a disk of more than {SMALL_DISK >> 30} GiB: it would be filled.")
    parts = json.loads(options.out.read_text())["parts"] if options.out.is_file() else {}
    for part in options.only:
        parts[part] = PARTS[part](options)
    complaints = [f"{part}: {complaint}" for part, row in parts.items() for complaint in row["complaints"]]
    result = {**facts("benchmarks.serving.kills"), "complaints": complaints, "parts": parts}
    text = json.dumps(result, indent=1).replace(str(options.scratch), "SCRATCH")
    options.out.write_text(text + "\n")
    print(text)
    return 1 if complaints else 0


def engine_kills(options: argparse.Namespace) -> dict[str, Any]:
    """Kill the engine again and again under load; the gateway restarts it."""
    with _gateway(options.scratch / "engine") as home:

        def disturb(clients: Clients) -> dict[str, Any]:
            back = []
            for _ in range(options.kills):
                clients.wait_for(BETWEEN, _PATIENCE)
                (engine,) = home.engines()
                restarts, began = home.restarts(), time.monotonic()
                engine.kill()
                _until(partial(_restarted_since, home, restarts), "the engine is missed")
                _until(home.ready, "the engine is back")
                back.append(round(time.monotonic() - began, 1))
            clients.wait_for(BETWEEN, _PATIENCE)
            return {"kills": options.kills, "seconds until it answers again": sorted(back)}

        return _under_load(home, options.clients, disturb)


def _restarted_since(home: ServedHome, before: int) -> bool:
    """Return whether the gateway restarted its engine more often than this."""
    return home.restarts() > before


def gateway_kills(options: argparse.Namespace) -> dict[str, Any]:
    """Kill the gateway again and again while it streams, and start it again."""
    with _gateway(options.scratch / "gateway") as home:

        def disturb(clients: Clients) -> dict[str, Any]:
            back, engines = [], []
            for _ in range(options.kills):
                clients.wait_for(BETWEEN, _PATIENCE)
                began = time.monotonic()
                home.kill()
                home.start()
                back.append(round(time.monotonic() - began, 1))
                engines.append(len(home.engines()))
            clients.wait_for(BETWEEN, _PATIENCE)
            return {"kills": options.kills, "seconds until it answers again": sorted(back), "engines after": engines}

        return _under_load(home, options.clients, disturb, killed=True)


def full_log(options: argparse.Namespace) -> dict[str, Any]:
    """Fill the disk of the feedback log for a while."""
    file = options.disk / "feedback" / "feedback.db"
    file.parent.mkdir()
    with _gateway(options.scratch / "log", {"RAGTUNE_FEEDBACK__URL": f"sqlite:///{file}"}) as home:
        report = _under_load(home, options.clients, lambda clients: _fill(home, clients, options.disk))
    shutil.rmtree(file.parent)
    return report


def full_home(options: argparse.Namespace) -> dict[str, Any]:
    """Fill the disk of the whole home for a while."""
    with _gateway(options.disk / "whole") as home:
        return _under_load(home, options.clients, lambda clients: _fill(home, clients, options.disk))


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "engine": engine_kills,
    "gateway": gateway_kills,
    "log": full_log,
    "home": full_home,
}


@contextmanager
def _gateway(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[ServedHome]:
    home = ServedHome(folder, pause=PAUSE, environment=environment)
    home.release()
    try:
        home.start()
        yield home
    finally:
        home.stop()
        shutil.rmtree(folder)


def _under_load(
    home: ServedHome, count: int, disturb: Callable[[Clients], dict[str, Any]], *, killed: bool = False
) -> dict[str, Any]:
    """Return what clients saw while something was disturbed, with what must not be in it as complaints."""
    asked = questions()[:_ASKED]
    expected = references(home.url, home.key, asked)
    with Clients(home.url, home.key, asked, count, rates=True) as clients:
        disturbance = disturb(clients)
    home.stop()  # it writes what waits in memory
    stored, lost, unrecorded = _stored(home, clients)
    differing = wrong(clients.requests, expected)
    logged = silent_errors(home.log)
    report = {
        **disturbance,
        "requests": len(clients.requests),
        "outcomes": outcomes(clients.requests),
        "statuses": {str(status): n for status, n in sorted(Counter(r.status for r in clients.requests).items())},
        "times": times(clients.requests),
        "wrong answers": len(differing),
        "acknowledged feedback": len(clients.acknowledged),
        "feedback by status": {str(status): count for status, count in sorted(clients.feedback.items())},
        "stored feedback": stored,
        "lost feedback": lost,
        "answers not in the log": unrecorded,
        **logged,
        "errors": [list(pair) for pair in Counter(r.error[:200] for r in clients.requests if r.error).most_common(8)],
        "examples of wrong answers": [
            {"expected": expected[r.question, r.streamed], "outcome": r.outcome, "text": r.text} for r in differing[:3]
        ],
    }
    return {**report, "complaints": _complaints(report, clients.requests, killed=killed)}


def _complaints(report: dict[str, Any], requests: list[Request], *, killed: bool) -> list[str]:
    rules = {
        "answers were wrong": report["wrong answers"],
        "acknowledged feedback was lost": report["lost feedback"],
        "answers are not in the log": report["answers not in the log"] and not killed,
        "requests failed without a Retry-After": any(request.outcome == "failed" for request in requests),
        "an error 500 has no cause in the log": report["errors 500 without a cause"],
        "connections were refused": any(request.outcome == "no connection" for request in requests) and not killed,
        "nothing was answered": not any(request.outcome == "answered" for request in requests),
        "not one engine per gateway": set(report.get("engines after", [1])) != {1},
    }
    return [rule for rule, is_broken in rules.items() if is_broken]


def silent_errors(log: Path) -> dict[str, int]:
    """Return how many requests ended with status 500 by the gateway's log of JSON lines, and how many say no cause."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    causes = {line.get("request_id") for line in lines if "exception" in line}
    failed = [line["request_id"] for line in lines if line.get("status") == 500]
    return {"errors 500": len(failed), "errors 500 without a cause": sum(one not in causes for one in failed)}


def _stored(home: ServedHome, clients: Clients) -> tuple[int, int, int]:
    """Return the number of stored verdicts, of acknowledged ones that are lost, and of answers without a record."""
    url = home.environment.get("RAGTUNE_FEEDBACK__URL") or home.settings.feedback_url
    log = FeedbackLog(url)
    stored = {event.id for event in log.events()}
    answered = [request.response_id for request in clients.requests if request.outcome == "answered"]
    unrecorded = sum(log.response(response_id) is None for response_id in answered)
    log.close()
    return len(stored), len(set(clients.acknowledged) - stored), unrecorded


def _fill(home: ServedHome, clients: Clients, disk: Path) -> dict[str, Any]:
    """Fill a disk under load for a while; return what the gateway said about it."""
    clients.wait_for(BETWEEN, _PATIENCE)
    ballast, before = disk / "ballast", len(clients.requests)
    with ballast.open("wb") as stream:
        try:
            while True:
                stream.write(os.urandom(1 << 16))
                stream.flush()
        except OSError as error:
            reason = str(error)
    time.sleep(FULL_SECONDS)
    status = home.status()
    during = clients.requests[before:]
    ballast.unlink()
    _until(home.log_is_written, "what waited is written")
    clients.wait_for(BETWEEN, _PATIENCE)
    return {
        "disk": reason,
        "answered while it was full": sum(request.outcome == "answered" for request in during),
        "asked while it was full": len(during),
        "status said": status["error"],
    }


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"After {_PATIENCE:.0f} s it is still not so that {what}.")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
