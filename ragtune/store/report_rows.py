"""The rows of reports about experiments, feedback and quantisation, as artefacts and the warehouse keep them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackTrend:
    """What feedback says about a group of responses.

    `kind` says what is grouped by (`all`, `day`, `version`, `topic`, `source`, `dial`, `document`), `name` is the
    group. `value` is the share of thumbs up, a mean over the users who rated, with its 95% interval.
    """

    kind: str
    name: str
    responses: int
    rated: int
    users: int
    value: float
    low: float
    high: float
    corrections: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowComparison:
    """What the pairs of one version of a shadow deployment show.

    `sampled`, `mirrored` and `dropped` count requests. `agreement` is the mean token F1 of the two answers; `words` are
    the comparisons, and what judges and people prefer, in sentences.
    """

    shadow: str
    running: bool
    version: str
    pairs: int
    users: int
    sampled: int
    mirrored: int
    dropped: int
    agreement: float
    same_refusals: float
    same_citations: float
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionGap:
    """Questions that are alike and that the documents do not answer; `question` is the one nearest to all others.

    `recent` counts those of the last part of the time that the report covers, and `expected` how many of them there
    would be if they came evenly.
    """

    question: str
    count: int
    users: int
    first_at: str
    last_at: str
    recent: int
    expected: float
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionRow:
    """What a format of the weights costs: bytes, and how the predictions differ from those of bf16.

    `model` is the version of the quantised model, `method` how the weights were rounded. `smaller_by` is a share of the
    bf16 bytes, KL divergences are in nats per token, `same_top` is the share of tokens with the same most likely token.
    """

    model: str
    precision: str
    method: str
    bytes: int
    smaller_by: float
    mean_kl: float
    kl_99: float
    kl_99_9: float
    same_top: float
    same_top_low: float
    same_top_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResult:
    """How a candidate of an experiment compares with the control on one metric; differences are in its `unit`.

    `path` is a JSON list of (blocks, low, high) over time, for the metric that decides.
    """

    experiment: str
    state: str
    version: str
    control: str
    metric: str
    decides: bool
    declaration: str
    difference: float
    low: float
    high: float
    unit: str
    p_value: float
    users_control: int
    users_candidate: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentDecision:
    """How an experiment ended; `replayed` says whether its logs give the same decision again."""

    experiment: str
    stopped_at: str
    versions: str
    metric: str
    reason: str
    winner: str
    promotion: str
    replayed: bool
