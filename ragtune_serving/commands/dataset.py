"""`dataset`: lists the published versions of the dataset, and shows the difference between two of them."""

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
_EXAMPLES = 10
"""Changes of each kind that `diff` prints; chosen by hand to fit on a screen. `--json` prints all of them."""
app = typer.Typer(help="Look at the versions of the dataset.", no_args_is_help=True)


@app.command("versions")
def versions() -> None:
    """List the published versions and their folders, which Hugging Face `datasets` can load."""
    current = ArtifactStore(_root().parent).current(_root().name)
    for folder in _published_folders():
        manifest = json.loads((folder / "dataset.json").read_text())
        splits = ", ".join(f"{name} {count}" for name, count in manifest["splits"].items())
        mark = f" {CURRENT}" if current is not None and Path(current.uri) == folder else ""
        out.print(f"{folder.name}{mark}: {splits}  {folder}")


@app.command("diff")
def diff(
    old: Annotated[str, typer.Argument(help="the older version: its name, the start of its name, or its folder")],
    new: Annotated[str, typer.Argument(help="the newer version, named in the same way")] = CURRENT,
    json_: Annotated[bool, typer.Option("--json", help="print every change as JSON")] = False,
) -> None:
    """Show which pairs were added, removed, changed, or moved to another split."""
    difference = diff_items(read_published(_folder(old)), read_published(_folder(new)))
    changes_by_kind: dict[str, list[dict[str, Any]]] = {
        "added": [_row(item) for item in difference.added],
        "removed": [_row(item) for item in difference.removed],
        "changed": [{"before": _row(before), "after": _row(after)} for before, after in difference.changed],
        "moved": [{"before": _row(before), "after": _row(after)} for before, after in difference.moved],
    }
    if json_:
        print_json({**changes_by_kind, "kept": difference.unchanged})
        return
    out.print(str(difference))
    for kind, changes in changes_by_kind.items():
        for change in changes[:_EXAMPLES]:
            row = change.get("after", change)
            out.print(f"  {kind}: [{row['split']}] {row['question']} -> {row['answer']}")
        if len(changes) > _EXAMPLES:
            out.print(f"  {kind}: and {len(changes) - _EXAMPLES} more")


def _row(item: SplitItem) -> dict[str, str]:
    return {"id": item.pair.id, "question": item.pair.question, "answer": item.pair.answer, "split": item.split}


def _root() -> Path:
    return load_settings().home / "artifacts" / "published_dataset"


def _published_folders() -> list[Path]:
    """Return the folders of the published versions, oldest first; incomplete ones have no `dataset.json`."""
    folders = [file.parent for file in _root().glob("[!.]*/dataset.json")]
    return sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder.name))


def _folder(version: str) -> Path:
    if version == CURRENT:
        ref = ArtifactStore(_root().parent).current(_root().name)
        matches = [Path(ref.uri)] if ref else []
    else:
        matches = [folder for folder in _published_folders() if folder.name.startswith(version)]
    if not matches and (Path(version) / "dataset.json").is_file():
        matches = [Path(version)]
    if len(matches) != 1:
        versions = ", ".join(folder.name for folder in _published_folders()) or "none yet"
        raise DatasetError(
            f"'{version}' matches {len(matches)} published datasets.",
            expected=f"{CURRENT}, a folder, or one of: {versions}",
            fix="run `ragtune dataset versions`; to publish one, `ragtune materialize --select '*published_dataset'`",
        )
    return matches[0]
