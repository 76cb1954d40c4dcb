"""A week in an hour: a home that is used, killed, filled and moved, and compared with a clean build at the end.

    truncate -s 8G /tmp/week.img && mkfs.ext4 -q /tmp/week.img && mkdir -p /tmp/week
    mount -o loop /tmp/week.img /tmp/week
    nice -n 5 python -m benchmarks.home.week --minutes 60 --seed 17 --folder /tmp/week

A small collection, `ragtune up`, two released versions, and a server that stands for vLLM. People ask, give feedback,
edit documents, build, go back to the other version, look at the status and prune. Every `--kill-every` seconds one
process is killed with SIGKILL, always of a kind that was killed least often. At one and at two thirds of the time the
home is moved. At half of the time its disk is filled for a minute, if it was made for this: less than 16 GiB. Programs
start in different time zones. Everything that happened is in the report with its moment.

Only processes whose RAGTUNE_HOME is the home of this week are ever killed.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.home.damage import damage
from ragtune.backends.engines import free_port
from ragtune.errors import RagTuneError
from ragtune.settings import Settings, child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore, write_json
from ragtune.store.disk_use import disk_bytes, disk_use
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune_serving.client import GatewayClient
from tests.support.releases import released

ROOT = Path(__file__).parents[2]
BUILT = ("raw_documents", "chunks", "search_index", "feedback_events", "qa_dataset")
SELECT = "*qa_dataset"
KINDS = {
    "gateway": "ragtune_serving.cli serve",
    "Dagster daemon": "dagster-daemon run",
    "Dagster webserver": "dagster-webserver",
    "code server": "dagster api grpc",
    "run": "multiprocessing.spawn",
    "MLflow": "mlflow",
    "alerts": "ragtune_serving.cli alerts",
    "engine": "benchmarks.home.stand_in",
    "guard of the engine": "ragtune.backends.guard",
    "build": "ragtune_assets.materialize",
    "up": "ragtune_serving.cli up",
}
"""Kinds of processes, by what their command line contains. A run of Dagster, and each of its steps, is a process that
a code server spawned."""
COMMANDS = {
    "build": ("ragtune_assets.materialize", "--select", SELECT),
    "swap": ("ragtune_serving.cli", "rollback"),
    "status": ("ragtune_serving.cli", "status", "--json"),
    "prune": ("ragtune_serving.cli", "prune"),
}
ACTIONS = {"ask": 120, "edit": 3, "build": 2, "swap": 2, "status": 2, "prune": 1}
"""How often people do what, in proportion. Chosen by hand: mostly they ask."""
HOMES = ("home", "home 2 für die Woche", "home#3")
"""Names of the home, in order; moves go to names that are awkward in URLs and shells."""
ZONES = ("UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati")
SMALL_DISK = 16 << 30
"""A disk with more room is never filled: it is not one that was made for this."""
THINK_SECONDS = 1.0
"""People pause between two actions; a loop without a pause would be a load test."""
FULL_SECONDS = 60.0
STOP_SECONDS = 300.0
"""A program that needs longer to stop is stuck. Programs need seconds; the machine may be busy with other work."""
BUILD_SECONDS = 3600.0
LEAST_ANSWERS = 5
"""Answers a minute, or the week shows little. Chosen by hand: people ask some 40 questions a minute."""
SAMPLE_SECONDS = 20.0
WARM_SECONDS = 45.0
"""Age of `ragtune up` from which its memory is measured: before, programs still start. Chosen by hand."""
KILL_PATIENCE = 60.0
"""How long to wait for a process of the kind that was killed least often, before another kind has its turn."""
MOST_GROWTH = 1.5
"""Memory at the end of the week by memory at its beginning; more would be a leak. Chosen by hand: programs that have
just started need less than those that run for minutes."""
MOST_COPIES = 4.0
"""The used home by the clean one, without the logs of Dagster and the feedback: `retention.artifacts` keeps two old
versions in addition to the current one, and there are logs."""
KEPT_ON_PURPOSE = frozenset({"Dagster", "feedback and keys", "models", "MLflow"})
"""Parts of a home that hold a history, or what the clean home lacks: versions."""


@dataclass
class Diary:
    """What happened, and what people were promised."""

    events: list[dict[str, Any]] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    promised: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    followed: list[float] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    did_not_end: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def now(self) -> float:
        """Seconds since the week began."""
        return time.monotonic() - self.started

    def note(self, what: str, **facts: Any) -> None:
        """Add an event with its moment."""
        self.events.append({"at": round(self.now, 1), "what": what, **facts})
        sys.stderr.write(f"{self.events[-1]}\n")


class Week:
    """Runs the platform of one home. Documents and logs are in `outside`, on another disk than the home."""

    def __init__(self, folder: Path, outside: Path, seed: int) -> None:
        self.folder, self.outside, self.random = folder, outside, random.Random(seed)
        self.home, self.documents = folder / HOMES[0], outside / "documents"
        self.diary = Diary()
        self.up: subprocess.Popen[bytes] | None = None
        self.up_since = 0.0
        self.tasks: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self.kill_due: float | None = None
        self.provoked: float | None = None
        self.swapped: tuple[str, float] | None = None

    @property
    def settings(self) -> Settings:
        """The settings of the home where it is now."""
        return load_settings({"home": self.home})

    def prepare(self) -> None:
        """Write the first documents, release two versions, and put the settings into the environment."""
        self.documents.mkdir()
        for number in range(12):
            self.edit(number)
        engine = self.outside / "engine-python"
        engine.write_text(f'#!/bin/sh\nshift 2\nexec {shlex.quote(sys.executable)} -m benchmarks.home.stand_in "$@"\n')
        engine.chmod(0o755)
        ports = {f"RAGTUNE_{name}": str(free_port()) for name in ("GATEWAY__PORT", "PORTS__DAGSTER", "PORTS__MLFLOW")}
        os.environ.update(
            ports,
            PYTHONPATH=str(ROOT),
            RAGTUNE_SOURCES=json.dumps([f"folder:{self.documents}"]),
            RAGTUNE_ENGINE__PYTHON=str(engine),
            RAGTUNE_ENGINE__KV_CACHE_GIB="1",
            RAGTUNE_DATASET__MIN_PAIRS="1",
            RAGTUNE_FEEDBACK__RETRAIN_AFTER="40",
            RAGTUNE_ALERTS__EVERY_MINUTES="1",
        )
        registry = ModelRegistry(self.settings)
        for weights in (b"first", b"second"):
            registry.move("champion", registry.register(released(self.home, weights)))

    def start(self, log: Path, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command of RagTune in this home, in some time zone; its output goes to a log outside of the home."""
        environment = child_environment(RAGTUNE_HOME=str(self.home), TZ=self.random.choice(ZONES))
        with log.open("ab") as stream:
            command = [sys.executable, "-m", module, *arguments]
            return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=stream, stderr=stream)

    def keep_up(self) -> None:
        """Do what systemd does: start `ragtune up` two seconds after it ended."""
        if self.up is not None and self.up.poll() is None:
            return
        log = self.outside / "up.log"
        if self.up is not None:
            self.diary.note("up ended", code=self.up.returncode, last=_last_line(log))
            time.sleep(2)
        self.up, self.up_since = self.start(log, "ragtune_serving.cli", "up"), self.diary.now

    def run(self, task: str) -> None:
        """Start a command of people, if the last one of its kind has ended."""
        if task not in self.tasks:
            number = sum(self.diary.ended.values())
            log = self.outside / f"{task}-{number}.log"
            self.tasks[task] = (self.start(log, *COMMANDS[task]), log)

    def look_at_tasks(self) -> None:
        """Note the commands that ended; a swap that worked has to be followed by the gateway."""
        for task, (process, log) in list(self.tasks.items()):
            if process.poll() is None:
                continue
            del self.tasks[task]
            self.diary.ended[f"{task} {process.returncode}"] += 1
            if process.returncode:
                self.diary.note(f"{task} ended", code=process.returncode, last=_last_line(log))
            elif task == "swap":
                version = ModelRegistry(self.settings).alias_version("champion") or ""
                self.diary.note("swapped", version=version)
                self.swapped = (version, self.diary.now)

    def stop_all(self) -> None:
        """Stop the commands and the platform in order, and look for what is left."""
        running = {task: process for task, (process, _) in self.tasks.items()}
        if self.up is not None:
            running["up"] = self.up
        for process in running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in running.items():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.diary.did_not_end.append(name)
                process.kill()
                process.wait()
        self.look_at_tasks()
        self.up = None
        end = time.monotonic() + STOP_SECONDS
        while self.processes() and time.monotonic() < end:
            time.sleep(0.5)
        for process in self.processes():
            self.diary.did_not_end.append(" ".join(process.info["cmdline"])[:200])
            process.kill()

    def edit(self, number: int) -> None:
        """Write a document with new facts."""
        fact = self.random.randrange(10**6)
        text = f"# Machine {number}\n\nA machine{number} is a press that folds {fact} sheets.\n\n"
        text += f"- **Lever{number}**: stops the rollers before knife {fact} reaches a finger.\n"
        (self.documents / f"machine{number}.md").write_text(text)

    def act(self) -> None:
        """Do one thing that people do, and think."""
        (action,) = self.random.choices(list(ACTIONS), weights=list(ACTIONS.values()))
        if action == "ask":
            self.ask()
        elif action == "edit":
            self.edit(self.random.randrange(16))
        else:
            self.run(action)
        self.look_at_tasks()
        time.sleep(THINK_SECONDS)

    def ask(self) -> None:
        """Ask a question and give feedback; only what the gateway acknowledged is a promise."""
        try:
            client = GatewayClient(self.settings)
            try:
                reply = client.ask(f"What is a machine{self.random.randrange(12)}?")
                version = reply.fields["model_version"]
                self.diary.answers[version] += 1
                if self.swapped and version == self.swapped[0]:
                    self.diary.followed.append(round(self.diary.now - self.swapped[1], 1))
                    self.swapped = None
                body = {"response_id": reply.fields["response_id"], "rating": "down", "correction": "It is a press."}
                self.diary.promised.append(client._send("POST", "/v1/feedback", body)["id"])
            finally:
                client.close()
        except RagTuneError as error:  # a gateway that starts, was killed, or has a full disk; the report has them all
            self.diary.refusals[error.found.split(": ")[0][:120]] += 1

    def processes(self, kind: str = "") -> list[psutil.Process]:
        """Return the processes of this home, of one kind or all."""
        ours = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            command, environment = " ".join(process.info["cmdline"] or []), process.info["environ"] or {}
            if environment.get("RAGTUNE_HOME") == str(self.home) and KINDS.get(kind, "") in command:
                ours.append(process)
        return ours

    def kill(self) -> None:
        """Kill one process of a kind that was killed least often; wait for one if there is none at the moment."""
        assert self.kill_due is not None
        least = min(self.diary.killed[kind] for kind in KINDS)
        kinds = self.random.sample(list(KINDS), len(KINDS))
        for kind in sorted(kinds, key=lambda kind: self.diary.killed[kind]):
            if self.diary.killed[kind] > least and self.diary.now - self.kill_due < KILL_PATIENCE:
                break
            if processes := self.processes(kind):
                victim = self.random.choice(processes)
                victim.kill()
                self.diary.killed[kind] += 1
                self.diary.note("killed", kind=kind, pid=victim.pid)
                self.kill_due = None
                return
        if self.diary.killed["build"] == least:
            self.run("build")
        if self.diary.killed["run"] == least and self.provoked != self.kill_due:
            self.edit(self.random.randrange(16))  # the sensor for documents starts a run
            self.provoked = self.kill_due

    def move(self) -> None:
        """Stop, rename the home, and go on."""
        self.stop_all()
        target = self.folder / HOMES[HOMES.index(self.home.name) + 1]
        self.home.rename(target)
        self.home = target
        self.diary.note("moved", to=target.name)

    def fill(self) -> None:
        """Fill the disk for a while if it was made for this."""
        if shutil.disk_usage(self.folder).total >= SMALL_DISK:
            self.diary.note("not filled", why="the disk is large")
            return
        ballast = self.folder / "ballast"
        try:
            with ballast.open("wb") as stream:
                free = os.statvfs(self.folder)
                os.posix_fallocate(stream.fileno(), 0, max(1, free.f_bavail * free.f_frsize - (64 << 20)))
                stream.seek(0, os.SEEK_END)
                while True:
                    stream.write(b"x" * (1 << 20))
        except OSError as error:
            self.diary.note("the disk is full", error=str(error))
        end = time.monotonic() + FULL_SECONDS
        self.run("build")
        while time.monotonic() < end:
            self.keep_up()
            self.act()
        ballast.unlink()
        self.diary.note("the disk is free again")

    def measure(self) -> None:
        """Add the memory and the disk that the home needs at this moment, if the platform runs for a while."""
        if self.diary.now - self.up_since < WARM_SECONDS:
            return
        memory = 0
        for process in self.processes():
            try:
                memory += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # it ended while we looked
        facts = {"minute": round(self.diary.now / 60, 1), "memory MiB": memory >> 20}
        self.diary.samples.append({**facts, "disk MiB": disk_bytes(self.home) >> 20})

    def live(self, minutes: float, kill_every: float, least_kills: int) -> None:
        """Use the home for this time, and at most a tenth longer until every kind was killed often enough."""
        seconds, self.diary.started = minutes * 60, time.monotonic()
        planned: list[tuple[float, Callable[[], None]]] = [
            (seconds / 3, self.move),
            (seconds / 2, self.fill),
            (seconds * 2 / 3, self.move),
        ]
        next_kill, next_sample = kill_every, 0.0
        while (now := self.diary.now) < seconds or (now < seconds * 1.1 and self._killed_least() < least_kills):
            self.keep_up()
            if planned and now >= planned[0][0]:
                planned.pop(0)[1]()
                continue
            if now >= next_sample:
                self.measure()
                next_sample = now + SAMPLE_SECONDS
            if now >= next_kill:
                self.kill_due, next_kill = self.kill_due or now, now + kill_every
            if self.kill_due is not None:
                self.kill()
            self.act()
        self.stop_all()
        self.diary.note("the week is over")

    def _killed_least(self) -> int:
        return min(self.diary.killed[kind] for kind in KINDS)


