"""A week in an hour: a home that is used, killed, filled and moved, and compared with a clean build at the end.

    python -m benchmarks.home.week --minutes 60 --seed 17 --folder /tmp/week

A small collection, `ragtune up` and a server that stands for the engine. People ask, give feedback and edit documents
all the time. Every `--kill-every` seconds one process is killed with SIGKILL, one kind after the other; at one and at
two thirds of the time the home is moved. If the disk of `--folder` has less than 16 GiB, it is filled and freed at
half of the time (mount a tmpfs of 8 GiB there). Everything that happened is written with its moment and the seed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from ragtune.backends.engines import free_port
from ragtune.errors import RagTuneError
from ragtune.settings import child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore, write_json
from ragtune.store.disk_use import disk_bytes
from ragtune.store.feedback import FeedbackLog
from ragtune_serving.client import GatewayClient

ROOT = Path(__file__).parents[2]
BUILT = ("raw_documents", "chunks", "search_index", "feedback_events", "qa_dataset")
SELECT = "*qa_dataset"
SMALL_DISK = 16 << 30
"""A disk with more room is never filled: it is not one that was made for this."""
KINDS = {
    "gateway": "ragtune_serving.cli serve",
    "Dagster daemon": "dagster-daemon run",
    "Dagster webserver": "dagster-webserver",
    "code server": "dagster api grpc",
    "run": "dagster api execute_run",
    "MLflow": "mlflow",
    "alerts": "ragtune_serving.cli alerts",
    "build": "ragtune_assets.materialize",
    "up": "ragtune_serving.cli up",
}
"""Kinds of processes, by what their command line contains. `up` comes last, because its end takes the others along."""


class Week:
    """Runs the platform of one home, and remembers what people were promised."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.home, self.documents = folder / "home-0", folder / "documents"
        self.events: list[dict[str, Any]] = []
        self.killed: Counter[str] = Counter()
        self.promised: list[str] = []
        self.answers, self.refused_requests = 0, 0
        self.started = time.monotonic()
        self.up: subprocess.Popen[bytes] | None = None
        self.build: subprocess.Popen[bytes] | None = None
        self.status: subprocess.Popen[bytes] | None = None
        self.most_disk = self.most_memory = 0
        self.environment: dict[str, str] = {}

    def prepare(self, engine_url: str) -> None:
        """Write the first documents, and the settings into the environment."""
        self.documents.mkdir(parents=True)
        for number in range(12):
            self.edit(number)
        ports = {f"RAGTUNE_{name}": str(free_port()) for name in ("GATEWAY__PORT", "PORTS__DAGSTER", "PORTS__MLFLOW")}
        os.environ.update(
            ports,
            PYTHONPATH=str(ROOT),
            RAGTUNE_SOURCES=json.dumps([f"folder:{self.documents}"]),
            RAGTUNE_ENGINE__BACKEND="openai",
            RAGTUNE_ENGINE__URL=engine_url,
            RAGTUNE_ENGINE__API_KEY="fake-engine-key",
            RAGTUNE_ENGINE__MODEL="stand-in",
            RAGTUNE_DATASET__MIN_PAIRS="1",
            RAGTUNE_FEEDBACK__RETRAIN_AFTER="5",
            RAGTUNE_ALERTS__EVERY_MINUTES="1",
        )

    def note(self, what: str, **facts: Any) -> None:
        """Add an event with its moment."""
        self.events.append({"at": round(time.monotonic() - self.started, 1), "what": what, **facts})
        sys.stderr.write(f"{self.events[-1]}\n")

    def start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command of RagTune in this home; its output goes to a log outside of the home."""
        environment = child_environment(RAGTUNE_HOME=str(self.home))
        with (self.folder / "output.log").open("ab") as log:
            command = [sys.executable, "-m", module, *arguments]
            return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)

    def keep_up(self) -> None:
        """Do what systemd does: start `ragtune up` if it ended."""
        if self.up is None or self.up.poll() is not None:
            if self.up is not None:
                self.note("up ended", code=self.up.returncode)
            self.up = self.start("ragtune_serving.cli", "up")

    def stop_all(self) -> None:
        """Stop the platform and the build in order."""
        for process in (self.status, self.build, self.up):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=300)

    def edit(self, number: int) -> None:
        """Write a document with new facts."""
        fact = self.random.randrange(10**6)
        text = f"# Machine {number}\n\nA machine{number} is a press that folds {fact} sheets.\n\n"
        text += f"- **Lever{number}**: stops the rollers before knife {fact} reaches a finger.\n"
        (self.documents / f"machine{number}.md").write_text(text)

    def act(self) -> None:
        """Do one thing that people do."""
        (action,) = self.random.choices(["ask", "edit", "build", "status"], weights=[60, 5, 6, 2])
        if action == "ask":
            self.ask()
        elif action == "edit":
            self.edit(self.random.randrange(16))
        elif action == "build" and (self.build is None or self.build.poll() is not None):
            if self.build is not None:
                self.note("build ended", code=self.build.returncode)
            self.build = self.start("ragtune_assets.materialize", "--select", SELECT)
        elif action == "status" and (self.status is None or self.status.poll() is not None):
            self.status = self.start("ragtune_serving.cli", "status", "--json")

    def ask(self) -> None:
        """Ask a question and give feedback; only what the gateway acknowledged is a promise."""
        try:
            client = GatewayClient(load_settings({"home": self.home}))
            reply = client.ask(f"What is a machine{self.random.randrange(12)}?")
            self.answers += 1
            body = {"response_id": reply.fields["response_id"], "rating": "down", "correction": "It is a press."}
            self.promised.append(client._send("POST", "/v1/feedback", body)["id"])
        except RagTuneError:
            self.refused_requests += 1  # a gateway that starts or was killed; the report counts them
            time.sleep(1)

    def processes(self, kind: str) -> list[psutil.Process]:
        """Return the processes of a kind that belong to this run."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            command, environment = " ".join(process.info["cmdline"] or []), process.info["environ"] or {}
            if KINDS[kind] in command and environment.get("RAGTUNE_HOME") == str(self.home):
                found.append(process)
        return found

    def kill(self) -> None:
        """Kill one process of the kind that was killed least often and runs now."""
        for kind in sorted(KINDS, key=lambda kind: self.killed[kind]):
            if processes := self.processes(kind):
                victim = self.random.choice(processes)
                victim.kill()
                self.killed[kind] += 1
                self.note("killed", kind=kind, pid=victim.pid)
                return

    def move(self) -> None:
        """Stop, rename the home, and go on."""
        self.stop_all()
        target = self.folder / f"home-{int(self.home.name.rpartition('-')[2]) + 1}"
        self.home.rename(target)
        self.home = target
        self.note("moved", to=target.name)

    def fill(self) -> None:
        """Fill the disk for half a minute if it was made for this."""
        if shutil.disk_usage(self.folder).total >= SMALL_DISK:
            self.note("not filled", why="the disk is large")
            return
        ballast = self.folder / "ballast"
        free = shutil.disk_usage(self.folder).free
        try:
            with ballast.open("wb") as stream:
                for _ in range((free >> 20) + 1):  # the last one does not fit
                    stream.write(b"x" * (1 << 20))
        except OSError as error:
            self.note("the disk is full", error=str(error))
        end = time.monotonic() + 30
        while time.monotonic() < end:
            self.act()
        ballast.unlink()
        self.note("the disk is free again")

    def measure(self) -> None:
        """Remember the most disk and memory that the home and its processes used."""
        self.most_disk = max(self.most_disk, disk_bytes(self.home))
        resident = 0
        for kind in KINDS:
            for process in self.processes(kind):
                try:
                    resident += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue  # it ended while we looked
        self.most_memory = max(self.most_memory, resident)

    def live(self, minutes: float, kill_every: float) -> None:
        """Use the home for this time."""
        seconds = minutes * 60
        planned: list[tuple[float, Callable[[], None]]] = [
            (seconds / 3, self.move),
            (seconds / 2, self.fill),
            (seconds * 2 / 3, self.move),
        ]
        planned += [(kill_every * number, self.kill) for number in range(1, int(seconds / kill_every))]
        planned += [(60.0 * number, self.measure) for number in range(1, int(seconds / 60))]
        planned.sort(key=lambda entry: entry[0])
        while (now := time.monotonic() - self.started) < seconds:
            self.keep_up()
            if planned and now >= planned[0][0]:
                planned.pop(0)[1]()
            else:
                self.act()
        self.stop_all()
        self.note("the week is over")


