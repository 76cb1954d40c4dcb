"""The release: a verified folder, a version in the registry, and the gate that moves `champion`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import dagster as dg

from ragtune.answer.prompt import prompt_sha256
from ragtune.errors import RegistryError
from ragtune.evaluation.gate import GateEntry, decide
from ragtune.model.training.report import read_report
from ragtune.records import ArtifactRef, GateDecision, ModelManifest, Precision, Score, ScoredAnswer, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import FORMAT, ModelRegistry, assemble
from ragtune.store.warehouse import Warehouse
from ragtune_assets.display import materialized, table
from ragtune_assets.line_up import BASE, CANDIDATE, RAW, AnswerSet, gate_sets, precision_folders, served_precision
from ragtune_assets.model import learnt_corrections

PACKAGES = (
    "ragtune",
    "torch",
    "transformers",
    "peft",
    "trl",
    "llmcompressor",
    "compressed-tensors",
    "dagster",
    "mlflow",
)


@dataclass(frozen=True, slots=True)
class Release:
    """What the release asset did: which version, from which folder, and whether it became champion."""

    version: str
    folder: str
    promoted: bool
    reason: str


@dg.asset(
    group_name="release",
    kinds={"mlflow", "safetensors"},
    owners=["team:release"],
    code_version="1",
    pool="duckdb",
    check_specs=[dg.AssetCheckSpec("gate_passed", asset="released_model")],
)
def released_model(
    base_model: ArtifactRef,
    qa_splits: ArtifactRef,
    lora_adapter: ArtifactRef,
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
    decision = gate(store.read_records(eval_answers, AnswerSet), settings)
    scores = store.read_records(eval_scores, Score)
    trained = store.read_records(qa_splits, SplitItem)
    manifest = describe(settings, store, base_model, lora_adapter, qa_splits, trained, scores, decision)
    unrounded: list[Precision] = ["bf16"] if manifest.served_precision == "bf16" else []
    wanted: list[Precision] = ["w4a16", "w8a8", *unrounded]
    folders = precision_folders(store, merged_model, quantized_model)
    folder = assemble(settings.home / "models", {precision: folders[precision] for precision in wanted}, manifest)
    number = registry.register(folder)
    promote(registry, number, decision)
    warehouse.append([decision])
    release = Release(number, str(folder), decision.promoted, decision.reason)
    return materialized(store.write_records("released_model", [release]), shown(release, manifest), [verdict(decision)])


def gate(sets: Sequence[AnswerSet], settings: Settings) -> GateDecision:
    """Return the decision on the gate's answers of the live model and the candidate."""
    live, candidate = gate_sets(sets)
    live_version = live.version if live.model == BASE else f"version {live.version}"
    before: Sequence[ScoredAnswer] = ()
    after: Sequence[ScoredAnswer] = ()
    if any(one.split == "out_of_domain" for one in sets):
        before, after = (one.answers for one in gate_sets(sets, "out_of_domain"))
    return decide(
        GateEntry(live_version, live.answers, before),
        GateEntry(candidate.version, candidate.answers, after),
        settings.evaluation,
        settings.seed,
    )


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
    """Return the manifest without its files."""
    report = read_report(store.folder(adapter))
    return ModelManifest(
        format=FORMAT,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        base_model=settings.base_model.name,
        base_sha256=base.sha256,
        adapter_sha256=adapter.sha256,
        dataset_sha256=splits.sha256,
        feedback_ids=learnt_corrections(store.folder(adapter), items),
        prompt_sha256=prompt_sha256(),
        seed=settings.seed,
        code_version=version("ragtune"),
        served_precision=served_precision(settings),
        precisions={},
        files={},
        scores=tuple(asdict(score) for score in scores if score.model in (RAW, BASE, CANDIDATE)),
        gate=asdict(decision),
        mlflow_run_id=report.mlflow_run_id,
        packages={name: version(name) for name in PACKAGES},
    )


def promote(registry: ModelRegistry, number: str, decision: GateDecision) -> None:
    """Move `champion` when the gate passed, else `challenger`.

    Raises RegistryError when the champion is no longer the model that the candidate was compared with.
    """
    champion = registry.alias("champion")
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


def verdict(decision: GateDecision) -> dg.AssetCheckResult:
    """Return the decision as a check, a warning when the candidate was refused."""
    numbers = {name: value for name, value in asdict(decision).items() if isinstance(value, int | float)}
    return dg.AssetCheckResult(
        passed=decision.promoted,
        check_name="gate_passed",
        severity=dg.AssetCheckSeverity.WARN,
        description=decision.reason,
        metadata=numbers,
    )


def shown(release: Release, manifest: ModelManifest) -> dict[str, object]:
    """Return what a person wants to see of a release."""
    rows = [(s["model"], s["precision"], s["metric"], s["value"], s["n"]) for s in manifest.scores]
    return {
        "version": release.version,
        "decision": dg.MetadataValue.md(release.reason),
        "champion": release.promoted,
        "served precision": manifest.served_precision,
        "feedback rows": len(manifest.feedback_ids),
        "folder": dg.MetadataValue.path(release.folder),
        "scores": table(["model", "precision", "metric", "value", "n"], rows),
        "packages": table(["package", "version"], sorted(manifest.packages.items())),
    }
