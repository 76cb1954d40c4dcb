"""A second person on the machine uses a home that belongs to somebody else: every command says so in words."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ragtune.settings import child_environment

_PR_CAPBSET_DROP = 24
_PASS_BY_PERMISSIONS = (0, 1, 2, 3)
"""Linux' CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER: without them root is a user like others."""
_NOBODY = 65534


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A home that others may read, and only its owner may change."""
    home = tmp_path / "home"
    for folder in (home, home / "logs", home / "keys"):
        folder.mkdir()
        folder.chmod(0o555)
        if os.geteuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
    return home


def drop_rights() -> None:
    for capability in _PASS_BY_PERMISSIONS:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def run_in(home: Path, command: list[str]) -> "subprocess.CompletedProcess[str]":
    document = home.parent / "a.md"
    document.write_text("# Kiln\n\nThe kiln is hot.\n")
    environment = child_environment(RAGTUNE_HOME=str(home), RAGTUNE_SOURCES=f'["folder:{home.parent}"]')
    command = [sys.executable, "-m", *command]
    return subprocess.run(command, env=environment, preexec_fn=drop_rights, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command",
    [
        ["ragtune_serving.cli", "index"],
        ["ragtune_serving.cli", "serve"],
        ["ragtune_serving.cli", "keys", "add", "ada"],
        ["ragtune_assets.materialize", "--select", "raw_documents"],
        ["ragtune_assets.dead_runs"],
        ["ragtune_assets.health"],
        ["ragtune_assets.old_runs", "--days", "30"],
    ],
    ids=lambda command: " ".join(command),
)
def test_a_command_in_the_home_of_another_user_says_whose_home_it_needs(command: list[str], foreign: Path) -> None:
    done = run_in(foreign, command)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "a home that belongs to the user who runs RagTune" in said
    assert "Traceback" not in said


def test_status_shows_what_it_can_read_of_the_home_of_another_user(foreign: Path) -> None:
    done = run_in(foreign, ["ragtune_serving.cli", "status"])
    assert done.returncode == 0, done.stderr
    assert "index       none yet" in done.stdout
    assert f"{foreign}/feedback cannot be used: Permission denied" in " ".join(done.stdout.split())
    assert "run it as the owner of that file" in " ".join(done.stdout.split())
