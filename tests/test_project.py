"""`ragtune init`: what it writes, and what it refuses."""

import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ragtune.backends.engine_environment import engine_python, install_commands
from ragtune.errors import ResourceError, SettingsError, SourceError
from ragtune.settings import load_settings
from ragtune_serving.cli import app


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("RAGTUNE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> str:
    return CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False).output


def test_the_settings_that_it_writes_are_valid_and_name_a_folder_with_a_document(folder, monkeypatch):
    assert "ragtune index" in init("project")
    monkeypatch.chdir(folder / "project")
    settings = load_settings()
    assert settings.sources == ("folder:documents",)
    assert settings.home == folder / "project" / ".ragtune"
    assert [file.name for file in (folder / "project" / "documents").iterdir()] == ["example.md"]


@pytest.mark.parametrize("profile", ["laptop", "llama3-8b"])
def test_the_settings_of_every_profile_are_valid(folder, monkeypatch, profile):
    init("project", "--profile", profile)
    monkeypatch.chdir(folder / "project")
    settings = load_settings()
    assert settings.sources == ("folder:documents",)
    assert settings.engine.max_model_len > settings.training.max_tokens


def test_a_source_is_written_with_its_absolute_path_and_no_example_is_made(folder):
    init("project", "--source", "folder:handbook: a draft", "--source", "package:dagster")
    written = yaml.safe_load((folder / "project" / "ragtune.yaml").read_text())
    assert written["sources"] == [f"folder:{folder}/handbook: a draft", "package:dagster"]
    assert not (folder / "project" / "documents").exists()


def test_existing_questions_alone_are_written_next_to_a_new_folder_for_documents(folder):
    init("project", "--source", "pairs:faq.csv")
    written = yaml.safe_load((folder / "project" / "ragtune.yaml").read_text())
    assert written["sources"] == ["folder:documents", f"pairs:{folder}/faq.csv"]
    assert (folder / "project" / "documents" / "example.md").is_file()


def test_a_source_that_is_not_there_is_named(folder):
    (folder / "here").mkdir()
    printed = init("project", "--source", "folder:manuals", "--source", "folder:here")
    assert f"There is no {folder}/manuals yet." in " ".join(printed.split())
    assert f"{folder}/here yet" not in printed


def test_what_is_no_source_is_refused_and_nothing_is_written(folder):
    (folder / "manuals").mkdir()
    with pytest.raises(SourceError, match="write folder:manuals"):
        init("project", "--source", "manuals")
    assert not (folder / "project").exists()


@pytest.mark.parametrize("place", ["/proc/nope", "file/inside"])
def test_a_folder_that_cannot_be_made_is_a_message(folder, place):
    (folder / "file").write_text("no folder")
    with pytest.raises(ResourceError, match=rf"{place} cannot be written: .*\n.*a folder that exists or can be made"):
        init(place)


def test_an_existing_project_is_not_overwritten(folder):
    init("project")
    (folder / "project" / "ragtune.yaml").write_text("seed: 3\n")
    with pytest.raises(SettingsError, match=r"edit project/ragtune\.yaml"):
        init("project")
    assert (folder / "project" / "ragtune.yaml").read_text() == "seed: 3\n"


def test_an_unknown_profile_is_refused_with_the_valid_names_and_nothing_is_written(folder):
    with pytest.raises(SettingsError, match="one of laptop, llama3-8b"):
        init("project", "--profile", "mainframe")
    assert not (folder / "project").exists()


def test_state_is_added_to_a_gitignore_once(folder):
    (folder / ".gitignore").write_text("*.pyc\n.venv/")
    init(".")
    assert (folder / ".gitignore").read_text().splitlines() == ["*.pyc", ".venv/", ".ragtune/", ".venv-vllm/"]


def test_documents_that_are_already_there_get_no_example(folder):
    (folder / "documents").mkdir()
    (folder / "documents" / "mine.md").write_text("# Mine\n")
    init(".")
    assert [file.name for file in (folder / "documents").iterdir()] == ["mine.md"]


def test_the_engine_of_the_working_directory_comes_first_then_the_one_next_to_our_environment(folder, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(folder / "tools" / ".venv"))
    shared = folder / "tools" / ".venv-vllm" / "bin" / "python"
    assert engine_python(".venv-vllm/bin/python") == shared
    own = folder / ".venv-vllm" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert engine_python(".venv-vllm/bin/python") == own
    assert engine_python("/opt/vllm/bin/python") == Path("/opt/vllm/bin/python")


def test_the_commands_that_install_the_engine_name_lock_files_that_exist(folder):
    for cuda in (False, True):
        commands = install_commands(".venv-vllm/bin/python", cuda)
        locks = [Path(word) for command in commands for word in command.split() if word.endswith(".txt")]
        assert locks
        assert all(lock.is_file() for lock in locks)
