"""A home with an index, released versions and `ragtune serve` in a process of its own, as people run it.

The engine is the real vLLM on the packaged model, or a stand-in that answers at once, which the gateway starts, guards,
restarts and replaces in the same way.
"""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from benchmarks.serving.overhead import INDEXED, ROOT
from ragtune.backends.engines import free_port
from ragtune.backends.served_base import served_base
from ragtune.evaluation.benchmark import hardware
from ragtune.model.base.pretrained import resolve_base_model
from ragtune.settings import Settings, child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry, assemble
from tests.support.releases import manifest, released

START_SECONDS = 300.0
"""How long a gateway with its engine may take to answer on a busy machine."""
STOP_SECONDS = 300.0
"""A gateway that needs longer to stop is stuck. It needs seconds; the machine may be busy with other work."""
ENGINES = ("benchmarks.home.stand_in", "vllm.entrypoints.openai.api_server")
"""What the command line of an engine contains."""


class ServedHome:
    """A home, its gateway and its engine.

    Args:
        folder: gets the home and its logs.
        real: start vLLM instead of the stand-in.
        pause: time between two words of the stand-in, in seconds.
        environment: variables of the gateway in addition to those that every home gets.
    """

    def __init__(
        self, folder: Path, *, real: bool = False, pause: float = 0.0, environment: Mapping[str, str] | None = None
    ) -> None:
        self.home, self.real = folder / "home", real
        self.home.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = {
            "RAGTUNE_HOME": str(self.home),
            "RAGTUNE_CONFIG": str(self.home / "ragtune.yaml"),
            "RAGTUNE_GATEWAY__PORT": str(self._port),
            "RAGTUNE_GATEWAY__LOG_FORMAT": "json",
            "RAGTUNE_GATEWAY__CACHE__ENTRIES": "0",  # the same questions come again and again
            "RAGTUNE_ENGINE__KV_CACHE_GIB": "1",  # during a swap there are two engines
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
        }
        if not real:
            self.environment["RAGTUNE_ENGINE__PYTHON"] = str(_stand_in(folder / "engine-python", pause))
        (self.home / "ragtune.yaml").write_text("sources: []\n")
        self._cli("index", "--source", f"folder:{INDEXED}")

    @property
    def settings(self) -> Settings:
        """The settings of the home, without those that only the gateway has."""
        return load_settings({"home": self.home})

    @property
    def key(self) -> str:
        """The key of the local client, which the gateway wrote."""
        return (self.home / "keys" / "client.key").read_text().strip()

    @property
    def log(self) -> Path:
        """The gateway's log, JSON lines."""
        return self.home / "logs" / "gateway.log"

    @property
    def pid(self) -> int:
        """The gateway's process."""
        assert self._process is not None, "the gateway was started"
        return self._process.pid

    def release(self) -> None:
        """Release two versions; version 1 becomes champion. With vLLM both have the packaged model's INT8 weights."""
        registry = ModelRegistry(self.settings)
        if self.real:
            store = ArtifactStore(self.home / "artifacts")
            base = store.current("base_model") or resolve_base_model(self.settings.base_model, store)
            weights, precision = served_base(self.settings, store, base)
            folders = [
                assemble(
                    self.home / "models",
                    {precision: weights},
                    manifest(adapter_sha256=str(number), served_precision=precision),
                )
                for number in (1, 2)
            ]
        else:
            folders = [released(self.home, text) for text in (b"first", b"second")]
        for folder in folders:
            registry.register(folder)
        registry.move("champion", "1")

    def start(self) -> None:
        """Start the gateway and wait until it answers questions with retrieval."""
        output = (self.home.parent / "serve.out").open("ab")
        command = [sys.executable, "-m", "ragtune_serving.cli", "serve"]
        environment = child_environment(**self.environment)
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        output.close()
        end = time.monotonic() + START_SECONDS
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"The gateway did not start:\n{(self.home.parent / 'serve.out').read_text()[-3000:]}")
            time.sleep(0.2)

    def ready(self) -> bool:
        """Return whether it answers questions with retrieval now."""
        try:
            reply = httpx.get(f"{self.url}/health/readiness", timeout=10.0)
        except httpx.TransportError:
            return False
        return reply.status_code == httpx.codes.OK and bool(reply.json()["retrieval"])

    def log_is_written(self) -> bool:
        """Return whether no answer waits in memory for the feedback log."""
        return bool(httpx.get(f"{self.url}/health/readiness", timeout=10.0).json()["log"] == "written")

    def status(self) -> dict[str, Any]:
        """Return the gateway's `/status`."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return dict(httpx.get(f"{self.url}/status", headers=headers, timeout=60.0).raise_for_status().json())

    def restarts(self) -> int:
        """Return how often the live engine was started again."""
        return int((self.status()["live"] or {}).get("restarts", 0))

    def engines(self) -> list[psutil.Process]:
        """Return the processes of engines of this home, without the guards that watch them."""
        ours = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            command = process.info["cmdline"] or []
            of_home = (process.info["environ"] or {}).get("RAGTUNE_HOME") == str(self.home)
            if of_home and any(name in command for name in ENGINES) and "ragtune.backends.guard" not in command:
                ours.append(process)
        return ours

    def kill(self) -> None:
        """Kill the gateway as the kernel does if memory runs out."""
        assert self._process is not None, "the gateway was started"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Stop the gateway in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                raise SystemExit(f"The gateway did not stop within {STOP_SECONDS:.0f} s.") from None

    def _cli(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "ragtune_serving.cli", *arguments]
        subprocess.run(command, cwd=ROOT, env=child_environment(**self.environment), check=True, capture_output=True)


@contextmanager
def served_home(*, real: bool = False, pause: float = 0.0) -> Iterator[ServedHome]:
    """Yield a home with two released versions whose gateway answers; stop it and delete all of it at the end."""
    with TemporaryDirectory(prefix="ragtune-served-") as folder:
        home = ServedHome(Path(folder), real=real, pause=pause)
        home.release()
        try:
            home.start()
            yield home
        finally:
            home.stop()


def facts(module: str) -> dict[str, Any]:
    """Return what every result of these benchmarks says about its run: when, how, on what, of which commit."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        # A path of this machine says nothing to a reader.
        "command": " ".join(["python", "-m", module, *("PATH" if each[:1] == "/" else each for each in sys.argv[1:])]),
        "commit": commit.strip(),
        "hardware": hardware(),
        "load_average_at_the_end": [round(value, 2) for value in os.getloadavg()],
    }


def plain(value: Any) -> dict[str, Any]:
    """Return the fields of a record."""
    return dataclasses.asdict(value)


def _stand_in(script: Path, pause: float) -> Path:
    command = f"{shlex.quote(sys.executable)} -m benchmarks.home.stand_in --pause {pause}"
    script.write_text(f'#!/bin/sh\nshift 2\nexec {command} "$@"\n')
    script.chmod(0o755)
    return script
