"""Starts shadow deployments, and says what their pairs show."""

from collections.abc import Mapping
from dataclasses import dataclass

from ragtune.errors import ExperimentError
from ragtune.experiments.comparison import Plan
from ragtune.experiments.pairs import PairedReport, compare_pairs
from ragtune.settings import Settings
from ragtune.store.registry import ModelRegistry
from ragtune.store.shadows import Shadow, ShadowDesign, ShadowStore


@dataclass(frozen=True, slots=True)
class VersionReport:
    """What became of the sampled requests of a version, and what its pairs show."""

    counts: Mapping[str, int]
    paired: PairedReport


def start_shadow(
    name: str, design: ShadowDesign, settings: Settings, registry: ModelRegistry, store: ShadowStore
) -> Shadow:
    """Start to mirror and return the shadow deployment.

    Raises:
        ExperimentError: no engine can be started, the name is taken, or another shadow deployment runs.
        RegistryError: there is no such version.
    """
    if settings.engine.backend == "openai":
        raise ExperimentError(
            "The engine is somebody else's server, which serves one model.",
            "engine.backend to be one whose engines RagTune starts",
        )
    for version in design.versions:
        registry.version(version)
    return store.start(name, design)


def report(shadow: Shadow, store: ShadowStore, plan: Plan | None = None) -> list[VersionReport]:
    """Return what the pairs of each version show."""
    return [
        VersionReport(
            store.counts(shadow, version),
            compare_pairs(version, store.pairs(shadow, version), plan or Plan()),
        )
        for version in shadow.design.versions
    ]
