"""Starts shadow deployments, and says what their pairs show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragtune.errors import ExperimentError
from ragtune.evaluation.judges import PreferenceSummary
from ragtune.evaluation.studies.store import StudyStore
from ragtune.experiments.comparison import Plan
from ragtune.experiments.pair_judging import Votes, judged, preferences_in_words, votes_on
from ragtune.experiments.pairs import PairedReport, compare_pairs
from ragtune.settings import Settings
from ragtune.store.registry import ModelRegistry
from ragtune.store.report_rows import ShadowComparison
from ragtune.store.shadows import Shadow, ShadowDesign, ShadowStore


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionReport:
    """What became of the sampled requests of a version, what its pairs show, and what judges and people prefer.

    `words` has sentences about `judges` and `votes`; `paired` has its own.
    """

    counts: Mapping[str, int]
    paired: PairedReport
    judges: Mapping[str, PreferenceSummary]
    votes: Sequence[Votes]
    words: tuple[str, ...]


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


def comparison_rows(store: ShadowStore, studies: StudyStore) -> list[ShadowComparison]:
    """Return a row for every version of every shadow deployment, the oldest first."""
    rows = []
    for shadow in store.list():
        for one in report(shadow, store, studies):
            dropped = sum(count for name, count in one.counts.items() if name.startswith("dropped: "))
            rows.append(
                ShadowComparison(
                    shadow=shadow.name,
                    running=not shadow.stopped_at,
                    version=one.paired.version,
                    pairs=one.paired.pairs,
                    users=one.paired.users,
                    sampled=one.counts.get("sampled", 0),
                    mirrored=one.counts.get("mirrored", 0),
                    dropped=dropped,
                    agreement=one.paired.agreement,
                    same_refusals=one.paired.same_refusals,
                    same_citations=one.paired.same_citations,
                    words=(*one.paired.words, *one.words),
                )
            )
    return rows


def report(
    shadow: Shadow, store: ShadowStore, studies: StudyStore | None = None, plan: Plan | None = None
) -> list[VersionReport]:
    """Return what the pairs of each version show, and what judges and people say of them."""
    reports = []
    for version in shadow.design.versions:
        judges = judged(store, shadow, version)
        votes = votes_on(studies, shadow, version) if studies else []
        reports.append(
            VersionReport(
                counts=store.counts(shadow, version),
                paired=compare_pairs(version, store.pairs(shadow, version), plan or Plan()),
                judges=judges,
                votes=votes,
                words=preferences_in_words(version, judges, votes),
            )
        )
    return reports
