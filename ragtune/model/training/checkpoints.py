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
from ragtune.settings import TrainingSettings
from ragtune.store.artifacts import MANIFEST, write_json

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


def newest_checkpoint(checkpoints: Path, marker: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the complete checkpoint with the highest step and its record, or None if there is none.

    A checkpoint is complete if it holds the file `marker`, which is written last. Incomplete ones, which a killed
    run left behind, are removed.
    """
    complete = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / marker).is_file():
            complete.append((folder, json.loads((folder / marker).read_text())))
        else:
            shutil.rmtree(folder)
    return max(complete, key=lambda checkpoint: checkpoint[1]["step"], default=None)
