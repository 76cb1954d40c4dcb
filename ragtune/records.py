"""The nouns of RagTune: frozen dataclasses that travel between modules.

They hold plain values only, so that they can be written to Parquet or JSON and read back. Nothing here
imports a heavy library. Records with more than five fields are keyword-only: a call that lists seven bare
strings cannot be checked by reading it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ragtune.model_settings import Precision as Precision

Split = Literal["train", "validation", "gate", "test", "out_of_domain"]
SPLITS: tuple[Split, ...] = ("train", "validation", "gate", "test")
ExposureFailure = Literal["", "replaced", "failed", "left"]
Origin = Literal["people", "feedback", "writer"]
ORIGINS: tuple[Origin, ...] = ("people", "feedback", "writer")


def content_id(*parts: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of the parts.

    Each part is hashed with its length in front, so `("ab", "c")` and `("a", "bc")` get different ids.
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(f"{len(raw)}:".encode())
        digest.update(raw)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A pointer to a complete, immutable artefact: a folder whose content has this SHA-256."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document of a source, such as one file or one API page.

    `id` stays the same when the text is edited; `sha256` identifies the version of the text.

    `blocks` says where the headings, paragraphs, tables and so on stand in `text`; it is empty for API pages,
    whose structure is read from their text. `left_out` is what the file holds in addition to `text`. `words` counts
    the words of the file (0 if nobody counted), and `lost_words` those that are neither in `text` nor in `left_out`;
    `lost` names the first of these.
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
    lost_words: int = 0


@dataclass(frozen=True, slots=True)
class QuarantinedDocument:
    """A document that could not be read, with the reason."""

    source: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A passage of a document that never splits a paragraph, code block or table; `text` is what the model reads.

    `path` is the path of its document. `start` is where it begins in the document's text, -1 if that is not known;
    `page` counts from 1, and 0 means that the format has no pages. `language` is its document's, an ISO 639-1 code;
    its words are stemmed by it.
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
    language: str = "en"
    path: str = ""

    @property
    def headings(self) -> list[str]:
        """The heading path without the title, outermost first."""
        return [heading for heading in self.heading_path if heading != self.title]

    @property
    def origin(self) -> str:
        """What a person knows the document by: its URL, its path in the folder, or the id of its JSONL record."""
        return f"{self.source}/{self.path}" if "://" in self.source else self.path

    @property
    def embedded_text(self) -> str:
        """Title and heading path, then the text: what the embedder and BM25 index."""
        return "\n".join([" > ".join([self.title, *self.headings]), self.text])


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a search returned, with its fused score (higher is better).

    `lines` is the part of the chunk's text that a prompt shows, or None for all of it.
    """

    chunk: Chunk
    score: float
    lines: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexUpdate:
    """What one update did to the index. `documents` counts documents, the other numbers count chunks."""

    documents: int
    chunks: int
    added: int
    updated: int
    deleted: int
    embedded: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingPair:
    """A question that people wrote, with its answer, as it stands in a file of the source `source`.

    `place` says where, such as `line 3`. `answer` is "" if the documents do not answer the question. `context` is the
    text that the answer was taken from, and `answer_start` the answer's offset there; `document` names a document by
    its path, its title or its id. They are "", -1 and "" if the file does not say.
    """

    source: str
    place: str
    question: str
    answer: str
    answerable: bool = True
    context: str = ""
    answer_start: int = -1
    document: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QAPair:
    """A question with its answer, quoted from one chunk; `span` holds the character offsets of the answer there.

    `evidence_ids` names further chunks that the answer needs. An unanswerable pair has `answerable=False`, an
    empty answer and the span (0, 0). Its chunk looks relevant but does not answer the question. `imported_from` is the
    file and line of a pair that people wrote before.
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
    imported_from: str = ""

    @property
    def origin(self) -> Origin:
        """Who asked the question: people before, a user who corrected an answer, or a writer of this product."""
        if self.feedback_id:
            return "feedback"
        return "people" if self.imported_from else "writer"


@dataclass(frozen=True, slots=True)
class SplitItem:
    """A pair with its split, and the cluster that was assigned to that split.

    A cluster has near-duplicate documents, or sections if the collection has few documents.
    """

    pair: QAPair
    split: Split
    cluster: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in the format of the OpenAI API."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A chat model's reply to one request; times in seconds."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    first_token_seconds: float
    total_seconds: float
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A passage that the answer cites; `number` is 1 for the mark `[1]` in the answer.

    `source` is the chunk's `origin`; `headings`, `page` and `start` are as in the chunk.
    """

    number: int
    document_id: str
    chunk_id: str
    title: str
    text: str
    source: str = ""
    headings: tuple[str, ...] = ()
    page: int = 0
    start: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosestPassage:
    """A passage that is shown with a refusal; `score` is the probability that `sentence` answers the question.

    `number` is its number in the prompt; `source` is the chunk's `origin`.
    """

    number: int
    title: str
    source: str
    sentence: str
    score: float