@contextmanager
def stand_in(folder: Path) -> Iterator[str]:
    """Run a server that stands for the engine, and yield its URL."""
    port = free_port()
    with (folder / "engine.log").open("ab") as log:
        command = [sys.executable, "-m", "tests.support.fake_engine", str(port), "stand-in"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def compare(week: Week) -> dict[str, Any]:
    """Finish the home's build, build the same documents and feedback in a clean home, and compare."""
    settings = load_settings({"home": week.home})
    os.environ["RAGTUNE_FEEDBACK__URL"] = settings.feedback_url
    final = week.start("ragtune_assets.materialize", "--select", SELECT).wait(timeout=1800)
    log = FeedbackLog(settings.feedback_url)
    stored = {event.id for event in log.events()}
    log.close()
    status = json.loads(_output(week, "ragtune_serving.cli", "status", "--json"))
    used = _hashes(week.home)
    used_home, week.home = week.home, week.folder / "clean"
    clean = week.start("ragtune_assets.materialize", "--select", SELECT).wait(timeout=1800)
    return {
        "build after the week": final,
        "clean build": clean,
        "same as a clean build": {name: used[name] == sha256 for name, sha256 in _hashes(week.home).items()},
        "acknowledged feedback": len(week.promised),
        "lost feedback": len(set(week.promised) - stored),
        "stuck": [problem for problem in status["problems"] if problem["kind"] == "stuck"],
        "problems": status["problems"],
        "home MiB": disk_bytes(used_home) >> 20,
    }


def _hashes(home: Path) -> dict[str, str]:
    store = ArtifactStore(home / "artifacts")
    refs = {name: store.current(name) for name in BUILT}
    return {name: ref.sha256 if ref else "" for name, ref in refs.items()}


def _output(week: Week, module: str, *arguments: str) -> str:
    environment = child_environment(RAGTUNE_HOME=str(week.home))
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Live the week, compare, write the report; the exit code is 1 if something was lost, stuck or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kill-every", type=float, default=120.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder, best on a small disk")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    week = Week(options.folder.resolve(), options.seed)
    with stand_in(week.folder) as url:
        week.prepare(url)
        week.live(options.minutes, options.kill_every)
        result = compare(week)
    report = {
        "seed": options.seed,
        "minutes": options.minutes,
        "killed": dict(week.killed),
        "answers": week.answers,
        "requests without an answer": week.refused_requests,
        "most disk MiB": week.most_disk >> 20,
        "most memory MiB": week.most_memory >> 20,
        **result,
        "events": week.events,
    }
    write_json(options.out, report)
    sys.stdout.write(json.dumps({name: value for name, value in report.items() if name != "events"}, indent=2) + "\n")
    same = all(result["same as a clean build"].values())
    return 0 if same and not result["lost feedback"] and not result["stuck"] else 1


if __name__ == "__main__":
    sys.exit(main())
