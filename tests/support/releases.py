"""Small released models for the tests of the registry."""

from pathlib import Path
from typing import Any

from ragtune.records import ModelManifest
from ragtune.store.registry import assemble


def manifest(**changes: Any) -> ModelManifest:
    fields: dict[str, Any] = {
        "format": 1,
        "created_at": "2026-01-01T00:00:00+00:00",
        "base_model": "smollm2",
        "base_sha256": "b" * 64,
        "adapter_sha256": "a" * 64,
        "dataset_sha256": "d" * 64,
        "feedback_ids": (),
        "prompt_sha256": "p" * 64,
        "seed": 17,
        "code_version": "1",
        "served_precision": "w8a8",
        "precisions": {},
        "files": {},
        "scores": (),
        "gate": {},
        "mlflow_run_id": "",
        "packages": {},
    }
    return ModelManifest(**{**fields, **changes})


def released(home: Path, weights: bytes = b"weights", **changes: Any) -> Path:
    source = home / "source" / weights.hex()[:8]
    source.mkdir(parents=True, exist_ok=True)
    (source / "model.safetensors").write_bytes(weights)
    (source / "config.json").write_text("{}")
    return assemble(home / "models", {"w8a8": source, "w4a16": source}, manifest(**changes))
