"""The generation engines: a local vLLM process, or any OpenAI-compatible server.

vLLM has its own Python environment; this code reaches it only by files and HTTP. The process listens on a free port
of 127.0.0.1 and requires a random key. A guard process ends it when its parent ends.
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ragtune.backends.chat import OpenAIChat, list_models
from ragtune.backends.engine_arguments import check_arguments, check_settings, vllm_arguments
from ragtune.backends.engine_environment import engine_python, install_commands
from ragtune.backends.engine_memory import check_parallel, gpu_share, require_memory
from ragtune.backends.guard import descendants
from ragtune.errors import EngineError, ModelError
from ragtune.model.base.capacity import reads_int4
from ragtune.model.compression.weights import GPTQ, MIXED, PACKED, storage_format, unpack_w4a16
from ragtune.ports import ChatModel, Engine, Progress, RunningEngine, silent
from ragtune.records import content_id
from ragtune.settings import EngineSettings, child_environment, python_path
from ragtune.store.artifacts import file_sha256

_POLL_SECONDS = 0.25
_PLUGIN = Path(__file__).parent / "engine_plugin"
"""On the engine's path, where vLLM finds the plugin that makes sampling right."""
_LOG_TAIL_LINES = 25
_KERNEL = re.compile(r"\b\w*(?:Linear|Attention|Scaled|WNA16|Marlin|Machete)\w*(?:Kernel|Backend|Impl)\b|CPU_ATTN")


