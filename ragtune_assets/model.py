"""Assets that turn a pretrained model into a fine-tuned one that is small enough to serve."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ragtune.answer.lines import LineSimilarity
from ragtune.dataset.corrections import CORRECTION, feedback_ids
from ragtune.evaluation import out_of_domain
from ragtune.evaluation.benchmark import folder_bytes
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.base.capacity import Machine
from ragtune.model.base.folder_checks import check_model_folder
from ragtune.model.base.merge import merge_adapter
from ragtune.model.base.pretrained import resolve_base_model
from ragtune.model.compression.quantization import quantize_awq, quantize_mixed, quantize_w4a16, quantize_w8a8
from ragtune.model.compression.weights import inspect_weights
from ragtune.model.examples.dataset_conversations import DatasetConversations, replay_limit
from ragtune.model.examples.example import TrainingExample
from ragtune.model.runs.conversations import CONVERSATIONS_FILE, packed
from ragtune.model.training.preference import read_preference
from ragtune.model.training.report import REPORT, AdapterReport
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import MlflowTracker, with_files
from ragtune.model_settings import Precision, QuantizationSettings
from ragtune.ports import EvidenceModel, Progress
from ragtune.records import ArtifactRef, Chunk, Document, SplitItem, content_id
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore, files_sha256, folder_files, write_json
from ragtune_assets import pages
from ragtune_assets.asset import asset
from ragtune_assets.contenders import precision_folders
from ragtune_assets.display import materialized
from ragtune_assets.progress import LOGGER, LoggedProgress
from ragtune_assets.run_logs import log_merge, log_sizes, log_training
from ragtune_assets.tracking import AssetTracking

OWNERS = ["team:model"]
LEARNT = "corrections.json"
"""File of an adapter: ids of the corrections that it was trained on."""


@asset(group_name="model", kinds={"huggingface", "safetensors"}, owners=OWNERS, settings=("base_model",))
def base_model(
    settings: dg.ResourceParam[Settings], store: dg.ResourceParam[ArtifactStore]
) -> dg.MaterializeResult[ArtifactRef]:
    """The pretrained instruction model, as safetensors with its tokenizer."""
    ref = resolve_base_model(settings.base_model, store, LoggedProgress())
    config = check_model_folder(store.folder(ref))
    return materialized(ref, pages.base_model_page(settings.base_model.name, config))


@asset(
    group_name="model",
    kinds={"python", "parquet"},
    owners=OWNERS,
    settings=("chunking", "embedder", "dataset", "training", "answer", "seed"),
)
def replay_questions(
    raw_documents: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
) -> dg.MaterializeResult[ArtifactRef]:
    """Questions about something else to train on, so that a model keeps what it could do before."""
    documents = store.read_records(raw_documents, Document)
    limit = sum(replay_limit(settings.training, split) for split in ("train", "validation"))
    questions = out_of_domain.replay_questions(documents, limit, retriever.embedder, settings, LoggedProgress())
    return materialized(store.write_records("replay_questions", questions), pages.questions_page(questions))


@asset(
    group_name="model",
    kinds={"trl", "mlflow"},
    owners=OWNERS,
    settings=("training", "trained_rounding", "answer", "index", "seed"),
    tracks=log_training,
    resumes=True,
    pool="gpu",
    deps=["search_index"],
)
def lora_adapter(
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    replay_questions: ArtifactRef,
    base_model: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
    similarity: dg.ResourceParam[LineSimilarity],
    evidence: dg.ResourceParam[EvidenceModel],
    tracking: dg.ResourceParam[AssetTracking],
) -> dg.MaterializeResult[ArtifactRef]:
    """A LoRA adapter for grounded answers, trained by TRL and tracked by MLflow; interrupted training resumes.

    Its data version is the hash of the weights: the number of steps follows the speed of the first ones, so equal
    inputs need not give equal weights, and measurements of other weights do not hold for these. With the number of
    steps that its run logged, they do: `ragtune experiments repeat`.
    """
    items = store.read_records(qa_splits, SplitItem)
    replay = store.read_records(replay_questions, out_of_domain.OutOfDomainQuestion)
    conversations = DatasetConversations(store.read_records(chunks, Chunk), retriever, similarity, evidence, settings)
    training = conversations.with_replay(items, "train", replay, settings.training.together, LoggedProgress())
    validation = conversations.with_replay(items, "validation", replay, progress=LoggedProgress())
    ref, report = train(store, base_model, training, validation, settings, tracking.child)
    return materialized(ref, pages.adapter_page(report))


@asset(group_name="model", kinds={"peft", "safetensors"}, owners=OWNERS, tracks=log_merge, pool="gpu")
def merged_model(
    base_model: ArtifactRef, preference_adapter: ArtifactRef, store: dg.ResourceParam[ArtifactStore]
) -> dg.MaterializeResult[ArtifactRef]:
    """The base model with the adapter added into its weights, in bf16."""
    with store.stage("merged_model") as folder:
        merge_adapter(store.folder(base_model), store.folder(preference_adapter), folder, LoggedProgress())
        ref = store.commit("merged_model", folder)
    return materialized(ref, {"bytes": folder_bytes(store.folder(ref))})


@asset(
    group_name="model",
    kinds={"llmcompressor", "safetensors"},
    owners=OWNERS,
    settings=("quantization", "answer", "seed"),
    tracks=log_sizes,
    pool="gpu",
    deps=["search_index"],
    check_specs=[
        dg.AssetCheckSpec("really_quantised", asset="quantized_model", blocking=True),
        dg.AssetCheckSpec("small_enough", asset="quantized_model", blocking=True),
    ],
)
def quantized_model(
    merged_model: ArtifactRef,
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
    similarity: dg.ResourceParam[LineSimilarity],
    evidence: dg.ResourceParam[EvidenceModel],
    tracking: dg.ResourceParam[AssetTracking],
):
    """INT4 by GPTQ, INT8 and what else the settings name, from the same merge, calibrated on training conversations."""
    dataset = DatasetConversations(store.read_records(chunks, Chunk), retriever, similarity, evidence, settings)
    sample = calibration_sample(store.read_records(qa_splits, SplitItem), settings)
    conversations = dataset.of_split(sample, "train", progress=LoggedProgress())
    tracking.child.log_file(CONVERSATIONS_FILE, packed([conversations]))
    merged, progress = store.folder(merged_model), LoggedProgress()
    machine = Machine(settings.device, settings.threads)
    with store.stage("quantized_model") as folder:
        quantize(merged, conversations, settings.quantization, folder, machine, progress)
        ref = store.commit("quantized_model", folder)
    weights = inspect_precisions(precision_folders(store, merged_model, ref))
    page = pages.weights_page(weights)
    smaller_by = settings.quantization.smaller_by
    return materialized(ref, page, [quantization_check(weights, page), size_check(weights, smaller_by, page)])


def calibration_sample(items: Sequence[SplitItem], settings: Settings) -> list[SplitItem]:
    """Return the pairs that quantisation is calibrated on, drawn by seed from the training split first."""
    seed, count = str(settings.seed), settings.quantization.calibration_samples
    return sorted(items, key=lambda item: (item.split != "train", content_id(seed, item.pair.id)))[:count]


def learnt_feedback(adapter: Path, items: Sequence[SplitItem]) -> tuple[str, ...]:
    """Return the ids of the feedback whose corrections, or preferences, the adapter was trained on."""
    learnt = set(json.loads((adapter / LEARNT).read_text()))
    report = read_preference(adapter)
    preferences = report.feedback_ids if report else ()
    return tuple(sorted({*feedback_ids([item.pair for item in items if item.pair.id in learnt]), *preferences}))


def train(
    store: ArtifactStore,
    base: ArtifactRef,
    training: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    settings: Settings,
    tracker: MlflowTracker,
) -> tuple[ArtifactRef, AdapterReport]:
    """Train and return the adapter, identified by its weights; its checkpoints are deleted once it is complete."""
    checkpoints, batch = settings.home / "work" / "lora_adapter", settings.training.batch_size
    if len(training) < batch:
        LOGGER.info("training.batch_size is %d, but there are %d examples: a step takes all.", batch, len(training))
    tracker.record = with_files(tracker.record, {CONVERSATIONS_FILE: packed([training, validation])})
    with store.stage("lora_adapter") as folder:
        rounding = settings.quantization if settings.training.qat else None
        job = TrainingJob(
            base=store.folder(base),
            settings=settings.training,
            seed=settings.seed,
            out=folder,
            checkpoints=checkpoints,
            rounding=rounding,
        )
        machine = Machine(settings.device, settings.threads)
        report = train_adapter(job, training, validation, tracker, machine, LoggedProgress())
        weights = {path: digest for path, digest in folder_files(folder).items() if path != REPORT}
        learnt = [training[place] for place in report.learnt]
        write_json(folder / LEARNT, [example.pair_id for example in learnt if example.kind == CORRECTION])
        ref = store.commit("lora_adapter", folder, rows=report.steps, identity=files_sha256(weights))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return ref, report


def quantize(
    merged: Path,
    conversations: Sequence[TrainingExample],
    settings: QuantizationSettings,
    folder: Path,
    machine: Machine,
    progress: Progress,
) -> None:
    """Write each precision of the settings into its folder."""
    quantize_w4a16(merged, conversations, settings, folder / "w4a16", machine, progress)
    quantize_w8a8(merged, folder / "w8a8", machine, progress)
    further = {"awq": quantize_awq, "mixed": quantize_mixed}
    for precision in settings.also:
        further[precision](merged, conversations, settings, folder / precision, machine, progress)


def inspect_precisions(folders: Mapping[Precision, Path]) -> dict[Precision, dict[str, Any]]:
    """Return what the weight files of each precision really hold."""
    return {precision: inspect_weights(folder) for precision, folder in folders.items()}


def quantization_check(weights: Mapping[Precision, Mapping[str, Any]], metadata: dict[str, Any]) -> dg.AssetCheckResult:
    """Return whether every weight file has the precision that it is named for; AWQ writes INT4."""
    passed = all(facts["precision"] == ("w4a16" if name == "awq" else name) for name, facts in weights.items())
    return dg.AssetCheckResult(passed=passed, check_name="really_quantised", metadata=metadata)


def size_check(
    weights: Mapping[Precision, Mapping[str, Any]], smaller_by: float, metadata: dict[str, Any]
) -> dg.AssetCheckResult:
    """Return whether the INT4 files are smaller than bf16 by the share that the settings demand."""
    saved = {name: 1 - facts["bytes"] / weights["bf16"]["bytes"] for name, facts in weights.items()}
    too_large = {name: share for name, share in saved.items() if name in ("w4a16", "awq") and share < smaller_by}
    sizes = ", ".join(f"{name} is {share:.0%} smaller than bf16" for name, share in too_large.items())
    return dg.AssetCheckResult(
        passed=not too_large,
        check_name="small_enough",
        description=f"{sizes}; quantization.smaller_by demands {smaller_by:.0%}" if sizes else None,
        metadata=metadata,
    )