@dataclass(frozen=True, slots=True)
class Failure:
    """What a check found wrong with an answer; ragtune/answer/failures.py lists the reasons."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A checked answer.

    `citations` are the passages that the text cites, `passages` all that were shown to the model, `warnings`
    the problems that the check found. `own_words` is the part of the text that the model wrote; `quotation` is the
    sentence of a passage that follows it or stands in its place, "" if nothing is quoted. `closest` has the passages
    to look at if the answer is a refusal. `language` is the question's, an ISO 639-1 code.
    `support` says how far the passages support its own words (0 to 1), and
    `failures` what is wrong with them; `tries` are the failures of earlier texts that were not delivered.
    """

    text: str
    citations: tuple[Citation, ...]
    passages: tuple[Hit, ...]
    refused: bool
    warnings: tuple[str, ...]
    completion: Completion
    retrieval_ms: float
    own_words: str = ""
    quotation: str = ""
    closest: tuple[ClosestPassage, ...] = ()
    language: str = "en"
    support: float = 1.0
    failures: tuple[Failure, ...] = ()
    tries: tuple[tuple[Failure, ...], ...] = ()

    @property
    def kind(self) -> Literal["answer", "answer_and_quotation", "quotation", "refusal"]:
        """What people get: the model's own words, a quotation, both, or a refusal."""
        if self.refused:
            return "refusal"
        if self.quotation:
            return "answer_and_quotation" if self.own_words else "quotation"
        return "answer"

    @property
    def quoted(self) -> bool:
        """Whether a sentence of a passage is quoted."""
        return bool(self.quotation)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAnswer:
    """A model's answer to one held-out question, with its metrics; the unit of every paired comparison.

    `retrieved` says whether the right passage was among those shown; `cited` holds the ids of the cited chunks.
    `origin` is who asked the question. `group` names what the answer is resampled with; "" is its document.
    `scored_text` is what was compared with the expected answer: the model's own words or the quotation, without
    citation marks, "" for a refusal. `cited_texts` are the cited passages, in the order of `cited`.
    """

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
    origin: str = "writer"
    group: str = ""
    scored_text: str = ""
    cited_texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """The scored answers of one model to the questions of one split."""

    model: str
    precision: str
    version: str
    split: Split
    answers: tuple[ScoredAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A metric's mean over n answers with its 95% interval, and what it was measured on.

    `signature` names how the metric counts, so that scores are compared only if they count alike. `origin` limits the
    score to the questions of people, feedback or the writers, and `part` to a part of them such as `kind=default` or
    `topic=billing`; "" is all of them.
    """

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
    origin: str = ""
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedModel:
    """What annotators of a study say of a model on one question: a mean from 0 (no) to 1 (yes) over n items.

    For a comparison `model` is `B over A` and the value is from -1 (A always wins) to 1 (B always wins).
    """

    study: str
    model: str
    question: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRow:
    """The agreement of the annotators of a study on one question; `annotators` are joined by commas."""

    study: str
    question: str
    annotators: str
    items: int
    percent: float
    kappa: float
    alpha: float
    alpha_low: float
    alpha_high: float
    ac2: float
    ac2_low: float
    ac2_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """Whether the candidate may replace the live model, with the numbers behind the decision.

    `alpha` is the level of this look; `alpha_left` is what is left for later candidates on the same questions, and
    `refusals_before` counts the candidates that were refused on them before. `questions_needed` is the number of
    questions at which a gain of `evaluation.gate_gain` is found in 80% of cases.
    `decided_on` says which questions the gain is measured on; `by_origin` has the gain on those of each origin.
    """

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
    refusals_before: int = 0
    alpha_left: float = 0.0
    questions_needed: int = 0
    decided_on: str = "all questions"
    by_origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLook:
    """A comparison at the gate: which versions, on which questions (a JSON list of ids), at which level."""

    id: str
    live_version: str
    candidate_version: str
    alpha: float
    promoted: bool
    question_ids: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRow:
    """The measurement of an engine under one load: latencies in milliseconds, memory in bytes."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalRow:
    """How well and how fast one version of the index is searched.

    The metrics are means over n test questions. Times are in milliseconds and include the embedding of the
    question. `index_bytes` is the size on disk.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRecord:
    """An answer of the gateway, stored so that feedback can refer to it.

    `key` is the name of the API key that asked, and `user` the end user that the request names, or else the key.
    `dials` are the dials and switches of the request that are not neutral. `evidence` is the largest probability that a
    passage answers the question, or None if passages were not ranked.

    `checks` holds, as JSON values, how far the passages support it (`support`), what is wrong with it (`failures`, by
    reason), why earlier texts were not delivered (`replaced`), whether it came from the cache (`cached`), what it is
    (`delivered`: answer, quotation, both or a refusal), how many turns came before the question (`earlier_turns`), and
    whether a system message did (`instructed`). It is empty for responses of earlier versions.
    """

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
    key: str = ""
    dials: Mapping[str, float] = field(default_factory=dict)
    evidence: float | None = None
    checks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackEvent:
    """A person's rating of a response; `correction` is the answer that the person expected.

    `stars` is 1 to 5, or 0 if the person gave a thumb: 4 and 5 are thumbs up, 1 and 2 down, 3 is neutral. `answer` is
    the text that was rated. `unlike_prompt` says why the model cannot be asked the same again, such as "quotation" or
    "dials or switches"; "" if the model wrote the text itself, for the question alone and in the neutral style.
    """

    id: str
    sequence: int
    created_at: str
    response_id: str
    rating: Literal["up", "neutral", "down"]
    answer: str = ""
    unlike_prompt: str = ""
    correction: str = ""
    comment: str = ""
    user: str = ""
    question: str = ""
    chunk_ids: tuple[str, ...] = ()
    cited_chunk_ids: tuple[str, ...] = ()
    model_version: str = ""
    stars: int = 0
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One request in an experiment, and the arm to which its unit (a user or a conversation) is assigned.

    `arm` is 0 for the control; `shares` are the shares of all arms at that time. `failure` is "" if the arm's model
    answered, `replaced` if another model answered because it could not, `failed` if nobody answered, and `left` if the
    client went away before the end. `sequence` is 0 before it is stored.
    """

    sequence: int
    experiment: str
    response_id: str
    unit: str
    arm: int
    shares: tuple[float, ...]
    created_at: str
    failure: ExposureFailure = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """Everything that identifies a released model.

    It is written last: a model folder with a manifest is complete. `files` maps each path relative to the
    model folder to its SHA-256; `precisions` maps a precision to its subfolder.
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
    """A model version in the registry, with its folder and manifest."""

    version: str
    folder: str
    manifest: ModelManifest