class VllmProcess(RunningEngine):
    """A vLLM server that this process started."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, api_key: str, name: str, log_path: Path) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}/v1"
        self.api_key = api_key
        self.model_name = name
        self.log_path = log_path
        self._peak_bytes = 0

    @property
    def pid(self) -> int:
        """Pid of the guard; the engine's processes are its descendants."""
        return self._process.pid

    def chat(self) -> ChatModel:
        """Return a chat model that talks to this engine."""
        return OpenAIChat(self.url, self.api_key, self.model_name)

    def alive(self) -> bool:
        """Return whether the process still runs and answers its health check."""
        return self._process.poll() is None and _healthy(self.url)

    def exit_code(self) -> int | None:
        """Return the exit code, or None if the process still runs."""
        return self._process.poll()

    def memory_bytes(self) -> int:
        """Return the peak resident memory of the process tree, plus its GPU memory if there is a GPU."""
        pids = descendants(self._process.pid)
        total = sum(_peak_resident(pid) for pid in pids) + _gpu_bytes(pids)
        self._peak_bytes = max(self._peak_bytes, total)
        return self._peak_bytes

    def stop(self) -> None:
        """End the process tree and wait for it; calling it twice is harmless."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


class VllmEngine(Engine):
    """Starts vLLM servers. They write into the home only. Settings that cannot be right raise SettingsError at once."""

    def __init__(
        self,
        settings: EngineSettings,
        home: Path,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        progress: Progress = silent,
    ) -> None:
        check_settings(settings)
        self.settings, self.home, self.progress = settings, home, progress
        default: Literal["cpu", "cuda"] = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
        self.device = default if device == "auto" else device

    def launch(self, model: Path, name: str, at_once: int = 1) -> VllmProcess:
        """Start vLLM on the model folder and wait until it is healthy.

        Raises:
            ModelError: the folder is not a model.
            SettingsError: vLLM does not know an argument of the settings.
            EngineMemoryError: there is too little memory.
            EngineError: the process died or took too long; the message has the end of its log.
        """
        python = engine_python(self.settings.python)
        if not python.is_file():
            commands = install_commands(self.settings.python, self.device == "cuda")
            raise EngineError(
                f"There is no engine environment at {python}.",
                "the Python of an environment with vLLM",
                "run `make install` in a checkout, set engine.python, or run:\n  " + "\n  ".join(commands),
            )
        self._check(model)
        port, key = free_port(), secrets.token_urlsafe(24)
        log_path = self.home / "logs" / f"engine-{_file_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}-{port}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        arguments = self.arguments(self._readable(model), name, port)
        check_arguments(self.settings, python, arguments, self.home / "engine-cache" / "arguments")
        command = [sys.executable, "-m", "ragtune.backends.guard", str(os.getpid()), str(python), *arguments]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self.environment(key, at_once),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = VllmProcess(process, port, key, name, log_path)
        try:
            self._wait(running)
        except BaseException:
            running.stop()
            raise
        return running

    @contextmanager
    def running(self, model: Path, name: str, at_once: int = 1) -> Iterator[RunningEngine]:
        """Launch an engine, and stop it at the end of the `with` block."""
        engine = self.launch(model, name, at_once)
        try:
            yield engine
        finally:
            engine.stop()

    def arguments(self, model: Path, name: str, port: int) -> list[str]:
        """Return the arguments after the interpreter; raise EngineMemoryError if a GPU has no room for the model."""
        share = gpu_share(self.settings, sorted(model.glob("*.safetensors"))) if self.device == "cuda" else 0.0
        return vllm_arguments(self.settings, self.device, model, name, port, share)

    def environment(self, key: str, at_once: int = 1) -> dict[str, str]:
        """Return the environment variables of an engine: offline, with caches in the home and its share of threads."""
        cache = self.home / "engine-cache"
        cache.mkdir(parents=True, exist_ok=True)
        threads = max(1, (self.settings.threads or len(os.sched_getaffinity(0))) // at_once)
        return child_environment(
            PYTHONPATH=python_path(_PLUGIN),
            VLLM_API_KEY=key,
            VLLM_CACHE_ROOT=str(cache),
            TORCHINDUCTOR_CACHE_DIR=str(cache / "inductor"),
            VLLM_CPU_KVCACHE_SPACE=str(self.settings.kv_cache_gib),
            # Pinning would reserve a core for vLLM's scheduler, which is half of a small machine.
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            OMP_NUM_THREADS=str(threads),
            # vLLM's HTTP server always has an EngineCore process next to it, with the scheduler. By default a CPU's
            # model runs in a third one, and the scheduler spins during every forward pass, on a core that the model
            # needs. With 0 the model runs in the EngineCore.
            VLLM_ENABLE_V1_MULTIPROCESSING="0" if self.device == "cpu" else "1",
            HF_HUB_OFFLINE="1",
            TRANSFORMERS_OFFLINE="1",
        )

    def _readable(self, model: Path) -> Path:
        """Return the folder, or a copy with unpacked weights if the engine cannot read INT4. The copy is made once."""
        if reads_int4(self.device) or storage_format(model) not in (PACKED, GPTQ, MIXED):
            return model
        origin = content_id(*(f"{file.name} {file_sha256(file)}" for file in sorted(model.glob("*.safetensors"))))
        unpacked = self.home / "engine-cache" / "unpacked" / origin
        if not unpacked.is_dir():
            self.progress(f"unpacking INT4 weights of {model.name}, which the engine cannot read here", 0, 1)
            unpack_w4a16(model, unpacked)
        return unpacked

    def _check(self, model: Path) -> None:
        weights = sorted(model.glob("*.safetensors")) if model.is_dir() else []
        if not weights or not (model / "config.json").is_file():
            raise ModelError(
                f"{model} is not a model folder.",
                "a folder with config.json and *.safetensors",
                "name a folder that `ragtune materialize` wrote, or a Hugging Face model with safetensors",
            )
        check_parallel(self.settings, self.device, model)
        if self.device == "cpu":
            require_memory(self.settings, weights)

    def _wait(self, running: VllmProcess) -> None:
        started, limit = time.monotonic(), self.settings.start_timeout
        while not _healthy(running.url):
            elapsed = time.monotonic() - started
            if (code := running.exit_code()) is not None:
                raise EngineError(
                    f"The engine ended with code {code} before it was ready. The end of {running.log_path}:\n"
                    + log_tail(running.log_path),
                    fix="read the log; usually vLLM does not know the model, or memory ran out",
                )
            if elapsed > limit:
                raise EngineError(
                    f"The engine was not ready after {limit:.0f} s. The end of {running.log_path}:\n"
                    + log_tail(running.log_path),
                    fix="raise engine.start_timeout, or end other programs",
                )
            self.progress(f"starting the engine for {running.model_name}", int(elapsed), int(limit))
            time.sleep(_POLL_SECONDS)


class RemoteEngine(RunningEngine):
    """An OpenAI-compatible server that somebody else runs."""

    def __init__(self, url: str, api_key: str, name: str, log_path: Path) -> None:
        self.url, self.api_key, self.model_name, self.log_path = url.rstrip("/"), api_key, name, log_path

    def chat(self) -> ChatModel:
        """Return a chat model that talks to the server."""
        return OpenAIChat(self.url, self.api_key, self.model_name)

    def alive(self) -> bool:
        """Return whether the server lists its models."""
        try:
            list_models(self.url, self.api_key)
        except EngineError:
            return False
        return True

    def memory_bytes(self) -> int:
        """Return 0: the memory of another machine cannot be measured from here."""
        return 0

    def stop(self) -> None:
        """Do nothing, because somebody else runs the server."""


class OpenAIEngine(Engine):
    """Uses the server at `engine.url` instead of starting one. That server decides which models it has."""

    def __init__(self, settings: EngineSettings, home: Path) -> None:
        self.settings, self.home = settings, home

    def launch(self, model: Path, name: str, at_once: int = 1) -> RemoteEngine:  # noqa: ARG002
        """Return the server. It must list the model `engine.model`, or `name` if that is empty.

        Raises:
            EngineError: the server does not answer or has no such model.
        """
        key = self.settings.api_key.get_secret_value()
        model_name = self.settings.model or name
        names = list_models(self.settings.url, key)
        if model_name not in names:
            raise EngineError(
                f"The server at {self.settings.url} has no model '{model_name}'.",
                f"one of {', '.join(names) or '(none)'}",
                "set engine.model",
            )
        return RemoteEngine(self.settings.url, key, model_name, self.home / "logs" / "engine-remote.log")

    @contextmanager
    def running(self, model: Path, name: str, at_once: int = 1) -> Iterator[RunningEngine]:
        """Yield the server and leave it running."""
        yield self.launch(model, name, at_once)


def kernel_lines(log: Path) -> list[str]:
    """Return the lines of an engine's log that name the kernels it uses."""
    lines = log.read_text(errors="replace").splitlines()
    return [line.strip() for line in lines if _KERNEL.search(line)]


def log_tail(log: Path, lines: int = _LOG_TAIL_LINES) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _peak_resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it ended while we looked
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(peak[1]) * 1024 if peak else 0


def _gpu_bytes(pids: list[int]) -> int:
    if not Path("/dev/nvidia0").exists():
        return 0
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    reply = subprocess.run(query, capture_output=True, text=True, check=True)
    rows = [line.split(",") for line in reply.stdout.splitlines() if line.strip()]
    return sum(int(used) << 20 for pid, used in rows if int(pid) in pids)
