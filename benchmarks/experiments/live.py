"""One experiment on a running gateway, from the first step of the ramp to the promotion of the winner.

    python -m benchmarks.experiments.live --home HOME [--control 1] [--candidate 2] [--set manual.dev]
    python -m benchmarks.experiments.live --mock

Users ask the questions of a set (benchmarks/questions/), several each, and their thumbs derive from the answers that
they get: up if the answer is right, as `measure.is_right` judges, or if it refuses a question that the documents do not
answer. One in ten thumbs is the other way round, and 30% of the answers get none, as with people.

With `--home` the home's gateway is started with its two real engines. A home without versions is made first: see
`live_home.py`. `--mock` makes a home with two versions whose engines are mock servers: one has the right words for 40%
of the questions, the other for 80%.

Everything is written to live.json next to this script (live-mock.json with `--mock`): every event of the experiment,
what the status said over time, and how many thumbs came from which version.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.experiments.live_home import prepare
from benchmarks.questions.measure import is_right, read_lines
from benchmarks.serving.mock_gateway import Mocked, mock_home
from ragtune.backends.engines import free_port
from ragtune.evaluation.benchmark import hardware
from ragtune.settings import child_environment, load_settings
from ragtune.store.artifacts import file_sha256
from ragtune.store.registry import ModelRegistry

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WRONG_THUMB, NO_THUMB = 0.1, 0.3
"""Shares of thumbs that are the other way round, and of answers without any. Chosen by hand."""
START_SECONDS = 900


def main() -> None:
    """Run one experiment and write `live.json`."""
    options = _options()
    file = ROOT / "benchmarks" / "questions" / f"{options.set}.jsonl"
    questions = read_lines(file)
    with _served(options, questions) as (url, key, registry):
        before = registry()
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=600) as client:
            result = experiment(client, questions, options)
        result |= {"champion_before": before, "champion_after": registry()}
    result = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", "benchmarks.experiments.live", *_command_line(options)]),
        "hardware": hardware(),
        "seed": options.seed,
        "questions": {"set": options.set, "n": len(questions), "sha256": file_sha256(file)},
        **result,
    }
    out = options.out or HERE / ("live-mock.json" if options.mock else "live.json")
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps({name: result[name] for name in ("events", "thumbs", "champion_before", "champion_after")}, indent=1)
    )


def experiment(client: httpx.Client, questions: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Start an experiment, let users come until it is stopped, and return what happened."""
    body = {
        "name": options.name,
        "candidates": [options.candidate],
        "control": options.control,
        "ramp": 0.01,
        "smallest": options.smallest,
        "margin": 2,
        "budget": options.budget,
        "window_hours": options.window_seconds / 3600,
        "users_per_step": options.users_per_step,
        "promote": True,
    }
    _call(client, "POST", "/v1/experiments", body)
    began = time.monotonic()
    while _arms_starting(client, (options.control, options.candidate)):
        if time.monotonic() - began > START_SECONDS:
            raise SystemExit(f"The engines did not start: {client.get('/status').text}")
        time.sleep(1)
    chance = random.Random(options.seed)
    path: list[dict[str, Any]] = []
    thumbs: Counter[str] = Counter()
    users, last = 0, list[str]()
    with ThreadPoolExecutor(options.at_once) as pool:
        while True:
            drawn = [
                (f"user {users + n}", chance.sample(questions, 2), chance.getrandbits(32))
                for n in range(options.at_once)
            ]
            users += options.at_once
            for counts in pool.map(lambda one: _visit(client, *one), drawn):
                thumbs.update(counts)
            report = _call(client, "GET", f"/v1/experiments/{options.name}")
            if report["state"] == "stopped":
                break
            last = report["candidates"][0]["words"]
            (candidate,) = report["candidates"]
            bounds = {name: round(candidate[name], 4) for name in ("low", "high", "p_value")}
            path.append({"users": users, "ramp": report["ramp"], **bounds})
            if report["state"] == "paused":
                raise SystemExit(f"The experiment was paused: {report['events'][-1]}")
    replay = _call(client, "GET", f"/v1/experiments/{options.name}/replay")
    events = [
        {"kind": event["kind"], "at": event["created_at"], "reason": event["content"].get("reason", "")}
        for event in report["events"]
    ]
    return {
        "seconds": round(time.monotonic() - began),
        "users": users,
        "thumbs": dict(sorted(thumbs.items())),
        "events": events,
        "decision": report["decision"],
        "replayed": replay["same"],
        "outcomes": last,
        "path": path,
    }


