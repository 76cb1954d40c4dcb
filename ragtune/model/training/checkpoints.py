"""Checkpoints of an interrupted training: which ones belong to it, which one it continues from, and their size."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ragtune.model.base.capacity import require_disk
from ragtune.model.training.adapters import WEIGHTS
from ragtune.model.training.tracking import Tracker
from ragtune.model.training.validation import BEST, RECORD
from ragtune.ports import Progress, silent
from ragtune.store.artifacts import MANIFEST, file_sha256, write_json

_RUN = "run.json"
KEPT = 2
"""Checkpoints that are kept, so that a complete one remains if the run is killed while it writes the next."""
_WEIGHT_BYTES = 12
"""Bytes per trainable weight: float32, and the two moments of AdamW in float32. The other optimisers keep less."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def fingerprint(base: Path, earlier: Path | None, rows: Sequence[Any], settings: BaseModel, seed: int) -> str:
    """Return a hash of everything that shapes a training: base model, earlier adapter, rows, settings and seed.

    `rows` are dataclass records.
    """
    manifest = base / MANIFEST
    origin = json.loads(manifest.read_text())["sha256"] if manifest.is_file() else str(base.resolve())
    start = hashlib.sha256(earlier.read_bytes()).hexdigest() if earlier else ""
    parts = [origin, start, settings.model_dump(mode="json"), seed, [asdict(row) for row in rows]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def open_run(checkpoints: Path, identity: str, tracker: Tracker, progress: Progress = silent) -> str:
    """Start or continue the tracker's run and return its id; `identity` is the training's `fingerprint`.

    The folder is emptied if it belongs to another training, or if the record of its run is damaged.
    """
    path = checkpoints / _RUN
    record = _read(path)
    if path.is_file() and not record:
        progress(f"{path} is damaged: the training starts again", 0, 0)
    if record.get("fingerprint") != identity:
        shutil.rmtree(checkpoints, ignore_errors=True)
        record = {}
    run_id = tracker.start(record.get("tracker_run", ""))
    write_json(path, {"fingerprint": identity, "tracker_run": run_id})
    return run_id


def tracked_run(checkpoints: Path) -> str:
    """Return the id of the tracker's run of a training that was started, or "" if there is none."""
    return str(_read(checkpoints / _RUN).get("tracker_run", ""))


def newest_checkpoint(
    checkpoints: Path, marker: str, progress: Progress = silent
) -> tuple[Path, dict[str, Any]] | None:
    """Return the complete checkpoint with the highest step and its record, or None if there is none.

    A checkpoint is complete if its files have the hashes in the file `marker`, which is written last. Others, which a
    killed run or a full disk left behind, are removed, and `progress` names them.
    """
    complete = []
    for folder in sorted(checkpoints.glob("checkpoint-*")):
        record = _read(folder / marker)
        damaged = _damaged(folder, record)
        if record.get("files") and not damaged:
            complete.append((folder, record))
        else:
            reason = f"{', '.join(damaged)} is damaged" if damaged else "it was not written to its end"
            progress(f"{folder.name} is not used: {reason}; an earlier checkpoint is", 0, 0)
            shutil.rmtree(folder)
    return max(complete, key=lambda checkpoint: checkpoint[1]["step"], default=None)


def best_weights(checkpoints: Path, progress: Progress = silent) -> Path | None:
    """Return the weight file of the adapter with the best validation, or None if it is missing or damaged."""
    folder = checkpoints / BEST
    record = _read(folder / RECORD)
    if record and not _damaged(folder, record):
        return folder / WEIGHTS
    progress(f"{folder} is missing or damaged: the adapter of the last step is used", 0, 0)
    return None


def checkpoint_bytes(trainable: int, base: Path) -> int:
    """Return the bytes of a checkpoint with this number of trainable weights and a copy of the base's tokenizer."""
    tokenizer = sum((base / name).stat().st_size for name in _TOKENIZERS if (base / name).is_file())
    return trainable * _WEIGHT_BYTES + tokenizer


def require_disk_for_training(checkpoints: Path, out: Path, size: int) -> None:
    """Raise ResourceError if the disks are too small for checkpoints of `size` bytes, the best and the last adapter."""
    # One more than is kept, because the new one is written before the old one is removed. Two adapters, the best one
    # and its replacement, are smaller than a checkpoint.
    require_disk(checkpoints, (KEPT + 2) * size, "the checkpoints of the training")
    require_disk(out, size, "the adapter")


def _read(path: Path) -> dict[str, Any]:
    """Return a record, or an empty one if the file is missing or damaged."""
    try:
        record = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _damaged(folder: Path, record: dict[str, Any]) -> list[str]:
    """Return the files of a folder that do not have the hashes in its record, sorted."""
    return sorted(
        name
        for name, sha256 in record.get("files", {}).items()
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256
    )
