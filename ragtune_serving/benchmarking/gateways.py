"""The gateways that are measured: one that runs, or one that is started over the same home with other settings."""

import json
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from ragtune.backends.engines import free_port, log_tail
from ragtune.errors import EngineError, ResourceError, SettingsError
from ragtune.settings import Settings, load_settings
from ragtune.store.locks import held, is_held
from ragtune_serving.address import endpoint_url
from ragtune_serving.benchmarking.generator import Target
from ragtune_serving.keys import KeyStore
from ragtune_serving.processes import Program, start, stop

SERVE = (sys.executable, "-m", "ragtune_serving.cli", "serve")
ENGINE_MODULE = "vllm.entrypoints.openai.api_server"
"""The Python module that an engine's command line names."""
_OWN = ("feedback", "gateway", "keys", "logs", "speed")
"""Folders of a home that a measured gateway has for itself, so that it changes nothing in the real one."""
_WRITTEN = ("artifacts", "engine-cache", "models")
"""Folders that it shares although they may not exist yet: what it makes there, another start need not make again."""
_POLL_SECONDS = 0.1
_START_SECONDS = 180.0
"""How long a gateway may take in addition to its engine: it loads the embedder. Chosen by hand."""

Changes = Mapping[str, str]
"""{dotted name of a setting: its value, as it is written in the environment}."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that can be measured.

    `pid` is that of its process, 0 if somebody else started it. `settings` are those that it was started with, and
    `cold_start` the seconds from its start to the moment at which it answers questions, 0 if it was running.
    """

    target: Target
    settings: Settings
    pid: int = 0
    cold_start: float = 0.0
    log: Path = field(default_factory=Path)

    def status(self) -> dict[str, Any]:
        """Return what `/status` says."""
        return dict(self._get("/status").raise_for_status().json())

    def metrics(self) -> str:
        """Return what `/metrics` says."""
        return self._get("/metrics").raise_for_status().text

    def model(self) -> tuple[str, str]:
        """Return the version and the precision of the model that answers."""
        live = self.status()["live"] or {}
        return str(live.get("version", "")), str(live.get("precision", ""))

    def ready(self) -> bool:
        """Return whether it answers questions now."""
        try:
            return httpx.get(f"{self.target.url}/health/readiness", timeout=5.0).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def engine_pids(self) -> list[int]:
        """Return the processes of the engines that this gateway started, without the guards that watch them."""
        import psutil

        if not self.pid:
            return []
        children = psutil.Process(self.pid).children(recursive=True)
        return [child.pid for child in children if _is_engine(child)]

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(self.target.url + path, headers=self.target.headers, timeout=60.0)


def running_gateway(settings: Settings) -> Gateway:
    """Return the gateway that commands of this home talk to; raise ResourceError if none answers."""
    url = settings.gateway_url.rstrip("/").removesuffix("/v1") or endpoint_url(settings)
    key = settings.api_key.get_secret_value() or KeyStore(settings.home / "keys").client_key()
    gateway = Gateway(Target(url, key), settings)
    if not gateway.ready():
        raise ResourceError(
            f"No gateway answers questions at {url}.",
            "a running gateway",
            "run `ragtune serve` in another terminal, or leave --running out: then one is started",
        )
    return gateway


@contextmanager
def started_gateway(settings: Settings, changes: Changes | None = None) -> Iterator[Gateway]:
    """Start a gateway over the documents, the index and the models of a home; stop it at the end of the block.

    It has a feedback log, keys and logs of its own, so a gateway that serves the home may go on.

    Args:
        settings: those of the home.
        changes: settings that differ.

    Raises:
        SettingsError: a change is invalid.
        EngineError: the gateway or its engine does not start; the message has the end of its log.
    """
    changed = with_changes(settings, changes or {})
    with _view(settings.home) as home:
        port, log = free_port(), home / "logs" / "serve.log"
        began = time.monotonic()
        address = ("--host", "127.0.0.1", "--port", str(port))
        process = start(Program("measured gateway", [*SERVE, *address], log, _environment(home, changes or {})))
        try:
            gateway = Gateway(Target(f"http://127.0.0.1:{port}", ""), changed, process.pid, 0.0, log)
            end = began + changed.engine.start_timeout + _START_SECONDS
            while not gateway.ready():
                if process.poll() is not None or time.monotonic() > end:
                    words = in_words(changes or {})
                    raise EngineError(
                        f"The gateway with {words} did not start. The end of its log:\n{log_tail(log)}",
                        fix="read the log; leave out a setting that this machine or model does not support",
                    )
                time.sleep(_POLL_SECONDS)
            seconds = time.monotonic() - began
            key = (home / "keys" / "client.key").read_text().strip()
            yield Gateway(Target(gateway.target.url, key), changed, process.pid, seconds, log)
        finally:
            stop(process)


def with_changes(settings: Settings, changes: Changes) -> Settings:
    """Return the settings with these changes; raise SettingsError for an unknown name or an invalid value."""
    overrides: dict[str, Any] = {"home": settings.home}
    for name, value in changes.items():
        *sections, last = name.split(".")
        place = overrides
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = yaml.safe_load(value)
    return load_settings(overrides)


def value_of(settings: Settings, name: str) -> str:
    """Return the value of a setting as it is written in the environment; raise SettingsError for an unknown name."""
    value: Any = settings.model_dump(mode="json")
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise SettingsError(f"There is no setting '{name}'.", "a name of docs/settings.md, such as engine.eager")
        value = value[part]
    return value if isinstance(value, str) else json.dumps(value)


def parsed_changes(texts: list[str]) -> dict[str, str]:
    """Return `engine.eager=false` and the like as changes; raise SettingsError for another form."""
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise SettingsError(f"The change is {text!r}.", "SETTING=VALUE, such as engine.eager=false")
        changes[name.strip()] = value.strip()
    return changes


def in_words(changes: Changes) -> str:
    """Return changes for people, such as `engine.eager=false`, without keys; or `present settings`."""
    shown = (f"{name}={value}" for name, value in changes.items() if not name.endswith("api_key"))
    return ", ".join(shown) or "present settings"


def _environment(home: Path, changes: Changes) -> dict[str, str]:
    variables = {f"RAGTUNE_{name.upper().replace('.', '__')}": value for name, value in changes.items()}
    own = {"RAGTUNE_HOME": str(home), "RAGTUNE_FEEDBACK__URL": "", "RAGTUNE_GATEWAY__REDIS_URL": ""}
    return {**variables, **own}


@contextmanager
def _view(home: Path) -> Iterator[Path]:
    """Yield a folder that looks like the home, by links, and that is deleted afterwards."""
    for name in _WRITTEN:
        (home / name).mkdir(parents=True, exist_ok=True)
    scratch = home / "speed" / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    for left in scratch.glob("gateway-*/"):
        if not is_held(_lock_of(left)):  # the benchmark that made it was killed
            shutil.rmtree(left)
    folder = scratch / f"gateway-{uuid.uuid4().hex[:8]}"
    with held(_lock_of(folder)):
        folder.mkdir()
        try:
            for entry in home.iterdir():
                if entry.name not in _OWN:
                    (folder / entry.name).symlink_to(entry)
            yield folder
        finally:
            shutil.rmtree(folder)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _is_engine(process: Any) -> bool:
    import psutil

    try:
        command = process.cmdline()
    except psutil.Error:
        return False  # it ended while we looked
    return ENGINE_MODULE in command and "ragtune.backends.guard" not in command
