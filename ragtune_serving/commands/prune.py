"""`prune`: frees the disk of a home by the policy in the settings."""

import json
import subprocess
import sys
from typing import Annotated

import typer

from ragtune.errors import ResourceError
from ragtune.settings import Settings, child_environment, load_settings
from ragtune.store.disk_use import in_words
from ragtune.store.retention import delete, disposable
from ragtune.text.counts import counted
from ragtune_serving.terminal import out


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be deleted")] = False,
) -> None:
    """Delete old models, artefacts, checkpoints, runs and logs; what something needs stays (settings: retention)."""
    settings = load_settings()
    items = disposable(settings)
    for item in items:
        name = f"version {item.version}" if item.version else str(item.path.relative_to(settings.home))
        out.print(f"{item.kind:<10} {in_words(item.bytes):>10}  {name}: {item.why}")
    if not dry_run:
        delete(settings, items)
    runs = _old_runs(settings, dry_run)
    verb = "would be" if dry_run else "are"
    total = in_words(sum(item.bytes for item in items))
    out.print(f"{counted(len(items), 'thing')} ({total}) and {counted(runs, 'old run')} of Dagster {verb} deleted.")


def _old_runs(settings: Settings, dry_run: bool) -> int:
    """Have the asset wing delete old runs, and return how many there are."""
    if not (settings.home / "dagster").is_dir():
        return 0
    # In a process of its own, because the wings do not import each other.
    command = [sys.executable, "-m", "ragtune_assets.old_runs", "--days", str(settings.retention.run_days)]
    command += ["--dry-run"] if dry_run else []
    environment = child_environment(RAGTUNE_HOME=str(settings.home))
    reply = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if reply.returncode:
        raise ResourceError(
            f"Old runs of Dagster were not deleted: {reply.stderr.strip()}", fix="fix the cause and run it again"
        )
    return int(json.loads(reply.stdout.splitlines()[-1])["runs"])
