"""`init`: a folder with settings for a person's own documents."""

import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
import yaml

from ragtune.backends.engine_environment import base_model_command, engine_python, install_commands
from ragtune.errors import ResourceError, SettingsError
from ragtune.extras import install_command
from ragtune.knowledge.sources import is_source, unknown_source
from ragtune.settings import LOCAL_SOURCES, SOURCE_FORMS, EngineSettings
from ragtune_serving.terminal import err, out

SETTINGS_FILE, DOCUMENTS = "ragtune.yaml", "documents"
IGNORED = (".ragtune/", ".venv/", ".venv-vllm/")
"""What version control should leave out: state, which holds API keys, and environments."""


def init(
    folder: Annotated[Path, typer.Argument(help="folder of the new project; it is created if it does not exist")],
    source: Annotated[
        list[str], typer.Option(help=f"what to read: {SOURCE_FORMS} or a URL; may be repeated; default: a new folder")
    ] = [],  # noqa: B006
    profile: Annotated[str, typer.Option(help="settings to begin with: laptop or llama3-8b")] = "laptop",
) -> None:
    """Write ragtune.yaml for your own documents into a folder."""
    for spec in source:
        if not is_source(spec):
            raise unknown_source(spec)
    own_folder = all(spec.startswith("pairs:") for spec in source)
    specs = [_absolute(spec) for spec in source]
    settings_text = profile_text(profile, [*([f"folder:{DOCUMENTS}"] if own_folder else []), *specs])
    file = folder / SETTINGS_FILE
    if file.exists():
        raise SettingsError(
            f"{file} exists, and `ragtune init` does not overwrite it.",
            "a folder without a RagTune project",
            f"edit {file}, delete it, or name another folder",
        )
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file.", "the name of a folder", "name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if own_folder:
            _write_example(folder / DOCUMENTS)
        file.write_text(settings_text)
        _write_ignore_file(folder / ".gitignore")
    except OSError as error:
        raise ResourceError(
            f"{error.filename or folder} cannot be written: {error.strerror}.",
            "a folder that exists or can be made, with permission to write there",
            "name another folder",
        ) from error
    out.print(next_steps(folder, own_folder), markup=False)
    for path in filter(None, map(_missing_path, specs)):
        err.print(f"There is no {path} yet. Create it before `ragtune index`, or correct `sources`.", markup=False)


def profile_text(profile: str, sources: list[str]) -> str:
    """Return the text of ragtune.yaml with these sources; raise SettingsError for an unknown profile."""
    profiles = {file.name.removesuffix(".yaml"): file for file in _profile_files() if file.name.endswith(".yaml")}
    if profile not in profiles:
        raise SettingsError(f"There is no profile '{profile}'.", f"one of {', '.join(sorted(profiles))}")
    listed = yaml.safe_dump(sources, default_flow_style=False, allow_unicode=True)
    return profiles[profile].read_text().replace("{sources}\n", "".join(f"  {line}\n" for line in listed.splitlines()))


def next_steps(folder: Path, own_folder: bool) -> str:
    """Return what a person does next, with the exact commands."""
    lines = [f"Wrote {folder / SETTINGS_FILE}.", ""]
    if own_folder:
        lines += [f"Copy your documents into {folder / DOCUMENTS}, or name others under `sources`. Then:"]
    lines += [f"  cd {shlex.quote(str(folder))}", "  ragtune index", '  ragtune search "what you are looking for"']
    setting = EngineSettings().python
    if not engine_python(setting).is_file():
        lines += ["", "Answers and training also need more packages, the base model and the engine. Install them once:"]
        commands = [install_command("graph,serve"), base_model_command(), *install_commands(setting)]
        lines += [f"  {command}" for command in commands]
    answers = 'For answers: `ragtune serve`, and in another terminal `ragtune ask "your question"`.'
    return "\n".join([*lines, "", answers, "`ragtune doctor` checks that everything is there."])


def _absolute(spec: str) -> str:
    """Return a source with an absolute path: it was typed here, and will be read from the new folder."""
    kind, _, path = spec.partition(":")
    return f"{kind}:{Path(path).expanduser().resolve()}" if kind in LOCAL_SOURCES else spec


def _missing_path(spec: str) -> Path | None:
    """Return the folder or file of a source if it does not exist; other kinds of sources are not looked up."""
    kind, _, path = spec.partition(":")
    return Path(path) if kind in LOCAL_SOURCES and not Path(path).exists() else None


def _profile_files() -> list[Path]:
    return [Path(str(file)) for file in (files("ragtune_serving") / "profiles").iterdir()]


def _write_example(documents: Path) -> None:
    """Put one document into an empty folder, so that the first `ragtune index` finds something."""
    documents.mkdir(exist_ok=True)
    if not any(documents.iterdir()):
        example = next(file for file in _profile_files() if file.name == "example.md")
        (documents / example.name).write_text(example.read_text())


def _write_ignore_file(file: Path) -> None:
    """Add what version control should leave out, and keep the lines that are there."""
    text = file.read_text() if file.exists() else ""
    missing = [name for name in IGNORED if name not in text.splitlines()]
    if missing:
        file.write_text(text + ("\n" if text and not text.endswith("\n") else "") + "\n".join(missing) + "\n")
