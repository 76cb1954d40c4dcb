"""`ragtune serve` as a child process, with the clients that a test needs."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai

from tests.support.fake_engine import free_port


class Gateway:
    """A running gateway; `background` starts it as a shell starts a background job, with Ctrl-C switched off."""

    def __init__(self, home: Path, background: bool = False, **environment: str) -> None:
        self.home, self.port = home, free_port()
        self.environment = {**os.environ, "RAGTUNE_HOME": str(home), "RAGTUNE_GATEWAY__PORT": str(self.port)}
        self.environment["RAGTUNE_GATEWAY__CACHE__ENTRIES"] = "0"  # tests ask the same question again
        self.environment.update(environment)
        self.log = home / "serve.out"
        self.url = f"http://127.0.0.1:{self.port}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ragtune_serving.cli", "serve"],
                env=self.environment,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.SIG_DFL),
            )

    def wait(self, seconds: float = 300.0) -> "Gateway":
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                ready = httpx.get(f"{self.url}/health/readiness")
                if ready.status_code == 200 and ready.json()["retrieval"]:
                    return self
            except httpx.TransportError:
                time.sleep(0.1)
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    @property
    def key(self) -> str:
        return (self.home / "keys" / "client.key").read_text().strip()

    @functools.cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def request(self, method: str, path: str, **arguments) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", **arguments.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=30, **arguments)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ragtune_serving.cli", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300, check=False)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
