"""How fast and how large the candidate is next to the live model, and what load tests of the gateway found."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

from ragtune.answer.lines import LineSimilarity
from ragtune.evaluation.benchmark import Load, MeasuredModel, folder_bytes
from ragtune.evaluation.speed import EngineArm, InTurn, compare_engines, regressions
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.base.capacity import chosen_device
from ragtune.ports import Engine, EvidenceModel
from ragtune.records import ArtifactRef, Message, Precision, RegisteredModel, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune.store.speed_rows import SpeedRow
from ragtune.store.warehouse import Warehouse
from ragtune_assets import pages
from ragtune_assets.asset import asset
from ragtune_assets.contenders import precision_folders, served_precision
from ragtune_assets.display import materialized
from ragtune_assets.evaluation import OWNERS, benchmark_prompts, precision_name
from ragtune_assets.progress import LoggedProgress


@asset(
    group_name="evaluation",
    kinds={"vllm", "parquet"},
    owners=OWNERS,
    settings=("benchmark", "answer", "engine", "quantization"),
    pool="gpu",
    deps=["search_index"],
    check_specs=[dg.AssetCheckSpec("not_slower_or_larger", asset="speed_comparison")],
)
def speed_comparison(
    context: dg.AssetExecutionContext,
    qa_splits: ArtifactRef,
    base_model: ArtifactRef,
    merged_model: ArtifactRef,
    quantized_model: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
    similarity: dg.ResourceParam[LineSimilarity],
    evidence: dg.ResourceParam[EvidenceModel],
    engine: dg.ResourceParam[Engine],
    registry: dg.ResourceParam[ModelRegistry],
):
    """Speed, memory and size of the candidate against the live model, measured in turn, with the noise floor."""
    prompts = benchmark_prompts(store.read_records(qa_splits, SplitItem), retriever, similarity, evidence, settings)
    version = quantized_model.sha256[:12]
    candidate = candidate_arm(precision_folders(store, merged_model, quantized_model), version, settings)
    live = live_arm(live_release(registry, version), store.folder(base_model), settings)
    rows = compare_engines(engine, live, candidate, in_turn(prompts, context.run.run_id[:8], settings))
    ref = store.write_records("speed_comparison", rows)
    return materialized(ref, {"differences": pages.speed_table(rows)}, [regression_check(rows)])


@asset(group_name="evaluation", kinds={"duckdb"}, owners=OWNERS, pool="duckdb")
def gateway_loads(
    store: dg.ResourceParam[ArtifactStore], warehouse: dg.ResourceParam[Warehouse]
) -> dg.MaterializeResult[ArtifactRef]:
    """What `ragtune benchmark` found: with which rates gateways kept up, over versions, and what settings changed."""
    loads, differences = warehouse.loads(), warehouse.speed_differences(newest=True)
    ref = store.write_records("gateway_loads", loads)
    return materialized(ref, pages.loads_page(loads, [row for row in differences if row.settings != "{}"]))


def in_turn(prompts: Sequence[tuple[Message, ...]], run_id: str, settings: Settings) -> InTurn:
    """Return how models are compared: at the highest load of the settings; on a GPU one after the other."""
    knobs = settings.benchmark
    load = Load(max(knobs.concurrency), max(knobs.concurrency), settings.answer.max_tokens, settings.seed)
    return InTurn(
        prompts=prompts,
        load=load,
        rounds=knobs.rounds,
        together=chosen_device(settings.device) == "cpu",
        run_id=run_id,
        progress=LoggedProgress(),
    )


def candidate_arm(folders: Mapping[Precision, Path], version: str, settings: Settings) -> EngineArm:
    """Return the candidate at the precision in which it would be served."""
    precision = served_precision(settings)
    folder = folders[precision]
    return EngineArm(MeasuredModel(version, precision_name(precision, settings), folder_bytes(folder)), folder)


def live_release(registry: ModelRegistry, candidate: str) -> RegisteredModel | None:
    """Return the version that was live before this candidate, or None if the base model was."""
    champion = registry.usable_alias("champion")
    if champion is not None and champion.manifest.gate.get("candidate_version") == candidate:
        return registry.usable_alias("previous")
    return champion


def live_arm(live: RegisteredModel | None, base: Path, settings: Settings) -> EngineArm:
    """Return the live model as it is served; `base` is the folder of the model that is served before any release."""
    if live is None:
        return EngineArm(MeasuredModel("base", precision_name("bf16", settings), folder_bytes(base)), base)
    precision = live.manifest.served_precision
    folder = Path(live.folder) / live.manifest.precisions[precision]
    name = f"version {live.version}"
    return EngineArm(MeasuredModel(name, precision_name(precision, settings), folder_bytes(folder)), folder)


def regression_check(rows: Sequence[SpeedRow]) -> dg.AssetCheckResult:
    """Return the comparison as a check; a candidate that is slower or larger beyond the noise is a warning."""
    worse = regressions(rows)
    return dg.AssetCheckResult(
        passed=not worse,
        check_name="not_slower_or_larger",
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(worse) or "Not slower, and not larger, beyond the noise.",
        metadata={"differences": pages.speed_table(rows)},
    )
