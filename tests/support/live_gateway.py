"""A whole gateway over HTTP with an engine for each version, light enough for tests that start many.

The engines are servers in threads, the registry is a list, and there is no index, so that neither torch nor MLflow is
loaded. Everything else is what `ragtune serve` runs.
"""

import contextlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from ragtune.errors import EngineError, RegistryError
from ragtune.ports import ChatModel, Engine, RunningEngine
from ragtune.records import RegisteredModel
from ragtune.settings import Settings, load_settings
from ragtune.store.registry import read_manifest
from ragtune_serving.deployment import Deployment
from ragtune_serving.engine import Pace
from ragtune_serving.gateway import build_app, services_over
from ragtune_serving.grounding import Grounding
from ragtune_serving.keys import KeyStore
from tests.support.releases import released
from tests.support.scripted_upstream import ScriptedUpstream, ServedApp

PACE = Pace(watch=0.05, first_pause=0.3, longest_pause=0.5)


class ListRegistry:
    """A registry without MLflow, with versions 1, 2 and so on; version 1 is champion."""

    def __init__(self, home: Path, count: int) -> None:
        self.folders = {str(n): released(home, f"{n} is its weight".encode()) for n in range(1, count + 1)}
        self.aliases = {"champion": "1"}

    def alias(self, name: str) -> RegisteredModel | None:
        return self.version(self.aliases[name]) if name in self.aliases else None

    def alias_version(self, name: str) -> str | None:
        return self.aliases.get(name)

    def version(self, version: str) -> RegisteredModel:
        if version not in self.folders:
            raise RegistryError(f"There is no version '{version}'.")
        folder = self.folders[version]
        return RegisteredModel(version=version, folder=str(folder), manifest=read_manifest(folder))

    def move(self, name: str, version: str) -> RegisteredModel:
        if name == "champion" and self.aliases["champion"] != version:
            self.aliases["previous"] = self.aliases["champion"]
        self.aliases[name] = version
        return self.version(version)


class RunningThread(RunningEngine):
    """A server in a thread; its answer names its model."""

    def __init__(self, name: str) -> None:
        self.upstream = ScriptedUpstream(name, words=["Answered", "by", name])
        self.url, self.api_key, self.model_name, self.log_path = self.upstream.url, "none", name, Path("none.log")
        self.killed = False

    def chat(self) -> ChatModel:
        raise NotImplementedError

    def alive(self) -> bool:
        return not self.killed

    def memory_bytes(self) -> int:
        return 0

    def kill(self) -> None:
        """End the server as if its process died."""
        if not self.killed:
            self.killed = True
            self.upstream.close()

    def stop(self) -> None:
        self.kill()


class ThreadEngine(Engine):
    """Starts servers in threads; versions in `broken` do not start."""

    def __init__(self) -> None:
        self.launched: list[RunningThread] = []
        self.broken: set[str] = set()

    def launch(self, model: Path, name: str, at_once: int = 1) -> RunningThread:
        if any(f"-v{version}-" in name for version in self.broken):
            raise EngineError("This engine does not start.")
        self.launched.append(RunningThread(name))
        return self.launched[-1]

    def of(self, version: str) -> RunningThread:
        """Return the newest server of a version."""
        return [one for one in self.launched if f"-v{version}-" in one.model_name][-1]

    @contextlib.contextmanager
    def running(self, model: Path, name: str, at_once: int = 1):
        running = self.launch(model, name, at_once)
        try:
            yield running
        finally:
            running.stop()


class LiveGateway:
    """A served gateway; keyword arguments are sections of the settings."""

    def __init__(self, home: Path, registry: ListRegistry, engine: ThreadEngine, **sections: Any) -> None:
        sections = {"gateway": {"poll_seconds": 0.05}, **sections}
        self.settings: Settings = load_settings({"home": home, **sections})
        self.registry, self.engine = registry, engine
        self.keys = KeyStore(home / "keys")
        self.keys.ensure()
        self.key = self.keys.client_key()
        grounding = Grounding(self.settings, lambda: SimpleNamespace(index=SimpleNamespace(versions=list)))
        base = home / "base"
        base.mkdir(exist_ok=True)

        def engines(publisher, needed) -> Deployment:
            return Deployment(self.settings, engine, registry, lambda: (base, "bf16"), publisher, PACE, needed)

        self.services = services_over(self.settings, grounding, registry, engines)
        self.served = ServedApp(build_app(self.services, self.settings, self.keys))
        self.url = self.served.url
        until(lambda: httpx.get(f"{self.url}/health/readiness").status_code == 200)

    def request(self, method: str, path: str, key: str = "", **arguments) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.request(method, self.url + path, headers=headers, timeout=60, **arguments)

    def ask(self, content: Any = "What is it?", key: str = "", **fields) -> httpx.Response:
        """Ask one question, or send these messages if `content` is a list."""
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        body = {"model": "ragtune", "messages": messages, **fields}
        return self.request("POST", "/v1/chat/completions", key, json=body)

    def wait_for(self, *versions: str) -> None:
        """Wait until the engines of these versions answer."""
        find = self.services.deployment.engine_of
        until(lambda: all((engine := find(version)) and engine.ready for version in versions))

    def close(self) -> None:
        self.served.close()
        for running in self.engine.launched:
            running.stop()


def until(condition, seconds: float = 120.0):
    """Wait until the condition is true, and return its value; a busy machine may need long."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return value
