"""Looks for damage in a home that nobody uses at the moment: what a kill or a full disk may have left half-written."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ragtune.errors import RagTuneError
from ragtune.settings import Settings
from ragtune.store.artifacts import MANIFEST, ArtifactStore, folder_files
from ragtune.store.registry import ModelRegistry, verify
from ragtune.store.warehouse import Warehouse


def damage(settings: Settings) -> list[str]:
    """Return what is incomplete or does not match its manifest, in words; empty if the home is sound."""
    home = settings.home
    return [*_artifacts(home / "artifacts"), *_models(settings), *_databases(home), *_json_files(home)]


def _artifacts(root: Path) -> Iterator[str]:
    store = ArtifactStore(root)
    for folder in sorted(path for path in root.glob("*/*") if path.is_dir()):
        manifest = folder / MANIFEST
        if folder.name.startswith(".scratch-"):
            yield f"{folder} was left behind"
        elif not manifest.is_file():
            yield f"{folder} has no {MANIFEST}"
        elif json.loads(manifest.read_text())["files"] != folder_files(folder):
            yield f"the files of {folder} are not those of its {MANIFEST}"
    for pointer in sorted(root.glob("*/current.json")):
        ref = store.current(pointer.parent.name)
        if ref is None or not (store.folder_of(ref) / MANIFEST).is_file():
            yield f"{pointer} points at nothing"


def _models(settings: Settings) -> Iterator[str]:
    for entry in ModelRegistry(settings).entries():
        try:
            verify(Path(entry.folder))
        except RagTuneError as error:
            yield f"version {entry.version}: {error}"


def _databases(home: Path) -> Iterator[str]:
    for file in sorted(home.rglob("*.db")):
        with closing(sqlite3.connect(file)) as database:
            (verdict,) = database.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            yield f"{file}: {verdict}"
    scores = home / "warehouse.duckdb"
    if scores.is_file():
        try:
            Warehouse(scores).scores()
        except RagTuneError as error:
            yield f"{scores}: {error}"


def _json_files(home: Path) -> Iterator[str]:
    for file in sorted(home.rglob("*.json")):
        try:
            json.loads(file.read_text())
        except ValueError as error:
            yield f"{file}: {error}"
