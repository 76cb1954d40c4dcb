"""`ragtune models`: what stays, and what people see."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragtune.settings import load_settings
from ragtune.store.disk_use import disk_use, in_words, is_disk_full
from ragtune.store.registry import ModelRegistry, RegistryEntry
from ragtune.store.retention import prunable
from ragtune_serving.cli import app
from tests.support.releases import released


def entry(version: int, *aliases: str, problem: str = "") -> RegistryEntry:
    return RegistryEntry(str(version), f"/models/{version}", aliases, "2026-01-01", problem)


def test_pruning_keeps_what_has_a_name_and_the_newest_that_can_be_served() -> None:
    entries = [entry(1), entry(2, "previous"), entry(3), entry(4), entry(5, "champion"), entry(6, problem="gone")]
    assert [old.version for old in prunable(entries, keep=1)] == ["1", "3", "6"]
    assert [old.version for old in prunable(entries, keep=0)] == ["1", "3", "4", "6"]
    assert [old.version for old in prunable(entries, keep=9)] == ["6"]


def test_versions_are_listed_and_pruned_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give_mlflow: Callable[[Path], None]
) -> None:
    give_mlflow(tmp_path)
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    registry = ModelRegistry(load_settings())
    folders = [released(tmp_path, weights=weights) for weights in (b"one", b"two", b"three")]
    for folder in folders:
        registry.move("champion", registry.register(folder))
    run = CliRunner().invoke
    rows = json.loads(run(app, ["models", "list", "--json"]).stdout)
    assert [row["aliases"] for row in rows] == [[], ["previous"], ["champion"]]
    assert all(row["bytes"] > 0 for row in rows)
    assert "would delete version 1" in run(app, ["models", "prune", "--keep", "0", "--dry-run"]).stdout
    assert folders[0].exists()
    assert "deleted version 1" in run(app, ["models", "prune", "--keep", "0"]).stdout
    assert [folder.exists() for folder in folders] == [False, True, True]
    assert "Nothing to delete" in run(app, ["models", "prune", "--keep", "0"]).stdout


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "models" / "weights").write_bytes(b"x" * 100_000)
    (tmp_path / "artifacts" / "weights").hardlink_to(tmp_path / "models" / "weights")
    (tmp_path / "notes.txt").write_text("a note")
    used = disk_use(tmp_path)
    assert list(used) == ["models", "other"]
    assert 100_000 <= used["models"] < 200_000
    assert (in_words(900), in_words(3 << 20), in_words(1.5 * (1 << 30))) == ("900 B", "3.0 MiB", "1.5 GiB")


def test_every_library_that_says_the_disk_is_full_is_understood() -> None:
    assert is_disk_full(OSError(28, "No space left on device"))
    assert is_disk_full(RuntimeError("IO Error: Could not write file: No space left on device"))
    assert is_disk_full(ValueError("database or disk is full"))
    wrapped = RuntimeError("The step failed.")
    wrapped.__cause__ = OSError(122, "Disk quota exceeded")
    assert is_disk_full(wrapped)
    assert not is_disk_full(ValueError("The file is not found."))
