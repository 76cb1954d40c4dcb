"""From a pretrained model to a fine-tuned one that is small enough to serve."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ragtune.answer.passages import Search, hits_needed
from ragtune.dataset.corrections import CORRECTION, feedback_ids
from ragtune.evaluation import out_of_domain
from ragtune.evaluation.benchmark import folder_bytes
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.base.capacity import Machine
from ragtune.model.base.folder_checks import check_model_folder
from ragtune.model.base.merge import merge_adapter
from ragtune.model.base.pretrained import resolve_base_model
from ragtune.model.compression.quantization import quantize_w4a16, quantize_w8a8
from ragtune.model.compression.weights import inspect_weights
from ragtune.model.examples.builder import ExampleBuilder
from ragtune.model.examples.example import TrainingExample
from ragtune.model.examples.mixture import REPLAY
from ragtune.model.examples.order import interleave
from ragtune.model.examples.tokens import STRETCH
from ragtune.model.training.report import REPORT, AdapterReport
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import MlflowTracker
from ragtune.records import ArtifactRef, Chunk, Document, Hit, Split, SplitItem, content_id
from ragtune.settings import Settings, TrainingSettings
from ragtune.store.artifacts import ArtifactStore, files_sha256, folder_files, write_json
from ragtune_assets.display import asked, curve, materialized, table
from ragtune_assets.progress import LoggedProgress

OWNERS = ["team:model"]
LEARNT = "corrections.json"
_SEARCHED = 64
"""Questions searched for in one go."""


@dg.asset(group_name="model", kinds={"huggingface", "safetensors"}, owners=OWNERS, code_version="1")
def base_model(
    settings: dg.ResourceParam[Settings], store: dg.ResourceParam[ArtifactStore]
) -> dg.MaterializeResult[ArtifactRef]:
    """The pretrained instruction model, as safetensors with its tokenizer."""
    ref = resolve_base_model(settings.base_model, store, LoggedProgress())
    config = check_model_folder(store.folder(ref))
    facts = [(key, config[key]) for key in sorted(config) if isinstance(config[key], int | float | str)]
    return materialized(ref, {"name": settings.base_model.name, "configuration": table(["key", "value"], facts)})


@dg.asset(group_name="model", kinds={"python", "parquet"}, owners=OWNERS, code_version="1")
def replay_questions(
    raw_documents: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
) -> dg.MaterializeResult[ArtifactRef]:
    """Questions about something else to train on, so that a model keeps what it could do before."""
    documents = store.read_records(raw_documents, Document)
    most = sum(replayed(settings.training, split) for split in ("train", "validation"))
    questions = out_of_domain.replay_questions(documents, most, retriever.embedder, settings, LoggedProgress())
    return materialized(store.write_records("replay_questions", questions), asked(questions))


@dg.asset(
    group_name="model", kinds={"trl", "mlflow"}, owners=OWNERS, code_version="5", pool="gpu", deps=["search_index"]
)
def lora_adapter(
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    replay_questions: ArtifactRef,
    base_model: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
) -> dg.MaterializeResult[ArtifactRef]:
    """A LoRA adapter for grounded answers, trained by TRL and tracked by MLflow; an interrupted one goes on.

    Its data version is the hash of the weights: training stops on time, so equal inputs do not give equal
    weights, and whatever was measured of other weights does not hold for these.
    """
    items = store.read_records(qa_splits, SplitItem)
    passages = store.read_records(chunks, Chunk)
    others = store.read_records(replay_questions, out_of_domain.OutOfDomainQuestion)
    together = settings.training.together
    training = examples(items, "train", passages, retriever, settings, together)
    training = with_replay(training, others, "train", settings, together)
    validation = examples(items, "validation", passages, retriever, settings)
    validation = with_replay(validation, others, "validation", settings)
    ref, report = train(store, base_model, training, validation, settings)
    losses = {"loss": [(float(step), loss) for step, loss in report.losses]}
    metadata = {
        "loss": curve(losses, "Training loss", "step", "cross entropy"),
        "steps": report.steps,
        "tokens": report.tokens,
        "tokens per second": report.tokens_per_second,
        "validation loss": report.validation_loss,
        "stopped by": report.stopped_by,
        "mlflow run": report.mlflow_run_id,
    }
    return materialized(ref, metadata)


@dg.asset(group_name="model", kinds={"peft", "safetensors"}, owners=OWNERS, code_version="1", pool="gpu")
def merged_model(
    base_model: ArtifactRef, lora_adapter: ArtifactRef, store: dg.ResourceParam[ArtifactStore]
) -> dg.MaterializeResult[ArtifactRef]:
    """The base model with the adapter added into its weights, in bf16."""
    with store.stage("merged_model") as scratch:
        merge_adapter(store.folder(base_model), store.folder(lora_adapter), scratch, LoggedProgress())
        ref = store.commit("merged_model", scratch)
    return materialized(ref, {"bytes": folder_bytes(store.folder(ref))})


@dg.asset(
    group_name="model",
    kinds={"llmcompressor", "safetensors"},
    owners=OWNERS,
    code_version="4",
    pool="gpu",
    deps=["search_index"],
    check_specs=[dg.AssetCheckSpec("really_quantised", asset="quantized_model", blocking=True)],
)
def quantized_model(
    merged_model: ArtifactRef,
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
):
    """INT4 by GPTQ and INT8, both from the same merge, calibrated on training conversations."""
    items = store.read_records(qa_splits, SplitItem)
    items.sort(key=lambda item: (item.split != "train", content_id(str(settings.seed), item.pair.id)))
    chosen = items[: settings.quantization.calibration_samples]
    conversations = examples(chosen, "train", store.read_records(chunks, Chunk), retriever, settings)
    merged, progress = store.folder(merged_model), LoggedProgress()
    machine = Machine(settings.device, settings.threads)
    with store.stage("quantized_model") as scratch:
        knobs = settings.quantization
        quantize_w4a16(merged, conversations, knobs, scratch / "w4a16", machine, progress)
        quantize_w8a8(merged, scratch / "w8a8", machine, progress)
        ref = store.commit("quantized_model", scratch)
    return materialized(ref, *weight_facts(merged, store.folder(ref)))


def examples(
    items: Sequence[SplitItem],
    split: Split,
    chunks: Sequence[Chunk],
    retriever: Retriever,
    settings: Settings,
    together: int = 1,
) -> list[TrainingExample]:
    """Return the split's conversations, people's corrections first so that no time limit leaves them out.

    It builds no more than the training can use; up to `together` pairs share a prompt.
    """
    chosen = [item for item in items if item.split == split]
    chosen.sort(key=lambda item: (item.pair.kind != CORRECTION, content_id(str(settings.seed), item.pair.id)))
    limit = reach(settings.training, split)
    chosen = chosen[: together * limit]
    search = searching(retriever, [item.pair.question for item in chosen], hits_needed(settings.answer.passages))
    builder = ExampleBuilder(chunks, search, settings.answer, settings.seed)
    built = builder.build(chosen, together, limit, LoggedProgress())
    return sorted(built, key=lambda example: example.kind != CORRECTION)


def searching(retriever: Retriever, questions: Sequence[str], limit: int) -> Search:
    """Return a search that looks for many of the questions in the same go, and for any other text by itself."""
    ahead = list(dict.fromkeys(questions))
    places = {question: place for place, question in enumerate(ahead)}
    hits: dict[str, list[Hit]] = {}

    def search(question: str, most: int) -> list[Hit]:
        if question not in hits:
            start = places.get(question)
            some = [question] if start is None else ahead[start : start + _SEARCHED]
            hits.update(zip(some, retriever.search_many(some, limit), strict=True))
        return hits[question][:most]

    return search


def reach(knobs: TrainingSettings, split: Split) -> int:
    """Return how many examples of a split a training can take in or look at."""
    return knobs.max_steps * knobs.batch_size if split == "train" else knobs.validation_examples


def replayed(knobs: TrainingSettings, split: Split) -> int:
    """Return how many of those are about something else."""
    return int(reach(knobs, split) * knobs.replay_share)


def with_replay(
    own: Sequence[TrainingExample],
    others: Sequence[out_of_domain.OutOfDomainQuestion],
    split: Split,
    settings: Settings,
    together: int = 1,
) -> list[TrainingExample]:
    """Return a split's conversations with questions about something else spread among them.

    Training and validation get different ones.
    """
    first = replayed(settings.training, "validation")
    chosen = others[first:] if split == "train" else others[:first]
    passages = {chunk.id: chunk for question in chosen for chunk in question.passages}
    items = [SplitItem(question.pair, split, question.pair.document_id) for question in chosen]
    search = out_of_domain.FixedPassages(chosen).search
    builder = ExampleBuilder(passages.values(), search, settings.answer, settings.seed, REPLAY)
    built = builder.build(items, together)
    return interleave(own, built, settings.training.replay_share, reach(settings.training, split))


def learnt_corrections(adapter: Path, items: Sequence[SplitItem]) -> tuple[str, ...]:
    """Return the feedback rows whose corrections the training got to before its time was over."""
    learnt = set(json.loads((adapter / LEARNT).read_text()))
    return feedback_ids([item.pair for item in items if item.pair.id in learnt])


def train(
    store: ArtifactStore,
    base: ArtifactRef,
    training: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    settings: Settings,
) -> tuple[ArtifactRef, AdapterReport]:
    """Train and return the adapter, named by its weights; checkpoints stay in the home until it is whole."""
    work = settings.home / "work" / "lora_adapter"
    knobs = settings.tracking
    tracker = MlflowTracker(settings.tracking_url, knobs.experiment, "lora_adapter", settings.run_files)
    with store.stage("lora_adapter") as scratch:
        job = TrainingJob(store.folder(base), settings.training, settings.seed, scratch, work)
        machine = Machine(settings.device, settings.threads)
        report = train_adapter(job, training, validation, tracker, machine, LoggedProgress())
        weights = {path: digest for path, digest in folder_files(scratch).items() if path != REPORT}
        seen = report.steps // STRETCH * STRETCH * settings.training.batch_size
        write_json(scratch / LEARNT, [example.pair_id for example in training[:seen] if example.kind == CORRECTION])
        ref = store.commit("lora_adapter", scratch, rows=report.steps, identity=files_sha256(weights))
    shutil.rmtree(work, ignore_errors=True)
    return ref, report


def weight_facts(merged: Path, quantized: Path) -> tuple[dict[str, Any], list[dg.AssetCheckResult]]:
    """Return what the weight files really hold, as metadata and as the blocking check on it."""
    folders = {"bf16": merged, "w4a16": quantized / "w4a16", "w8a8": quantized / "w8a8"}
    found = {precision: inspect_weights(folder) for precision, folder in folders.items()}
    full = found["bf16"]["bytes"]
    rows = [
        (name, facts["packed_int4"], facts["int8"], facts["plain"], facts["bytes"], f"{1 - facts['bytes'] / full:.0%}")
        for name, facts in found.items()
    ]
    sizes = table(["precision", "INT4 layers", "INT8 layers", "plain layers", "bytes", "smaller by"], rows)
    passed = all(facts["precision"] == name for name, facts in found.items())
    return {"weights": sizes}, [
        dg.AssetCheckResult(passed=passed, check_name="really_quantised", metadata={"weights": sizes})
    ]
