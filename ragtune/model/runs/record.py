"""What a tracked run was made with: settings, data, code, packages and machine, as tags, parameters and files."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ragtune.answer.prompt import prompt_sha256
from ragtune.evaluation.benchmark import hardware
from ragtune.model.training.tracking import RunRecord
from ragtune.records import ArtifactRef
from ragtune.settings import Settings

SETTINGS_FILE, PACKAGES_FILE = "settings.yaml", "packages.txt"
"""Files of every run: all settings, and the version of every installed package."""
DATA, CODE = "data.", "code."
"""Prefixes of parameters that are no settings: hashes of what a run read, and what it ran on."""
RESULT = "ragtune.result"
"""Tag of a run: the SHA-256 of what the asset computed."""
REPEATS, SAME = "ragtune.repeats", "ragtune.same_result"
"""Tags of a repetition: the run that it repeats, and `yes` or `no`."""
DAGSTER_RUN = "dagster_run_id"
"""Tag with the id of the Dagster run; dagster-mlflow chose the name."""
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_HIDDEN = "**********"
"""How pydantic writes a secret that is set."""


def run_record(
    settings: Settings, data: Sequence[ArtifactRef] = (), tags: Mapping[str, str] | None = None
) -> RunRecord:
    """Return what makes a run repeatable, without secrets.

    Args:
        settings: all settings.
        data: the artefacts that the run reads.
        tags: further tags.
    """
    hashes = {f"{DATA}{ref.name}": ref.sha256 for ref in data}
    commit = {"mlflow.source.git.commit": git_commit()} if git_commit() else {}
    return RunRecord(
        tags={**commit, "mlflow.source.name": "ragtune", "mlflow.source.type": "PROJECT", **(tags or {})},
        params={**flat(public_settings(settings)), **hashes, **environment(settings)},
        files={
            SETTINGS_FILE: yaml.safe_dump(public_settings(settings), sort_keys=False, allow_unicode=True).encode(),
            PACKAGES_FILE: "".join(f"{line}\n" for line in packages()).encode(),
        },
    )


def public_settings(settings: Settings) -> dict[str, Any]:
    """Return all settings as plain values, with secrets and the credentials in URLs hidden."""
    plain: dict[str, Any] = _without_credentials(settings.model_dump(mode="json"))
    # The address of a webhook is all that it takes to write to a channel.
    plain["alerts"]["webhook"] = _HIDDEN if plain["alerts"]["webhook"] else ""
    return plain


def flat(plain: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings as `{"training.rank": "16"}`; lists, and mappings with free keys, become JSON."""
    pairs: dict[str, str] = {}
    for name, value in plain.items():
        # The keys of a mapping such as `languages` are paths, which MLflow does not accept in names.
        if isinstance(value, Mapping) and value and all(key.isidentifier() for key in value):
            pairs |= {f"{name}.{key}": inner for key, inner in flat(value).items()}
        else:
            pairs[name] = value if isinstance(value, str) else json.dumps(value)
    return pairs


def environment(settings: Settings) -> dict[str, str]:
    """Return the parameters that say what a run ran on: embedder, prompt, commit, Python, machine."""
    embedder = settings.embedder
    return {
        f"{CODE}embedder": embedder.backend + (f" {embedder.model}" if embedder.model else ""),
        f"{CODE}prompt": prompt_sha256(),
        f"{CODE}commit": git_commit() or "not a checkout",
        f"{CODE}ragtune": importlib.metadata.version("ragtune"),
        f"{CODE}python": platform.python_version(),
        f"{CODE}hardware": hardware(),
        f"{CODE}threads": str(settings.threads or len(os.sched_getaffinity(0))),
    }


@cache
def packages() -> tuple[str, ...]:
    """Return every installed package as `name==version`, sorted."""
    installed = {(one.metadata["Name"] or "").lower(): one.version for one in importlib.metadata.distributions()}
    return tuple(f"{name}=={version}" for name, version in sorted(installed.items()) if name)


@cache
def git_commit(folder: Path = Path(__file__).parent) -> str:
    """Return the commit of the checkout that this code runs from, with `+` if files were changed; "" without one."""
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        return _git(folder, "rev-parse", "HEAD") + ("+" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""  # an installed wheel, or a machine without git


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _without_credentials(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_credentials(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_credentials(inner) for inner in value]
    return _CREDENTIALS.sub(f"{_HIDDEN}@", value) if isinstance(value, str) else value
