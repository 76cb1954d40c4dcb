"""Decides whether an asset has to be built, and says why.

Dagster tags every materialisation with the code version and the data versions of its inputs.
An asset is fresh if those are still the newest and its artefact is complete.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import dagster as dg

from ragtune.store.artifacts import MANIFEST, ArtifactStore

DATA_VERSION = "dagster/data_version"
CODE_VERSION = "dagster/code_version"
INPUT_VERSION = "dagster/input_data_version/"


def reason_to_build(
    instance: dg.DagsterInstance, store: ArtifactStore, spec: dg.AssetSpec, checks: Mapping[dg.AssetKey, list[str]]
) -> str:
    """Return why the asset must be built, or "" if it is fresh."""
    if not list(spec.deps):
        return "it is a root"
    reason = inputs_reason(instance, spec.key, spec.code_version, [dep.asset_key for dep in spec.deps])
    if reason:
        return reason
    if not is_complete(store, spec.key, version_tags(instance, spec.key)):
        return "its artefact is gone"
    failed = [name for name in checks.get(spec.key, []) if not _passed(instance, spec.key, name)]
    return f"its check {failed[0]} did not pass" if failed else ""


def inputs_reason(
    instance: dg.DagsterInstance, key: dg.AssetKey, code_version: str | None, inputs: Iterable[dg.AssetKey]
) -> str:
    """Return why code and inputs would now give another result than the newest materialisation, or ""."""
    tags = version_tags(instance, key)
    if not tags:
        return "it was never built"
    if tags.get(CODE_VERSION) != code_version:
        return "its code or settings changed"
    for dep in sorted(inputs):
        if tags.get(INPUT_VERSION + dep.to_user_string()) != version_tags(instance, dep).get(DATA_VERSION):
            return f"{dep.to_user_string()} changed"
    return ""


def version_tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """Return the version tags of the newest materialisation; empty if there is none."""
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return {}
    return dict(event.asset_materialization.tags or {})


def is_complete(store: ArtifactStore, key: dg.AssetKey, tags: Mapping[str, str]) -> bool:
    """Return whether the artefact of that version is the current one and is complete on disk."""
    ref = store.current(key.to_user_string())
    if ref is None or not ref.sha256.startswith(tags.get(DATA_VERSION, "?")):
        return False
    return (Path(ref.uri) / MANIFEST).is_file()


def _passed(instance: dg.DagsterInstance, key: dg.AssetKey, name: str) -> bool:
    record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(key, name))
    return record is not None and record.status.value == "SUCCEEDED"
