"""The models of requests and responses; validation, OpenAPI and docs/api.md are based on them.

An unknown request field is an error that lists the valid fields, so that a typo is never ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ragtune.answer.controls import DIALS, SWITCHES
from ragtune.store.feedback import LONGEST_TEXT

FORMAT = 1
"""Version of the fields `ragtune`, feedback and status. Raise it when a field changes its meaning or goes away."""


class Shape(BaseModel):
    """A request model, which refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Shape):
    """One text part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Shape):
    """One turn of a conversation.

    System messages are not sent to the model, because the released model is trained on one system prompt.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] = Field(description="text, or a list of text parts")
    name: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class Controls(Shape):
    """Linguistic controls of one request; those that are left out have the default of the settings."""

    dials: dict[str, float] = Field(default_factory=dict, description=f"0 to 1: {', '.join(DIALS)}")
    switches: dict[str, bool] = Field(default_factory=dict, description=f"true or false: {', '.join(SWITCHES)}")


class StreamOptions(Shape):
    """Options of a streamed response."""

    include_usage: bool = False


class ChatRequest(Shape):
    """A conversation that ends with the user's question."""

    model: Literal["ragtune", "ragtune-base", "ragtune-raw"]
    messages: list[ChatMessage] = Field(min_length=1, description="the last one is the user's question")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="default: from the settings and `depth`")
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="the newer name of max_tokens")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="default: the dial `creativity`")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    n: Literal[1] | None = None
    user: str | None = Field(None, max_length=200, description="your name for the end user; kept with the response")
    ragtune: Controls | None = None


class CitedPassage(BaseModel):
    """A passage that the answer cites: `[number]` in the text."""

    number: int
    document: str = Field(description="document id")
    chunk: str = Field(description="chunk id")
    title: str
    text: str
    source: str = Field(description="path, URL or JSONL id of the document")
    headings: list[str] = Field(description="headings above the passage, outermost first")
    page: int = Field(description="counts from 1; 0 if the format has no pages")
    start: int = Field(description="where the passage begins in the document's text; -1 if that is not known")


class ClosestPassage(BaseModel):
    """A passage to look at if the answer is a refusal."""

    number: int = Field(description="its number in the prompt")
    title: str
    source: str = Field(description="path, URL or JSONL id of the document")
    sentence: str = Field(description="its sentence that is most likely to answer the question")
    score: float = Field(description="probability, from 0 to 1, that this sentence answers the question")


class RagTuneField(BaseModel):
    """What RagTune adds to a response, and to the closing chunks of a stream."""

    format: int = Field(FORMAT, description="version of this format")
    response_id: str = Field(description="send it to /v1/feedback; equal to `id`")
    model_version: str = Field(description="registry version, `base` before the first release, or `provider`")
    citations: list[CitedPassage]
    refused: bool = Field(description="the documents do not contain the answer, by the evidence or by the model")
    quoted: bool = Field(description="the text has a sentence of the documents, marked as a quotation")
    quotation: str = Field(description="that sentence; empty if nothing is quoted")
    closest: list[ClosestPassage] = Field(description="up to three passages to look at after a refusal, best first")
    warnings: list[str] = Field(description="problems that the checks of the answer found")
    retrieval_ms: float


class ReplyMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str


class Choice(BaseModel):
    """The answer; there is always exactly one choice."""

    index: int
    message: ReplyMessage
    finish_reason: str


class Usage(BaseModel):
    """Token counts; the prompt includes the passages."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """A chat completion in OpenAI's format with the field `ragtune`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    ragtune: RagTuneField


class ModelCard(BaseModel):
    """A model name that requests may use."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ragtune"
    description: str


class ModelList(BaseModel):
    """The model names, in OpenAI's format."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class FeedbackRequest(Shape):
    """A verdict on one response."""

    response_id: str = Field(min_length=1, description="`ragtune.response_id` of the response")
    rating: Literal["up", "down"]
    correction: str = Field("", max_length=LONGEST_TEXT, description="the right answer")
    comment: str = Field("", max_length=LONGEST_TEXT)


class FeedbackResponse(BaseModel):
    """The stored verdict."""

    id: str
    sequence: int = Field(description="grows with every verdict")
    response_id: str
    rating: Literal["up", "down"]
    created_at: str
    model_version: str


class ReviewRequest(Shape):
    """A decision on one pair; the name of the API key is the reviewer."""

    key: str = Field(min_length=1, description="`key` of the pair")
    verdict: Literal["accept", "reject", "correct", "comment"]
    question: str = Field("", max_length=LONGEST_TEXT, description="with `correct`: the right question")
    answer: str = Field("", max_length=LONGEST_TEXT, description="with `correct`: the right answer")
    comment: str = Field("", max_length=LONGEST_TEXT)


class ReviewResponse(BaseModel):
    """A stored decision."""

    id: str
    sequence: int = Field(description="grows with every decision")
    key: str
    reviewer: str
    verdict: Literal["accept", "reject", "correct", "comment"]
    question: str
    answer: str
    comment: str
    created_at: str


class AssignmentRequest(Shape):
    """A request for pairs to review."""

    count: int = Field(20, ge=1, le=1000, description="number of further pairs")


class AssignmentResponse(BaseModel):
    """The result of a request for pairs."""

    given: int = Field(description="pairs that were assigned now")
    open: int = Field(description="pairs that are assigned to you and not decided yet")


class ReviewPair(BaseModel):
    """A pair with the passage it is based on and the decisions so far."""

    key: str = Field(description="a hash of the pair's text, the same in every version of the dataset")
    question: str
    answer: str
    answerable: bool
    kind: str
    document: str
    chunk: str
    title: str
    text: str = Field(description="the passage")
    topic: str
    scores: dict[str, float]
    reviewers: list[str] = Field(description="people it is assigned to")
    decisions: list[ReviewResponse]


class ReviewPairs(BaseModel):
    """One page of pairs."""

    total: int
    pairs: list[ReviewPair]


class ReviewerProgress(BaseModel):
    """The progress of one reviewer, in pairs."""

    reviewer: str
    decided: int
    assigned: int


class ReviewProgress(BaseModel):
    """The progress of the reviews, in pairs."""

    pairs: int
    undecided: int
    accepted: int
    rejected: int
    corrected: int
    conflicts: int = Field(description="reviewers disagree, with no majority")
    orphans: int = Field(description="decisions on pairs that are no longer written")
    reviewers: list[ReviewerProgress]


class ErrorDetail(BaseModel):
    """An error in OpenAI's format."""

    message: str
    type: str
    param: str | None = None
    code: str = Field(description="the HTTP status")


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class Alive(BaseModel):
    """The reply that shows that the gateway process runs."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Whether the gateway would answer a question now."""

    status: Literal["ready", "starting"]
    model_version: str | None
    retrieval: bool


class Status(BaseModel):
    """The engines, the champion, the counts and the last error."""

    format: int = FORMAT
    version: str = Field(description="of RagTune")
    uptime_seconds: float
    live: dict[str, Any] | None
    next: dict[str, Any] | None = Field(description="the engine that will become live")
    comparison: dict[str, Any] | None
    champion: str | None = Field(description="the registry's champion; it becomes live once its engine answers")
    retrieval: bool
    responses: int
    feedback: int
    error: str
