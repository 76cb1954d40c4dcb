import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import psutil
import pytest

from ragtune.backends.chat import OpenAIChat, list_models
from ragtune.backends.engines import VllmEngine, kernel_lines
from ragtune.backends.guard import descendants
from ragtune.errors import EngineError, EngineMemoryError, ModelError, ResourceError, SettingsError
from ragtune.records import Message
from ragtune.settings import EngineSettings

ASK = [Message("user", "Hello")]

# A process tree that is hard to stop: it ignores SIGTERM and has a grandchild in another session.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""

PARENT = """
import subprocess, sys, os, time
command = [sys.executable, "-m", "ragtune.backends.guard", str(os.getpid()), sys.executable, "-c", sys.argv[1]]
guard = subprocess.Popen(command, start_new_session=True)
print(guard.pid, flush=True)
time.sleep(600)
"""


def survivors(pids: list[int], seconds: float = 15.0) -> list[int]:
    """Return the pids of processes that still run after `seconds`; return earlier if all have ended."""
    deadline = time.monotonic() + seconds
    alive = pids
    while alive and time.monotonic() < deadline:
        alive = [
            pid for pid in alive if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        ]
        time.sleep(0.05)
    return alive


def tree_of(guard: int, size: int) -> list[int]:
    """Return the pids below a guard once there are `size` of them."""
    deadline = time.monotonic() + 15
    while len(descendants(guard)) < size and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    return descendants(guard)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")
    return folder


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# --- the guard


def test_no_process_survives_when_the_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT, STUBBORN], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    guard = int(parent.stdout.readline())
    pids = [guard, *tree_of(guard, 2)]
    assert len(pids) == 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert survivors(pids) == []


def test_the_command_ends_when_its_guard_is_killed():
    command = [sys.executable, "-m", "ragtune.backends.guard", str(os.getpid()), "sleep", "600"]
    guard = subprocess.Popen(command)
    pids = tree_of(guard.pid, 1)
    assert pids
    guard.kill()
    guard.wait()
    assert survivors(pids) == []


def test_the_exit_code_of_the_command_comes_through():
    command = [sys.executable, "-m", "ragtune.backends.guard", str(os.getpid()), "sh", "-c", "exit 7"]
    assert subprocess.run(command, check=False).returncode == 7


def test_a_parent_that_is_already_gone_ends_the_command_at_once():
    command = [sys.executable, "-m", "ragtune.backends.guard", "1", "sleep", "600"]
    assert subprocess.run(command, timeout=15, check=False).returncode != 0


# --- launching


def test_a_missing_engine_environment_says_how_to_get_one(tmp_path: Path, model_folder: Path):
    engine = VllmEngine(EngineSettings(python=str(tmp_path / "nowhere/python")), tmp_path, "cpu")
    with pytest.raises(EngineError, match="make install"):
        engine.launch(model_folder, "m")


def test_a_folder_without_weights_is_no_model(tmp_path: Path):
    engine = VllmEngine(EngineSettings(python=script(tmp_path, "exit 0")), tmp_path, "cpu")
    with pytest.raises(ModelError, match="is not a model folder"):
        engine.launch(tmp_path, "m")


def test_too_little_memory_is_an_error_before_anything_starts(tmp_path: Path, model_folder: Path):
    settings = EngineSettings(python=script(tmp_path, "exit 0"), kv_cache_gib=100_000)
    with pytest.raises(ResourceError, match="kv_cache_gib"):
        VllmEngine(settings, tmp_path, "cpu").launch(model_folder, "m")
    assert not (tmp_path / "logs").exists()


def test_an_engine_that_dies_shows_the_end_of_its_log(tmp_path: Path, model_folder: Path):
    settings = EngineSettings(python=script(tmp_path, "echo 'ValueError: model type zebra is unknown'; exit 3"))
    with pytest.raises(EngineError, match=r"code 3[\s\S]*model type zebra is unknown"):
        VllmEngine(settings, tmp_path, "cpu").launch(model_folder, "m")


def test_an_engine_that_hangs_is_ended_with_all_its_children(tmp_path: Path, model_folder: Path):
    pids = tmp_path / "pids"
    settings = EngineSettings(
        python=script(tmp_path, f"sleep 600 & echo $! $$ > {pids}; echo still loading; wait"), start_timeout=2
    )
    with pytest.raises(EngineError, match=r"not ready after 2 s[\s\S]*still loading[\s\S]*start_timeout"):
        VllmEngine(settings, tmp_path, "cpu").launch(model_folder, "m")
    assert survivors([int(pid) for pid in pids.read_text().split()]) == []


def test_an_interrupted_start_leaves_nothing_running(tmp_path: Path, model_folder: Path):
    pids = tmp_path / "pids"

    def interrupt(what: str, done: int, total: int) -> None:
        if pids.exists():
            raise KeyboardInterrupt

    settings = EngineSettings(python=script(tmp_path, f"echo $$ > {pids}; sleep 600"))
    with pytest.raises(KeyboardInterrupt):
        VllmEngine(settings, tmp_path, "cpu", interrupt).launch(model_folder, "m")
    assert survivors([int(pids.read_text())]) == []


