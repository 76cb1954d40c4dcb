"""Checkpoints of an interrupted training: which ones belong to it, and which one it continues from."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ragtune.model.examples.tokens import Tokenized
from ragtune.model.training.tracking import Tracker
from ragtune.ports import Progress, silent
from ragtune.settings import TrainingSettings
from ragtune.store.artifacts import MANIFEST, file_sha256, write_json

_RUN = "run.json"


def fingerprint(
    base: Path, earlier: Path | None, rows: Sequence[Tokenized], settings: TrainingSettings, seed: int
) -> str:
    """Return a hash of everything that shapes a training: base model, earlier adapter, rows, settings and seed."""
    manifest = base / MANIFEST
    origin = json.loads(manifest.read_text())["sha256"] if manifest.is_file() else str(base.resolve())
    start = hashlib.sha256(earlier.read_bytes()).hexdigest() if earlier else ""
    parts = [origin, start, settings.model_dump(mode="json"), seed, [asdict(row) for row in rows]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def open_run(checkpoints: Path, identity: str, tracker: Tracker) -> str:
    """Start or continue the tracker's run and return its id; `identity` is the training's `fingerprint`.

    The folder is emptied if it belongs to another training.
    """
    path = checkpoints / _RUN
    record = json.loads(path.read_text()) if path.is_file() else {}
    if record.get("fingerprint") != identity:
        shutil.rmtree(checkpoints, ignore_errors=True)
        record = {}
    run_id = tracker.start(record.get("tracker_run", ""))
    write_json(path, {"fingerprint": identity, "tracker_run": run_id})
    return run_id


def newest_checkpoint(
    checkpoints: Path, marker: str, progress: Progress = silent
) -> tuple[Path, dict[str, Any]] | None:
    """Return the complete checkpoint with the highest step and its record, or None if there is none.

    A checkpoint is complete if its files have the hashes in the file `marker`, which is written last. Others, which a
    killed run or a full disk left behind, are removed, and `progress` names them.
    """
    complete = []
    for folder in sorted(checkpoints.glob("checkpoint-*")):
        record = json.loads((folder / marker).read_text()) if (folder / marker).is_file() else {"files": {}}
        damaged = sorted(
            name
            for name, sha256 in record["files"].items()
            if not (folder / name).is_file() or file_sha256(folder / name) != sha256
        )
        if record["files"] and not damaged:
            complete.append((folder, record))
        else:
            reason = f"{', '.join(damaged)} is damaged" if damaged else "it was not written to its end"
            progress(f"{folder.name} is not used: {reason}; an earlier checkpoint is", 0, 0)
            shutil.rmtree(folder)
    return max(complete, key=lambda checkpoint: checkpoint[1]["step"], default=None)
