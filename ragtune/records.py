"""The nouns of RagTune, as frozen dataclasses that travel between modules.

They hold plain values only, so that they can be written to Parquet or JSON and read
back; nothing here imports anything heavy.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "validation", "gate", "test", "out_of_domain"]
Precision = Literal["bf16", "w4a16", "w8a8"]
SPLITS: tuple[Split, ...] = ("train", "validation", "gate", "test")


def content_id(*parts: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of the parts, joined unambiguously."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(f"{len(raw)}:".encode())
        digest.update(raw)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A pointer to a whole, immutable artefact: a file or folder whose content has this hash."""

    name: str
    uri: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpan:
    """A block of a document: characters `start` to `end` of its text.

    `kind` is one of `ragtune.knowledge.blocks.Kind`; `level` is 1 to 6 for headings, else 0; `page` counts
    from 1, and 0 means that the format has no pages.
    """

    kind: str
    start: int
    end: int
    level: int = 0
    page: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Text that stands in a file and not in its document, and why: a comment, a link target, page furniture."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """One readable unit of a source; `id` is stable under edits, `sha256` is its version.

    `blocks` says where the headings, paragraphs, tables and so on stand in `text`; it is empty for API pages,
    whose structure is read from their text. `left_out` is what the file holds in addition to `text`. `words` counts
    the words of the file (0 if nobody counted), and `lost` are those that are neither in `text` nor in `left_out`.
    """

    id: str
    source: str
    path: str
    title: str
    text: str
    sha256: str
    topic: str = ""
    language: str = "en"
    modified: str = ""
    kind: str = "prose"
    blocks: tuple[BlockSpan, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    words: int = 0
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuarantinedDocument:
    """A document that could not be read, and why."""

    source: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document, whole in structure; `text` is what the reader sees.

    `start` is where it begins in the document's text, -1 if that is not known; `page` counts from 1, and 0 means
    that the format has no pages.
    """

    id: str
    document_id: str
    source: str
    title: str
    heading_path: tuple[str, ...]
    text: str
    position: int
    topic: str = ""
    duplicate_of: str = ""
    page: int = 0
    start: int = -1

    @property
    def headings(self) -> list[str]:
        """The heading path without the title, outermost first."""
        return [heading for heading in self.heading_path if heading != self.title]

    @property
    def embedded_text(self) -> str:
        """Title and heading path in front of the text: what the embedder and BM25 see."""
        return "\n".join([" > ".join([self.title, *self.headings]), self.text])


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that the index returned, with its fused score (higher is better)."""

    chunk: Chunk
    score: float


@dataclass(frozen=True, slots=True)
class IndexUpdate:
    """What one update did to the index, in chunks (and documents where named so)."""

    documents: int
    chunks: int
    added: int
    updated: int
    deleted: int
    embedded: int
    seconds: float


@dataclass(frozen=True, slots=True)
class QAPair:
    """A question with the answer that stands in one chunk (`span` = character offsets there).

    `evidence_ids` are further chunks that the answer needs. An unanswerable pair has
    `answerable=False`, an empty answer and the span (0, 0); its chunk is then one that looks
    relevant and is not.
    """

    id: str
    question: str
    answer: str
    kind: str
    document_id: str
    chunk_id: str
    span: tuple[int, int] = (0, 0)
    answerable: bool = True
    topic: str = ""
    writer: str = "extractive"
    feedback_id: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    template: str = ""
    evidence_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitItem:
    """A pair with the split it belongs to and the near-duplicate cluster that decided it."""

    pair: QAPair
    split: Split
    cluster: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, in the shape of the OpenAI API."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Completion:
    """What a chat model returned for one request; times in seconds."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    first_token_seconds: float
    total_seconds: float
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage the answer points at: `number` as it stands in the text, `[1]` for 1."""

    number: int
    document_id: str
    chunk_id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A reviewed answer: text, the passages it cites, whether it refused, what looked wrong."""

    text: str
    citations: tuple[Citation, ...]
    passages: tuple[Hit, ...]
    refused: bool
    warnings: tuple[str, ...]
    completion: Completion
    retrieval_ms: float


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One test item with what a model answered; the unit of every paired comparison."""

    pair_id: str
    question: str
    expected: str
    answer: str
    kind: str
    answerable: bool
    refused: bool
    retrieved: bool
    cited: tuple[str, ...]
    metrics: dict[str, float]
    latency_ms: float
    document_id: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's mean over n items with a 95% interval, and everything that identifies it."""

    model: str
    precision: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    split: str
    dataset_sha256: str
    model_version: str
    seed: int
    signature: str


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether the candidate may replace the live model, and the numbers that say so."""

    promoted: bool
    reason: str
    metric: str
    live: float
    candidate: float
    gain: float
    low: float
    high: float
    smallest_detectable_gain: float
    n: int
    alpha: float
    live_version: str
    candidate_version: str
    out_of_domain_gain: float = 0.0
    out_of_domain_low: float = 0.0
    out_of_domain_high: float = 0.0
    out_of_domain_n: int = 0


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One measured load: latencies in milliseconds, memory in bytes."""

    run_id: str
    measured_at: str
    model: str
    precision: str
    concurrency: int
    requests: int
    errors: int
    p50_ms: float
    p95_ms: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    tokens_per_second: float
    peak_memory_bytes: int
    model_bytes: int
    hardware: str


@dataclass(frozen=True, slots=True)
class RetrievalRow:
    """How well and how fast one state of the index was searched.

    The metrics are means over n test questions; times in milliseconds, embedding included; size in bytes on disk.
    """

    run_id: str
    measured_at: str
    index_sha256: str
    dataset_sha256: str
    embedder: str
    chunks: int
    n: int
    recall_1: float
    recall_5: float
    recall_10: float
    mrr_10: float
    ndcg_10: float
    p50_ms: float
    p95_ms: float
    index_bytes: int


@dataclass(frozen=True, slots=True)
class ResponseRecord:
    """What the gateway answered, kept so that feedback can be matched to it."""

    id: str
    created_at: str
    question: str
    answer: str
    model: str
    model_version: str
    chunk_ids: tuple[str, ...]
    cited_chunk_ids: tuple[str, ...]
    refused: bool
    user: str = ""
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """A person's verdict on a response; `correction` is the answer it should have been."""

    id: str
    sequence: int
    created_at: str
    response_id: str
    rating: Literal["up", "down"]
    correction: str = ""
    comment: str = ""
    user: str = ""
    question: str = ""
    chunk_ids: tuple[str, ...] = ()
    cited_chunk_ids: tuple[str, ...] = ()
    model_version: str = ""


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """Everything that identifies a released model; written last, so its existence means whole.

    `files` maps each path relative to the model folder to its SHA-256;
    `precisions` maps a precision to its subfolder.
    """

    format: int
    created_at: str
    base_model: str
    base_sha256: str
    adapter_sha256: str
    dataset_sha256: str
    feedback_ids: tuple[str, ...]
    prompt_sha256: str
    seed: int
    code_version: str
    served_precision: Precision
    precisions: dict[str, str]
    files: dict[str, str]
    scores: tuple[dict[str, Any], ...]
    gate: dict[str, Any]
    mlflow_run_id: str
    packages: dict[str, str]


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A version in the registry, with its folder and manifest."""

    version: str
    folder: str
    manifest: ModelManifest
