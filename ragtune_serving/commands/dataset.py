"""`dataset`: the published versions of the dataset, and what changed between two of them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ragtune.dataset.publishing import diff_items, read_published
from ragtune.errors import DatasetError
from ragtune.records import SplitItem
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_serving.terminal import out, print_json

CURRENT = "current"
_SHOWN = 10
app = typer.Typer(help="Look at the versions of the dataset.", no_args_is_help=True)


@app.command("versions")
def versions() -> None:
    """List the published versions; the folders are read by Hugging Face `datasets` too."""
    current = ArtifactStore(_root().parent).current(_root().name)
    for folder in _published():
        told = json.loads((folder / "dataset.json").read_text())
        splits = ", ".join(f"{name} {count}" for name, count in told["splits"].items())
        mark = f" {CURRENT}" if current is not None and Path(current.uri) == folder else ""
        out.print(f"{folder.name}{mark}: {splits}  {folder}")


@app.command("diff")
def diff(
    old: Annotated[str, typer.Argument(help="a version, the beginning of one, or a published folder")],
    new: Annotated[str, typer.Argument(help="the other one")] = CURRENT,
    json_: Annotated[bool, typer.Option("--json", help="print every change as JSON")] = False,
) -> None:
    """Show which pairs came, went, changed and moved to another split."""
    found = diff_items(read_published(_folder(old)), read_published(_folder(new)))
    listed: dict[str, list[dict[str, Any]]] = {
        "added": [_told(item) for item in found.added],
        "removed": [_told(item) for item in found.removed],
        "changed": [{"before": _told(was), "after": _told(item)} for was, item in found.changed],
        "moved": [{"before": _told(was), "after": _told(item)} for was, item in found.moved],
    }
    if json_:
        print_json({**listed, "kept": found.kept})
        return
    out.print(str(found))
    for what, changes in listed.items():
        for change in changes[:_SHOWN]:
            shown = change.get("after", change)
            out.print(f"  {what}: [{shown['split']}] {shown['question']} -> {shown['answer']}")
        if len(changes) > _SHOWN:
            out.print(f"  {what}: and {len(changes) - _SHOWN} more")


def _told(item: SplitItem) -> dict[str, str]:
    return {"id": item.pair.id, "question": item.pair.question, "answer": item.pair.answer, "split": item.split}


def _root() -> Path:
    return load_settings().home / "artifacts" / "published_dataset"


def _published() -> list[Path]:
    """Return the whole folders, oldest first."""
    found = [file.parent for file in _root().glob("[!.]*/dataset.json")]
    return sorted(found, key=lambda folder: (folder.stat().st_mtime, folder.name))


def _folder(version: str) -> Path:
    if version == CURRENT:
        ref = ArtifactStore(_root().parent).current(_root().name)
        found = [Path(ref.uri)] if ref else []
    else:
        found = [folder for folder in _published() if folder.name.startswith(version)]
    if not found and (Path(version) / "dataset.json").is_file():
        found = [Path(version)]
    if len(found) != 1:
        known = ", ".join(folder.name for folder in _published()) or "none yet"
        raise DatasetError(
            f"'{version}' names {len(found)} published datasets.",
            expected=f"{CURRENT}, a folder, or one of: {known}",
            fix="run `ragtune dataset versions`; for a first one `ragtune materialize --select '*published_dataset'`",
        )
    return found[0]
