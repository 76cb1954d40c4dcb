"""The release: a verified folder, a version in the registry, and the gate that moves `champion`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import dagster as dg

from ragtune.answer.prompt import prompt_sha256
from ragtune.errors import RegistryError
from ragtune.evaluation.alpha_spending import gate_look, refusals_on
from ragtune.evaluation.gate import GateEntry, decide
from ragtune.model.training.report import read_report
from ragtune.records import (
    AnswerSet,
    ArtifactRef,
    GateDecision,
    GateLook,
    ModelManifest,
    Precision,
    Score,
    ScoredAnswer,
    SplitItem,
)
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import FORMAT, ModelRegistry, assemble
from ragtune.store.warehouse import Warehouse
from ragtune_assets import pages
from ragtune_assets.asset import asset
from ragtune_assets.contenders import BASE, CANDIDATE, RAW, gate_sets, precision_folders, served_precision
from ragtune_assets.display import materialized
from ragtune_assets.model import learnt_feedback

PACKAGES = (
    "ragtune",
    "torch",
    "transformers",
    "peft",
    "trl",
    "llmcompressor",
    "compressed-tensors",
    "dagster",
    "dagster-mlflow",
    "mlflow",
)
"""Packages whose versions a manifest records: what trains, merges, quantises and registers."""


@dataclass(frozen=True, slots=True)
class Release:
    """What the release asset did: which version, from which folder below the home, and whether it became champion."""

    version: str
    folder: str
    promoted: bool
    reason: str


@asset(
    group_name="release",
    kinds={"mlflow", "safetensors"},
    owners=["team:release"],
    settings=("evaluation", "quantization"),
    pool="duckdb",
    check_specs=[dg.AssetCheckSpec("gate_passed", asset="released_model")],
)
def released_model(
    base_model: ArtifactRef,
    qa_splits: ArtifactRef,
    preference_adapter: ArtifactRef,
    merged_model: ArtifactRef,
    quantized_model: ArtifactRef,
    eval_answers: ArtifactRef,
    eval_scores: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    registry: dg.ResourceParam[ModelRegistry],
    warehouse: dg.ResourceParam[Warehouse],
):
    """A version in the registry with its manifest; `champion` moves to it when the gate passes."""
    decision, look = gate(store.read_records(eval_answers, AnswerSet), settings, warehouse.gate_looks())
    scores = store.read_records(eval_scores, Score)
    items = store.read_records(qa_splits, SplitItem)
    manifest = describe(settings, store, base_model, preference_adapter, qa_splits, items, scores, decision)
    folders = released_folders(precision_folders(store, merged_model, quantized_model), manifest.served_precision)
    folder = assemble(settings.home / "models", folders, manifest)
    number = registry.register(folder)
    promote(registry, number, decision)
    warehouse.append([decision])
    warehouse.append([look] if look else [])
    release = Release(number, folder.relative_to(settings.home).as_posix(), decision.promoted, decision.reason)
    ref = store.write_records("released_model", [release])
    name, mlflow = settings.tracking.model_name, settings.mlflow_pages
    page = pages.release_page(number, str(folder), manifest, mlflow, name)
    return materialized(ref, page, [gate_check(decision)])


def released_folders(folders: Mapping[Precision, Path], served: Precision) -> dict[str, Path]:
    """Return the precisions that a release holds: INT4, INT8, and the served one if it is another."""
    precisions: list[Precision] = ["w4a16", "w8a8", served]
    return {precision: folders[precision] for precision in dict.fromkeys(precisions)}


def gate(
    sets: Sequence[AnswerSet], settings: Settings, looks: Sequence[GateLook]
) -> tuple[GateDecision, GateLook | None]:
    """Return whether the candidate may replace the live model, and the look that this costs.

    The look is None if it costs nothing: the same comparison was made before, or no alpha was left to spend.

    Args:
        sets: the answers of both models.
        settings: metric, alpha and over how many refusals it is spent.
        looks: all earlier looks.
    """
    live, candidate = gate_sets(sets)
    live_version = live.version if live.model == BASE else f"version {live.version}"
    before: Sequence[ScoredAnswer] = ()
    after: Sequence[ScoredAnswer] = ()
    if any(answers.split == "out_of_domain" for answers in sets):
        before, after = (answers.answers for answers in gate_sets(sets, "out_of_domain"))
    ids = {answer.pair_id for answer in live.answers}
    identity = gate_look(live_version, candidate.version, ids, 0.0, False).id
    others = [look for look in looks if look.id != identity]
    decision = decide(
        GateEntry(live_version, live.answers, before),
        GateEntry(candidate.version, candidate.answers, after),
        settings.evaluation,
        settings.seed,
        refusals_on(ids, others),
    )
    if len(others) < len(looks) or decision.refusals_before >= settings.evaluation.gate_looks:
        return decision, None
    return decision, gate_look(live_version, candidate.version, ids, decision.alpha, decision.promoted)


def describe(
    settings: Settings,
    store: ArtifactStore,
    base: ArtifactRef,
    adapter: ArtifactRef,
    splits: ArtifactRef,
    items: Sequence[SplitItem],
    scores: Sequence[Score],
    decision: GateDecision,
) -> ModelManifest:
    """Return the manifest of a release, still without its files."""
    report = read_report(store.folder(adapter))
    return ModelManifest(
        format=FORMAT,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        base_model=settings.base_model.name,
        base_sha256=base.sha256,
        adapter_sha256=adapter.sha256,
        dataset_sha256=splits.sha256,
        feedback_ids=learnt_feedback(store.folder(adapter), items),
        prompt_sha256=prompt_sha256(),
        seed=settings.seed,
        code_version=version("ragtune"),
        served_precision=served_precision(settings),
        precisions={},
        files={},
        scores=tuple(asdict(score) for score in scores if score.model in (RAW, BASE, CANDIDATE) and not score.part),
        gate=asdict(decision),
        mlflow_run_id=report.mlflow_run_id,
        packages={name: version(name) for name in PACKAGES},
    )


def promote(registry: ModelRegistry, number: str, decision: GateDecision) -> None:
    """Move `champion` to the version if the gate passed, else `challenger`.

    Raises RegistryError if the champion is no longer the model that the candidate was compared with.
    """
    champion = registry.usable_alias("champion")
    live = f"version {champion.version}" if champion else "base"
    if champion and champion.version == number:
        return
    if decision.promoted and live != decision.live_version:
        raise RegistryError(
            f"The champion is {live}, but the candidate was compared with {decision.live_version}.",
            expected="a champion that did not move during the evaluation",
            fix="run `ragtune materialize --select eval_answers+ --force`",
        )
    registry.move("champion" if decision.promoted else "challenger", number)


def gate_check(decision: GateDecision) -> dg.AssetCheckResult:
    """Return the decision as a check; a refused candidate is a warning."""
    return dg.AssetCheckResult(
        passed=decision.promoted,
        check_name="gate_passed",
        severity=dg.AssetCheckSeverity.WARN,
        description=decision.reason,
        metadata=pages.gate_page(decision),
    )
