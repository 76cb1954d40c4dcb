"""`models`: lists the released versions, and deletes those that nothing needs."""

from pathlib import Path
from typing import Annotated

import typer

from ragtune.errors import RegistryError
from ragtune.settings import load_settings
from ragtune.store.disk_use import disk_bytes, in_words
from ragtune.store.registry import ModelRegistry, RegistryEntry
from ragtune.store.retention import prunable
from ragtune.store.versions_in_use import versions_in_use
from ragtune_serving.audit import record_command
from ragtune_serving.terminal import out, print_json

app = typer.Typer(help="Look at the released versions, and delete old ones.", no_args_is_help=True)
DryRun = Annotated[bool, typer.Option("--dry-run", help="only show what would be deleted")]


@app.command("list")
def list_(json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """List every version with its names, its size on disk, and what is wrong with it."""
    rows = [(entry, _bytes(entry)) for entry in ModelRegistry(load_settings()).entries()]
    if json_:
        fields = ("version", "aliases", "created_at", "folder", "problem")
        print_json([{**{name: getattr(entry, name) for name in fields}, "bytes": size} for entry, size in rows])
        return
    if not rows:
        out.print("No version is released yet; `ragtune materialize` releases one.")
    for entry, size in rows:
        names = ", ".join(entry.aliases) or "-"
        problem = f"  cannot be served: {entry.problem}" if entry.problem else ""
        out.print(f"{entry.version:>4}  {entry.created_at}  {in_words(size):>9}  {names}{problem}")


@app.command("remove")
def remove(version: Annotated[str, typer.Argument(help="number of the version")]) -> None:
    """Delete a version and its weights; one that is live, previous or in an experiment is refused."""
    settings = load_settings()
    if version in versions_in_use(settings):
        raise RegistryError(
            f"Version {version} is in a running experiment or shadow deployment.",
            fix="stop it first: `ragtune experiment list` and `ragtune shadow list` show the names",
        )
    folder = ModelRegistry(settings).remove(version)
    record_command(settings.home, "models remove", f"version {version}")
    out.print(
        f"Deleted version {version}" + (f" and {folder}." if folder else "; its folder is used elsewhere or gone.")
    )


@app.command("prune")
def prune(
    keep: Annotated[int, typer.Option(min=0, help="how many of the newest versions without a name stay")] = 2,
    dry_run: DryRun = False,
) -> None:
    """Delete old versions; those that are live, previous or in an experiment stay, and so do the newest."""
    settings = load_settings()
    registry = ModelRegistry(settings)
    old = prunable(registry.entries(), keep, versions_in_use(settings))
    for entry in old:
        size = in_words(_bytes(entry))
        if not dry_run:
            registry.remove(entry.version)
            record_command(settings.home, "models prune", f"version {entry.version}")
        out.print(f"{'would delete' if dry_run else 'deleted'} version {entry.version} ({size})")
    if not old:
        out.print("Nothing to delete.")


def _bytes(entry: RegistryEntry) -> int:
    return disk_bytes(Path(entry.folder)) if entry.folder else 0
