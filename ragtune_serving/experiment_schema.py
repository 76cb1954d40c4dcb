"""The models of requests and responses about experiments and shadow deployments."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from ragtune.experiments.assignment import RAMP
from ragtune.experiments.ramp import USERS_PER_STEP
from ragtune_serving.schema import Shape


class ExperimentRequest(Shape):
    """A new experiment; what decides is fixed here."""

    name: str = Field(min_length=1, max_length=200, description="a new name")
    candidates: list[str] = Field(min_length=1, description="versions in the registry")
    control: str = Field("", description="the version to compare with; empty: the champion")
    share: float = Field(0.5, gt=0, lt=1, description="final share of users of all candidates together")
    ramp: float = Field(RAMP[0], gt=0, le=1, description="their share at first")
    metric: str = Field("thumbs", description="what decides")
    smallest: float = Field(5.0, gt=0, description="smallest difference worth having, in points or seconds")
    margin: float = Field(2.0, gt=0, description="largest difference that counts as equivalent")
    budget: int = Field(10_000, ge=1, description="responses after which it ends undecided")
    window_hours: float = Field(24.0, ge=0, description="hours in which a user's responses count")
    missing_as_zero: bool = Field(False, description="count a missing verdict as thumbs down")
    users_per_step: int = Field(USERS_PER_STEP, ge=1, description="users before the ramp's next step")
    promote: bool | None = Field(None, description="make a winner champion; null: the setting experiments.promote")


class ExperimentAction(Shape):
    """What a person does with a running experiment."""

    action: Literal["pause", "resume", "stop", "ramp"]
    reason: str = Field("by hand", max_length=1000, description="why, for the log")
    ramp: float | None = Field(None, gt=0, le=1, description="with `ramp`: the new share of all candidates together")


class ExperimentCandidate(BaseModel):
    """How a candidate compares with the control on the metric that decides."""

    version: str
    declaration: Literal["better", "worse", "equivalent", "undecided"]
    difference: float = Field(description="candidate minus control, on the outcome's scale: 0.05 is 5 points")
    low: float
    high: float
    p_value: float = Field(description="valid at every look")
    users: list[int] = Field(description="users of the control and of the candidate")
    words: list[str] = Field(description="the same in sentences, the deciding metric first")
    harm: list[str] = Field(description="guardrails on which it is worse than allowed")
    path: list[tuple[int, float, float]] = Field(description="(blocks of users, low, high) over time")


class ExperimentEvent(BaseModel):
    """A start, a step of the ramp, a pause, its end, or a stop."""

    kind: Literal["start", "ramp", "pause", "resume", "stop"]
    created_at: str
    content: dict[str, Any]


class ExperimentReport(BaseModel):
    """An experiment and where it stands; a stopped one shows the decision that it recorded."""

    name: str
    state: Literal["running", "paused", "stopped"]
    started_at: str
    versions: list[str] = Field(description="the control comes first")
    metric: str
    ramp: float
    budget: int
    responses: int | None = Field(description="null once it is stopped; so are the next two")
    mismatch_p_value: float | None = Field(description="of the sample ratio; below 0.001 the arms cannot be compared")
    advice: str | None = Field(description="what the next look would do")
    candidates: list[ExperimentCandidate] = Field(description="empty once it is stopped")
    decision: dict[str, Any] | None = Field(description="null while it runs")
    events: list[ExperimentEvent]


class ExperimentSummary(BaseModel):
    """An experiment in the list."""

    name: str
    state: Literal["running", "paused", "stopped"]
    started_at: str
    versions: list[str]
    metric: str
    ramp: float


class ExperimentList(BaseModel):
    """All experiments, oldest first; `error` is why the last look failed, or empty."""

    experiments: list[ExperimentSummary]
    error: str


class ExperimentReplay(BaseModel):
    """The decision that was recorded and the one that the logs give today."""

    same: bool
    recorded: dict[str, Any]
    replayed: dict[str, Any]


class ShadowRequest(Shape):
    """A new shadow deployment."""

    name: str = Field(min_length=1, max_length=200, description="a new name")
    versions: list[str] = Field(min_length=1, description="versions that answer as well")
    share: float = Field(0.1, ge=0, le=1, description="share of the requests")
    requests: int = Field(10_000, ge=0, description="requests of each version in all")
    tokens: int = Field(10_000_000, ge=0, description="tokens of each version in all")
    queue: int = Field(100, ge=1, description="requests that may wait")
    shares_of_keys: dict[str, float] = Field(default_factory=dict, description="other shares, by name of the key")
    when_idle: bool = Field(True, description="wait until no engine has a request")


class JudgedPairs(BaseModel):
    """What a judge prefers: 1 if always the mirrored version's answer, -1 if never, with the 95% interval."""

    n: int = Field(description="pairs")
    preference: float
    low: float
    high: float
    consistent: float = Field(description="share of verdicts that stay if the sides are swapped")


class VotedPairs(BaseModel):
    """What people prefer in a study; `preference`, `low` and `high` as of a judge, null before the first vote."""

    study: str
    votes: int
    annotators: int
    pairs: int = Field(description="pairs with a vote")
    preference: float | None
    low: float | None
    high: float | None
    agreeing: float | None = Field(description="share of equal votes on the same pair, or null")


class ShadowVersion(BaseModel):
    """What the pairs of one version show; counts are of all requests that were sampled."""

    version: str
    counts: dict[str, int]
    pairs: int
    agreement: float = Field(description="mean token F1 of the two answers")
    same_refusals: float
    same_citations: float
    words: list[str] = Field(description="the same in sentences, with what judges and people prefer")
    judges: dict[str, JudgedPairs] = Field(description="what each judge prefers")
    votes: list[VotedPairs] = Field(description="what people say in each study, without knowing the versions")


class ShadowReport(BaseModel):
    """A shadow deployment."""

    name: str
    started_at: str
    stopped_at: str
    design: dict[str, Any]
    versions: list[ShadowVersion]


class ShadowList(BaseModel):
    """The names of all shadow deployments, oldest first, and the one that runs."""

    shadows: list[str]
    running: str