def compare(week: Week) -> dict[str, Any]:
    """Finish the home's build, build the same documents and feedback in a clean home, and compare."""
    settings = week.settings
    os.environ["RAGTUNE_FEEDBACK__URL"] = settings.feedback_url
    logs = week.outside / "last.log"
    final = week.start(logs, *COMMANDS["build"]).wait(BUILD_SECONDS)
    week.start(logs, *COMMANDS["prune"]).wait(BUILD_SECONDS)
    log = FeedbackLog(settings.feedback_url)
    stored = {event.id for event in log.events()}
    log.close()
    status = json.loads(_output(week, *COMMANDS["status"]))
    used_home, week.home = week.home, week.folder / "clean"
    clean = week.start(logs, *COMMANDS["build"]).wait(BUILD_SECONDS)
    used, new = _hashes(used_home), _hashes(week.home)
    return {
        "build after the week": final,
        "clean build": clean,
        "same as a clean build": {name: used[name] == sha256 for name, sha256 in new.items()},
        "acknowledged feedback": len(week.diary.promised),
        "lost feedback": len(set(week.diary.promised) - stored),
        "damage": damage(settings),
        "problems": [problem for problem in status["problems"] if problem["kind"] != "stale"],
        "disk MiB": {kind: size >> 20 for kind, size in disk_use(used_home).items()},
        "disk by clean home": round(_without_history(used_home) / _without_history(week.home), 2),
    }


