"""Decorators that give an asset a code version: a hash of what it does, and of the settings that shape it.

The hash covers the asset's body and every definition that the body refers to, in this package and in the core
(`ragtune.behaviour`). `behaviour` adds what the body reaches only through an interface. The settings are known
later, when the code location is built, so the names of their sections travel in the asset's metadata.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from ragtune.behaviour import WITHOUT_EFFECT, SourceCode
from ragtune.settings import Settings
from ragtune_assets.tracking import Computed, tracked

SETTINGS = "settings sections"
"""Metadata of an asset: the sections of the settings that it reads."""

_SOURCE = SourceCode(
    without_effect=WITHOUT_EFFECT
    | {
        # What a person sees of an asset, and what is logged, changes no artefact.
        "ragtune_assets.asset",
        "ragtune_assets.compression_pages",
        "ragtune_assets.dataset_pages",
        "ragtune_assets.display",
        "ragtune_assets.experiment_pages",
        "ragtune_assets.pages",
        "ragtune_assets.preference_pages",
        "ragtune_assets.progress",
        "ragtune_assets.run_logs",
        "ragtune_assets.tracking",
        "ragtune.model.runs.conversations",
        "ragtune.model.runs.log",
        "ragtune.model.runs.record",
        "ragtune.model.runs.scored",
        "ragtune.model.training.samples",
        "ragtune.model.training.tracking",
    }
)


def asset(
    *,
    settings: Sequence[str] = (),
    behaviour: Sequence[object] = (),
    tracks: Callable[[Computed], None] | None = None,
    resumes: bool = False,
    **options: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return `dagster.asset` with a code version; `options` go to Dagster as they are.

    An asset that `tracks` is computed as a run of MLflow, and the function logs the numbers of what was computed. If it
    `resumes` interrupted work, its body starts the run, because that may be the run of the interrupted work.
    """

    def decorate(body: Callable[..., Any]) -> dg.AssetsDefinition:
        version = _SOURCE.sha256(body, *behaviour)[:12]
        compute = body if tracks is None else tracked(body, tracks, starts=not resumes)
        shared: Any = {"code_version": version, "metadata": _shaped_by(settings)}
        definition: dg.AssetsDefinition = dg.asset(**shared, **options)(compute)
        return definition

    return decorate


def multi_asset(
    outputs: Mapping[str, str],
    *,
    settings: Sequence[str] = (),
    behaviour: Sequence[object] = (),
    kinds: set[str],
    owners: Sequence[str],
    **options: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return `dagster.multi_asset` with a code version; `outputs` maps the assets of the step to descriptions."""

    def decorate(body: Callable[..., Any]) -> dg.AssetsDefinition:
        version = _SOURCE.sha256(body, *behaviour)[:12]
        shared: dict[str, Any] = {"kinds": kinds, "owners": owners, "code_version": version}
        outs = {
            name: dg.AssetOut(description=description, metadata=_shaped_by(settings), **shared)
            for name, description in outputs.items()
        }
        return dg.multi_asset(outs=outs, **options)(body)

    return decorate


def code_version(spec: dg.AssetSpec, settings: Settings) -> str:
    """Return the asset's code version under these settings."""
    sections = [section for section in str(spec.metadata[SETTINGS]).split(", ") if section]
    return f"{spec.code_version}-{settings.fingerprint(*sections)}"


def _shaped_by(sections: Sequence[str]) -> dict[str, str]:
    return {SETTINGS: ", ".join(sections)}
