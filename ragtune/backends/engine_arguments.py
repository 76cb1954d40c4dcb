"""The command line of a vLLM server: from the settings of the engine, checked by vLLM's own parser."""

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Literal

from ragtune.errors import SettingsError
from ragtune.model.base.capacity import arithmetic
from ragtune.model.compression.weights import storage_format
from ragtune.settings import EngineSettings

_CPU_BLOCK_TOKENS = 32
"""Requests share a prefix in whole blocks, and the system text is shorter than the 128 tokens of vLLM's CPU default."""
_CPU_SPECULATIVE_TOKENS = 4
_REPEATED_TOKENS = {"prompt_lookup_min": 1, "prompt_lookup_max": 3}
"""Prompt lookup decoding: after 1 to 3 tokens that occur in the prompt, guess the 4 that follow there. Measured
against other values in docs/decisions/speculative-tokens.md."""
_OWN = frozenset(
    {
        *("api-key", "block-size", "config", "disable-uvicorn-access-log", "dtype", "enforce-eager"),
        *("generation-config", "gpu-memory-utilization", "host", "kv-cache-dtype", "max-model-len"),
        *("max-num-batched-tokens", "max-num-seqs", "model", "port", "quantization", "served-model-name"),
        *("speculative-config", "tensor-parallel-size", "trust-remote-code", "uds"),
    }
)
"""Arguments of vLLM that settings set, or that nobody may set."""
_PARSER = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
"""
_PARSER_SECONDS = 300
"""How long vLLM's parser may take: it imports for ten seconds, and longer on a busy machine."""
Device = Literal["cpu", "cuda"]


def vllm_arguments(
    settings: EngineSettings, device: Device, model: Path, name: str, port: int, gpu_share: float
) -> list[str]:
    """Return the arguments after the interpreter. No secret is among them, because others can read them.

    `gpu_share` is the share of the GPU's memory that the engine takes.
    """
    arguments = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", name]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(settings.max_model_len)]
    # Only the request sets the sampling, so that scores do not depend on a file in the model folder.
    arguments += ["--generation-config", "vllm", "--disable-uvicorn-access-log"]
    if device == "cuda":
        arguments += ["--gpu-memory-utilization", f"{gpu_share:.3f}"]
        if settings.tensor_parallel_size > 1:
            arguments += ["--tensor-parallel-size", str(settings.tensor_parallel_size)]
    else:
        arguments += ["--block-size", str(_CPU_BLOCK_TOKENS)]
        if arithmetic(device) == "float32" and not storage_format(model):
            arguments += ["--dtype", "float32"]
    # On a CPU compiling takes a minute at each start; on a GPU it is what vLLM is fast by.
    if settings.eager or (settings.eager is None and device == "cpu"):
        arguments.append("--enforce-eager")
    if tokens := _speculative_tokens(settings, device):
        speculation = {"method": "ngram", "num_speculative_tokens": tokens, **_REPEATED_TOKENS}
        arguments += ["--speculative-config", json.dumps(speculation)]
    return arguments + _chosen(settings)


def check_settings(settings: EngineSettings) -> None:
    """Raise SettingsError for settings of the engine that cannot be right, whatever vLLM knows."""
    names = [_argument(name) for name in settings.arguments]
    if own := sorted(set(names) & _OWN):
        raise SettingsError(
            f"engine.arguments has {own[0]}, which RagTune sets itself.", fix="use the other settings of `engine`"
        )
    if wrong := sorted(name for name in names if not re.fullmatch(r"[a-z][a-z0-9.-]*", name)):
        raise SettingsError(
            f"engine.arguments has {wrong[0]!r}, which is no name of an argument.", "a name such as max-loras"
        )
    tokens, requests = settings.max_num_batched_tokens, settings.max_num_seqs
    if tokens and requests and tokens < requests:
        raise SettingsError(
            f"engine.max_num_batched_tokens is {tokens}, and engine.max_num_seqs is {requests}.",
            expected="at least as many tokens as requests, because each needs a token of a step",
        )


def check_arguments(settings: EngineSettings, python: Path, arguments: list[str], checked: Path) -> None:
    """Let vLLM's parser read the arguments, if settings added some that it may not know.

    `checked` is a folder that remembers what was accepted, because the parser takes ten seconds. Raises SettingsError
    with vLLM's own words.
    """
    own = _chosen(settings)
    if not own:
        return
    mark = checked / hashlib.sha256(json.dumps([str(python), *own]).encode()).hexdigest()[:16]
    if mark.is_file():
        return
    reply = subprocess.run(
        [str(python), "-c", _PARSER, *arguments[2:]],
        capture_output=True,
        text=True,
        check=False,
        timeout=_PARSER_SECONDS,
    )
    if reply.returncode:
        last = (reply.stderr.strip().splitlines() or ["it does not say why"])[-1]
        raise SettingsError(
            f"vLLM does not accept the arguments {' '.join(own)}: {last}",
            fix="correct engine.arguments, engine.quantization or engine.kv_cache_dtype; "
            f"`{python} -m vllm.entrypoints.openai.api_server --help=all` lists all arguments",
        )
    checked.mkdir(parents=True, exist_ok=True)
    mark.write_text(" ".join(own))


def _chosen(settings: EngineSettings) -> list[str]:
    """Return the arguments for settings that are not at their defaults."""
    arguments = []
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        if (value := getattr(settings, name)) is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    if settings.quantization:
        arguments += ["--quantization", settings.quantization]
    if settings.kv_cache_dtype != "auto":
        arguments += ["--kv-cache-dtype", settings.kv_cache_dtype]
    for name, value in sorted((_argument(name), value) for name, value in settings.arguments.items()):
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        else:
            arguments += [f"--{name}", str(value)]
    return arguments


def _argument(name: str) -> str:
    return name.lstrip("-").replace("_", "-")


def _speculative_tokens(settings: EngineSettings, device: Device) -> int:
    """Return how many tokens per step are guessed from the prompt (prompt lookup decoding).

    Answers quote their passages, so the text that follows in the prompt is a good guess. A CPU checks several
    tokens in little more time than one. The model checks every guess, so greedy answers stay the same.
    """
    if settings.speculative_tokens is not None:
        return settings.speculative_tokens
    return _CPU_SPECULATIVE_TOKENS if device == "cpu" else 0
