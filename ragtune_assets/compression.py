"""What quantisation costs: the error of each layer, and how the predictions change."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from ragtune.answer.lines import LineSimilarity
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.base.capacity import Machine
from ragtune.model.compression.errors import QuantizationErrors, quantization_errors
from ragtune.model.compression.weights import inspect_weights
from ragtune.model.examples.dataset_conversations import DatasetConversations
from ragtune.ports import EvidenceModel
from ragtune.records import ArtifactRef, Chunk, Precision, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.report_rows import CompressionRow
from ragtune.store.warehouse import Warehouse
from ragtune_assets.asset import asset
from ragtune_assets.compression_pages import compression_page
from ragtune_assets.contenders import precision_folders
from ragtune_assets.display import materialized
from ragtune_assets.progress import LoggedProgress

_COMPARED = 16
"""Validation conversations on which models are compared: some thousand tokens. Chosen by hand."""
_METHODS: Mapping[Precision, str] = {"bf16": "none", "w4a16": "GPTQ", "w8a8": "INT8", "awq": "AWQ", "mixed": "mixed"}


@asset(
    group_name="model",
    kinds={"transformers", "duckdb"},
    owners=["team:model"],
    settings=("answer", "training.qat", "seed"),
    pool="gpu",
    deps=["search_index"],
)
def compression_errors(
    merged_model: ArtifactRef,
    quantized_model: ArtifactRef,
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
    similarity: dg.ResourceParam[LineSimilarity],
    evidence: dg.ResourceParam[EvidenceModel],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """What each layer loses by rounding, and how the predictions on validation conversations change, token by token."""
    dataset = DatasetConversations(store.read_records(chunks, Chunk), retriever, similarity, evidence, settings)
    items = store.read_records(qa_splits, SplitItem)
    conversations = dataset.of_split(items, "validation", progress=LoggedProgress())[:_COMPARED]
    machine = Machine(settings.device, settings.threads)
    folders = precision_folders(store, merged_model, quantized_model)
    reports = [
        quantization_errors(folders["bf16"], folder, name, conversations, machine, LoggedProgress())
        for name, folder in folders.items()
    ]
    sizes = {name: inspect_weights(folder)["bytes"] for name, folder in folders.items()}
    rows = compression_rows(reports, sizes, quantized_model.sha256[:12], settings.training.qat)
    warehouse.append(rows)
    return materialized(store.write_records("compression_errors", reports), compression_page(reports, rows))


def compression_rows(
    reports: Sequence[QuantizationErrors], sizes: Mapping[Precision, int], model: str, qat: bool = False
) -> list[CompressionRow]:
    """Return a row for the warehouse per precision, bf16 first; `qat` says that training rounded the weights."""
    return [_row(report, sizes[report.precision], sizes["bf16"], model, qat) for report in reports]


def _row(report: QuantizationErrors, size: int, plain: int, model: str, qat: bool) -> CompressionRow:
    tail: dict[float, Any] = dict(report.percentiles)
    method = _METHODS[report.precision]
    return CompressionRow(
        model=model,
        precision=report.precision,
        method=f"QAT+{method}" if qat and report.precision != "bf16" else method,
        bytes=size,
        smaller_by=1 - size / plain,
        mean_kl=report.mean_kl,
        kl_99=tail[99.0],
        kl_99_9=tail[99.9],
        same_top=report.same_top,
        same_top_low=report.same_top_low,
        same_top_high=report.same_top_high,
    )