def test_the_key_is_in_the_environment_and_never_on_the_command_line(tmp_path: Path, model_folder: Path):
    engine = VllmEngine(EngineSettings(), tmp_path, "cpu")
    environment = engine.environment("secret-key")
    assert environment["VLLM_API_KEY"] == "secret-key"
    assert "secret-key" not in " ".join(engine.arguments(model_folder, "m", 1))
    assert environment["VLLM_CACHE_ROOT"].startswith(str(tmp_path))


def test_tokens_are_guessed_from_the_prompt_on_a_cpu_or_if_the_settings_say_so(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    gpus(tmp_path, monkeypatch, (80_000, 81_000))

    def speculative_tokens(device: Literal["cpu", "cuda"], **knobs: int) -> int:
        arguments = VllmEngine(EngineSettings(**knobs), tmp_path, device).arguments(model_folder, "m", 1)
        if "--speculative-config" not in arguments:
            return 0
        config = json.loads(arguments[arguments.index("--speculative-config") + 1])
        assert config["method"] == "ngram"
        return config["num_speculative_tokens"]

    assert speculative_tokens("cpu") == 4
    assert speculative_tokens("cpu", speculative_tokens=0) == 0
    assert speculative_tokens("cuda") == 0
    assert speculative_tokens("cuda", speculative_tokens=3) == 3


# --- talking to a server


class Server(BaseHTTPRequestHandler):
    """A small OpenAI-compatible server; its class attribute `script` decides what it sends."""

    script = "good"

    def do_GET(self) -> None:
        self._send(200, "application/json", json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.script == "refuse":
            self._send(400, "application/json", json.dumps({"error": {"message": "prompt is too long"}}))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in ("It ", "is ", "5."):
            time.sleep(0.05)
            self._event({"choices": [{"index": 0, "delta": {"content": word}}]})
        if self.script == "good":
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self._event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}})
            self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, payload: dict[str, object]) -> None:
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **payload}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, kind: str, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Scripted", (Server,), {"script": getattr(request, "param", "good")})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/v1"
        listening.shutdown()
        thread.join()


def test_a_streamed_reply_is_put_together_and_its_first_token_timed(server: str):
    with OpenAIChat(server, "k", "m") as chat:
        reply = chat.complete(ASK, max_tokens=5, temperature=0, seed=1)
    assert (reply.text, reply.finish_reason) == ("It is 5.", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 3)
    assert 0.04 < reply.first_token_seconds < reply.total_seconds  # the server waits 0.05 s before each word


@pytest.mark.parametrize("server", ["break off"], indirect=True)
def test_a_reply_that_breaks_off_is_an_error_and_not_a_short_answer(server: str):
    with OpenAIChat(server, "k", "m") as chat, pytest.raises(EngineError, match="too early, after 3 pieces"):
        chat.complete(ASK, max_tokens=5, temperature=0, seed=1)


@pytest.mark.parametrize("server", ["refuse"], indirect=True)
def test_a_refused_request_shows_the_message_of_the_server(server: str):
    with OpenAIChat(server, "k", "m") as chat, pytest.raises(EngineError, match="prompt is too long"):
        chat.complete(ASK, max_tokens=5, temperature=0, seed=1)


def test_a_server_that_is_not_there_is_an_error_that_names_it():
    with OpenAIChat("http://127.0.0.1:9/v1", "k", "m") as chat, pytest.raises(EngineError, match=r"127.0.0.1:9/v1"):
        chat.complete(ASK, max_tokens=5, temperature=0, seed=1)
    with pytest.raises(EngineError, match=r"engine\.url"):
        list_models("http://127.0.0.1:9/v1", "k")


def test_kernel_lines_are_found_in_a_log(tmp_path: Path):
    log = tmp_path / "log"
    kernels = [
        "(Worker pid=9) INFO Using CPUWNA16LinearKernel for CompressedTensorsWNA16",
        "(Worker pid=9) INFO Selected CPUInt8ScaledMMLinearKernel for CompressedTensorsW8A8Int8",
    ]
    log.write_text("\n".join(["Loading weights took 1 s", *kernels, "Application startup complete."]))
    assert kernel_lines(log) == kernels


# --- arguments and memory


def arguments(tmp_path: Path, model: Path, device: Literal["cpu", "cuda"] = "cpu", **knobs: object) -> list[str]:
    return VllmEngine(EngineSettings(**knobs), tmp_path, device).arguments(model, "m", 1)