def _visit(client: httpx.Client, user: str, questions: list[dict[str, Any]], seed: int) -> Counter[str]:
    """Ask the questions of one user, rate the answers, and count the thumbs by version."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    for question in questions:
        messages = [*question["history"], {"role": "user", "content": question["question"]}]
        body = {"model": "ragtune", "user": user, "messages": messages}
        answer = _call(client, "POST", "/v1/chat/completions", body)
        own = answer["ragtune"]
        text = answer["choices"][0]["message"]["content"]
        accepted = question["answers"]
        good = is_right(text, accepted) if accepted else own["refused"]
        counts[f"version {own['model_version']}: {'right' if good else 'wrong'}"] += 1
        if chance.random() < NO_THUMB:
            continue
        up = good != (chance.random() < WRONG_THUMB)
        rating = "up" if up else "down"
        _call(client, "POST", "/v1/feedback", {"response_id": own["response_id"], "rating": rating})
        counts[f"version {own['model_version']}: {rating}"] += 1
    return counts


def _arms_starting(client: httpx.Client, versions: tuple[str, ...]) -> bool:
    status = client.get("/status").json()
    engines = [engine for engine in (status["live"], *status["arms"]) if engine]
    ready = {engine["version"] for engine in engines if engine["state"] == "ready"}
    return not set(versions) <= ready


def _call(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    answer = client.request(method, path, json=body)
    if answer.status_code != httpx.codes.OK:
        raise SystemExit(f"{method} {path} answered {answer.status_code}: {answer.text}")
    return answer.json()


@contextmanager
def _served(options: argparse.Namespace, questions: list[dict[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Yield the URL and the key of a gateway, and a function that returns the champion's version."""
    if options.mock:
        right = {question["question"]: question["answers"] for question in questions}
        with TemporaryDirectory(prefix="ragtune-live-") as folder, Mocked(mock_home(Path(folder)), right) as gateway:
            yield gateway.url, gateway.key, gateway.champion
        return
    prepare(options.home, options.set.partition(".")[0])
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = child_environment(
        RAGTUNE_HOME=str(options.home),
        RAGTUNE_EXPERIMENTS__LOOK_SECONDS=str(options.look_seconds),
        RAGTUNE_ANSWER__MAX_TOKENS=str(options.max_tokens),
        RAGTUNE_GATEWAY__PORT=str(port),
    )
    process = subprocess.Popen([sys.executable, "-m", "ragtune_serving.cli", "serve"], cwd=ROOT, env=environment)
    try:
        _wait(url, process)
        key = (options.home / "keys" / "client.key").read_text().strip()
        registry = ModelRegistry(load_settings({"home": options.home}))
        yield url, key, lambda: registry.alias_version("champion")
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/health/readiness").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.5)
    raise SystemExit("The gateway did not become ready.")


def _command_line(options: argparse.Namespace) -> list[str]:
    """Return the options of the command line, without the folders of this machine."""
    hidden = {"out", "home"}
    given = {name: value for name, value in vars(options).items() if name not in hidden and value is not False}
    parts = [[f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])] for name, value in given.items()]
    return [*([] if options.mock else ["--home", "HOME"]), *(word for part in parts for word in part)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=lambda text: Path(text).resolve(), default=Path(".ragtune/live").resolve())
    parser.add_argument("--mock", action="store_true", help="two mock engines instead of the home's models")
    parser.add_argument("--control", default="1")
    parser.add_argument("--candidate", default="2")
    parser.add_argument("--name", default="live-benchmark")
    parser.add_argument("--set", default="manual.dev")
    parser.add_argument("--smallest", type=float, default=10.0, help="smallest difference worth having, in points")
    parser.add_argument("--budget", type=int, default=5000)
    parser.add_argument("--max-tokens", type=int, default=32, help="tokens of an answer of a real engine")
    parser.add_argument("--window-seconds", type=float, default=20.0)
    parser.add_argument("--users-per-step", type=int, default=20)
    parser.add_argument("--look-seconds", type=float, default=2.0)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, help="default: live.json or live-mock.json next to this script")
    return parser.parse_args()


if __name__ == "__main__":
    main()
