"""`dataset`: lists published versions, shows the difference between two, and what became of existing pairs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ragtune.dataset.existing import Match
from ragtune.dataset.publishing import diff_items, read_published
from ragtune.errors import DatasetError
from ragtune.records import Split, SplitItem
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


@app.command("existing")
def existing(
    unmatched: Annotated[bool, typer.Option("--unmatched", help="only those that found no passage")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print all of them as JSON")] = False,
) -> None:
    """List the existing questions and answers (`pairs:FILE`) with their split, or the reason why they are not used."""
    store = ArtifactStore(_root().parent)
    ref, splits = store.current("matched_pairs"), store.current("qa_splits")
    if ref is None:
        raise DatasetError(
            "No existing pair was matched to a passage yet.",
            expected="a source `pairs:FILE` and a run of the graph",
            fix="run `ragtune sources add pairs:FILE` and `ragtune materialize --select '*published_dataset'`",
        )
    items = store.read_records(splits, SplitItem) if splits else []
    split_of = {item.pair.imported_from: item.split for item in items if item.pair.imported_from}
    rows = [_existing_row(match, split_of) for match in store.read_records(ref, Match)]
    shown = [row for row in rows if row["chunk_id"] == "" or not unmatched]
    if json_:
        print_json(shown)
        return
    for row in shown:
        out.print(f"{row['place']}: {row['question']}\n   {row['became']}", markup=False)
    matched = sum(row["chunk_id"] != "" for row in rows)
    out.print(f"Existing pairs: {len(rows)}, of which {matched} found their passage", style="dim")


def _existing_row(match: Match, split_of: dict[str, Split]) -> dict[str, str]:
    pair, place = match.pair, f"{match.existing.source}, {match.existing.place}"
    became = match.reason
    if pair is not None:
        left_out = "left out by the checks of the dataset; the page of qa_dataset in Dagster has the reason"
        became = split_of.get(pair.imported_from, left_out)
    return {
        "place": place,
        "question": match.existing.question,
        "answer": match.existing.answer,
        "chunk_id": pair.chunk_id if pair is not None else "",
        "became": became,
    }


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