def value_of(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *memory: tuple[int, int]) -> None:
    """Let `nvidia-smi` say that there are GPUs with this much (free, total) memory, in MiB."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    lines = "\n".join(f"echo '{free}, {total}'" for free, total in memory)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_settings_of_the_engine_become_arguments_of_vllm(tmp_path: Path, model_folder: Path):
    plain = arguments(tmp_path, model_folder)
    for name in ("--max-num-seqs", "--max-num-batched-tokens", "--quantization", "--kv-cache-dtype"):
        assert name not in plain
    knobs = {"max_num_seqs": 4, "max_num_batched_tokens": 512, "quantization": "gptq_marlin", "kv_cache_dtype": "fp8"}
    further = {"arguments": {"enable_chunked_prefill": False, "max-loras": 2, "enable-lora": True}}
    chosen = arguments(tmp_path, model_folder, **knobs, **further)
    for name, value in knobs.items():
        assert value_of(chosen, f"--{name.replace('_', '-')}") == str(value)
    assert chosen[-4:] == ["--no-enable-chunked-prefill", "--enable-lora", "--max-loras", "2"]


def test_an_engine_compiles_on_a_gpu_and_not_on_a_processor_unless_the_settings_say_so(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    gpus(tmp_path, monkeypatch, (80_000, 81_000))

    def is_eager(device: Literal["cpu", "cuda"], **knobs: bool) -> bool:
        return "--enforce-eager" in arguments(tmp_path, model_folder, device, **knobs)

    assert is_eager("cpu")
    assert not is_eager("cuda")
    assert is_eager("cuda", eager=True)
    assert not is_eager("cpu", eager=False)


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"max_num_seqs": 8, "max_num_batched_tokens": 4}, "at least as many tokens as requests"),
        ({"arguments": {"port": 1}}, "has port, which RagTune sets itself"),
        ({"arguments": {"--trust_remote_code": True}}, "has trust-remote-code, which RagTune sets itself"),
        ({"arguments": {"max loras": 1}}, "is no name of an argument"),
    ],
)
def test_wrong_settings_of_the_engine_are_named_before_anything_starts(tmp_path: Path, knobs: dict, problem: str):
    with pytest.raises(SettingsError, match=problem):
        VllmEngine(EngineSettings(**knobs), tmp_path, "cpu")


def test_arguments_that_vllm_does_not_know_are_an_error_in_its_words_and_known_ones_are_read_once(
    tmp_path: Path, model_folder: Path
):
    calls = tmp_path / "calls"
    reads = f"""case "$*" in *make_arg_parser*) echo read >> {calls}
    case "$*" in *--nonsense*) echo 'error: unrecognized arguments: --nonsense 3' >&2; exit 2;; esac; exit 0;; esac
    echo the engine; exit 3"""
    python = script(tmp_path, reads)

    def launch(**knobs: object) -> None:
        VllmEngine(EngineSettings(python=python, **knobs), tmp_path, "cpu").launch(model_folder, "m")

    with pytest.raises(SettingsError, match=r"--nonsense 3: error: unrecognized arguments"):
        launch(arguments={"nonsense": 3})
    for _ in range(2):
        with pytest.raises(EngineError, match="the engine"):
            launch(arguments={"max-loras": 2})
    with pytest.raises(EngineError, match="the engine"):
        launch()
    assert calls.read_text().count("read") == 2


def test_a_gpu_is_shared_by_what_is_free_and_an_engine_that_does_not_fit_says_so(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def share(**knobs: object) -> str:
        return value_of(arguments(tmp_path, model_folder, "cuda", **knobs), "--gpu-memory-utilization")

    gpus(tmp_path, monkeypatch, (80_000, 80_000))
    assert share() == "0.850"
    gpus(tmp_path, monkeypatch, (12_000, 80_000))  # another engine has 0.85
    assert share() == "0.130"
    assert share(gpu_memory_share=0.1) == "0.100"
    gpus(tmp_path, monkeypatch, (2_000, 24_000))
    with pytest.raises(EngineMemoryError, match=r"needs about 3\.0 GiB of GPU memory, and 2\.0 of 23\.4 GiB are free"):
        share()


def test_a_model_is_split_only_over_gpus_that_are_there_and_that_divide_its_heads(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (model_folder / "config.json").write_text('{"num_attention_heads": 9}')

    def launch(device: Literal["cpu", "cuda"], parts: int) -> None:
        settings = EngineSettings(python=script(tmp_path, "exit 3"), tensor_parallel_size=parts)
        VllmEngine(settings, tmp_path, device).launch(model_folder, "m")

    with pytest.raises(SettingsError, match="runs on the processor"):
        launch("cpu", 2)
    gpus(tmp_path, monkeypatch, (80_000, 80_000), (80_000, 80_000))
    with pytest.raises(SettingsError, match="there are 2 GPUs"):
        launch("cuda", 3)
    with pytest.raises(ModelError, match="9 attention heads, which cannot be split over 2 GPUs"):
        launch("cuda", 2)
    (model_folder / "config.json").write_text('{"num_attention_heads": 8}')
    assert value_of(arguments(tmp_path, model_folder, "cuda", tensor_parallel_size=2), "--tensor-parallel-size") == "2"