def _hashes(home: Path) -> dict[str, str]:
    store = ArtifactStore(home / "artifacts")
    refs = {name: store.current(name) for name in BUILT}
    return {name: ref.sha256 if ref else "" for name, ref in refs.items()}


def _without_history(home: Path) -> int:
    return sum(size for kind, size in disk_use(home).items() if kind not in KEPT_ON_PURPOSE)


def _output(week: Week, module: str, *arguments: str) -> str:
    environment = child_environment(RAGTUNE_HOME=str(week.home))
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else ""


def memory_growth(samples: list[dict[str, float]]) -> float:
    """Return the median memory of the last third of the samples by that of the first third."""
    memory = [sample["memory MiB"] for sample in samples]
    third = max(1, len(memory) // 3)
    return round(median(memory[-third:]) / median(memory[:third]), 2) if memory else 0.0


def complaints(report: dict[str, Any], least_kills: int) -> list[str]:
    """Return what must not be in the report of a week, in words."""
    rules = {
        "a build failed": report["build after the week"] or report["clean build"],
        "an artefact differs from a clean build": not all(report["same as a clean build"].values()),
        "acknowledged feedback was lost": report["lost feedback"],
        "the home is damaged": report["damage"],
        "something is stuck or broken": report["problems"],
        "a program did not end": report["did not end"],
        "`ragtune status` failed": [name for name in report["commands"] if name.startswith("status 1")],
        "a kind of process was killed too rarely": min(report["killed"].get(kind, 0) for kind in KINDS) < least_kills,
        f"memory grew by more than {MOST_GROWTH}": report["memory growth"] > MOST_GROWTH,
        f"the home is more than {MOST_COPIES} clean ones": report["disk by clean home"] > MOST_COPIES,
        "people got few answers": sum(report["answers by version"].values()) < LEAST_ANSWERS * report["minutes"],
        "an answer came from no champion": set(report["answers by version"]) - {"1", "2"},
    }
    return [rule for rule, broken in rules.items() if broken]


def main() -> int:
    """Live the week, compare, write the report; the exit code is 1 if there is a complaint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kill-every", type=float, default=100.0, help="seconds between two kills")
    parser.add_argument("--least-kills", type=int, default=3, help="how often every kind of process is killed")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder, best on a small disk")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the platform is stopped, too
    options.folder.mkdir(parents=True, exist_ok=True)
    outside = Path(tempfile.mkdtemp(prefix="week-"))
    sys.stderr.write(f"documents and logs: {outside}\n")
    week = Week(options.folder.resolve(), outside, options.seed)
    week.prepare()
    try:
        week.live(options.minutes, options.kill_every, options.least_kills)
    finally:
        week.stop_all()
    diary = week.diary
    report = {
        "seed": options.seed,
        "minutes": options.minutes,
        "killed": dict(diary.killed),
        "answers by version": dict(diary.answers),
        "requests without an answer": dict(diary.refusals),
        "commands": dict(diary.ended),
        "seconds until a swap was served": diary.followed,
        "did not end": diary.did_not_end,
        "memory growth": memory_growth(diary.samples),
        **compare(week),
        "samples": diary.samples,
        "events": diary.events,
    }
    report["complaints"] = complaints(report, options.least_kills)
    write_json(options.out, report)
    short = {name: value for name, value in report.items() if name not in ("events", "samples")}
    sys.stdout.write(json.dumps(short, indent=2) + "\n")
    return 1 if report["complaints"] else 0


if __name__ == "__main__":
    sys.exit(main())
