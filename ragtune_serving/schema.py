"""The models of requests and responses; validation, OpenAPI and docs/api.md are based on them.

An unknown request field is an error that lists the valid fields, so that a typo is never ignored.
"""

from typing import Annotated, Any, Literal, Self

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ragtune.answer.controls import DIALS, SWITCHES
from ragtune.answer.failures import CLAIM_REASONS, FORM_REASONS
from ragtune.store.feedback import LONGEST_TAG, LONGEST_TEXT, MOST_STARS, MOST_TAGS
from ragtune_serving.ratings import thumb_or_stars

FORMAT = 1
"""Version of the fields `ragtune`, feedback and status. Raise it when a field changes its meaning or goes away."""


FILTERS = ("document_id", "source", "title", "topic")
"""Fields of a passage that `ragtune.filter` may restrict."""
IGNORED = (
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "safety_identifier",
    "service_tier",
    "store",
)
"""Fields of OpenAI's chat request that are accepted and change nothing."""
REFUSED = {
    "audio": "answers are text",
    "function_call": "ask the question instead; passages are searched for anyway",
    "functions": "ask the question instead; passages are searched for anyway",
    "logprobs": "the checks may change the model's text, so its tokens have no probabilities; use `ragtune.warnings`",
    "modalities": "answers are text",
    "tool_choice": "ask the question instead; passages are searched for anyway",
    "tools": "ask the question instead; passages are searched for anyway",
    "top_logprobs": "the checks may change the model's text, so its tokens have no probabilities",
    "web_search_options": "index the pages with `ragtune index --source URL` instead",
}
"""Fields of OpenAI's chat request that ask for something that the gateway cannot do, and what to do instead."""

PositiveInt32 = Annotated[int, Field(ge=1, lt=2**31)]


class Shape(BaseModel):
    """A request model, which refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Shape):
    """One text part of a message."""

    type: Literal["text"]
    text: str


class RefusalPart(Shape):
    """One part of an assistant's message that is a refusal."""

    type: Literal["refusal"]
    refusal: str


class ChatMessage(Shape):
    """One turn of a conversation; a reply of this gateway can be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart | RefusalPart] | None = Field(None, description="text, or a list of text parts")
    name: str | None = None
    refusal: str | None = Field(None, description="a reply's own field; it is not sent to the model")
    annotations: list[Any] | None = Field(None, description="a reply's own field; it is not sent to the model")
    provider_specific_fields: dict[str, Any] | None = Field(None, description="what some clients add to replies")
    audio: Any = Field(None, description="null")
    function_call: Any = Field(None, description="null")
    tool_calls: Any = Field(None, description="null or an empty list")

    @property
    def text(self) -> str:
        """The content as one string."""
        if not isinstance(self.content, list):
            return self.content or ""
        return "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in self.content)

    @field_validator("content", mode="before")
    @classmethod
    def _only_text_parts(cls, content: Any) -> Any:
        kinds = {part.get("type") for part in content if isinstance(part, dict)} if isinstance(content, list) else set()
        if others := kinds - {"text", "refusal"}:
            raise ValueError(
                f"a part has the type {', '.join(sorted(map(repr, others)))}, but only 'text' is read; images, audio "
                "and files belong into the documents that are indexed"
            )
        return content

    @field_validator("audio", "function_call", "tool_calls")
    @classmethod
    def _no_calls(cls, value: Any) -> Any:
        if value:
            raise ValueError("tools and audio are not supported; leave it out or send null")
        return value

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message with the role {self.role!r} needs content")
        return self


class Controls(Shape):
    """Linguistic controls of one request; those that are left out have the default of the settings."""

    dials: dict[str, float] = Field(default_factory=dict, description=f"0 to 1: {', '.join(DIALS)}")
    switches: dict[str, bool] = Field(default_factory=dict, description=f"true or false: {', '.join(SWITCHES)}")
    filter: dict[str, str] = Field(
        default_factory=dict, description=f"passages to search, by equal value: {', '.join(FILTERS)}"
    )
    cache: Literal["no-store"] | None = Field(None, description="no-store: no cached answer, and none is kept")


class StreamOptions(Shape):
    """Options of a streamed response."""

    include_usage: bool | None = False
    include_obfuscation: bool | None = Field(None, description="changes nothing")


class ResponseFormat(Shape):
    """The format of the answer: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = Field(None, description="with `name` and `schema`")

    @model_validator(mode="after")
    def _has_a_schema(self) -> Self:
        if self.type != "json_schema":
            return self
        schema = (self.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise ValueError("json_schema needs the field 'schema', a JSON schema")
        try:
            Draft202012Validator.check_schema(schema)
        except (SchemaError, RecursionError) as error:
            problem = error.message if isinstance(error, SchemaError) else "it is nested too deeply"
            raise ValueError(f"json_schema.schema is not a JSON schema: {problem}") from error
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any]:
        """The JSON schema of an answer in JSON."""
        schema: dict[str, Any] = self.json_schema["schema"] if self.json_schema else {"type": "object"}
        return schema


class ChatRequest(Shape):
    """A conversation that ends with the user's question.

    It knows every field of OpenAI's chat request. A field in `IGNORED` is accepted and named in the warnings; one in
    `REFUSED` may only have a value that asks for nothing.
    """

    model: Literal["ragtune", "ragtune-base", "ragtune-raw"]
    messages: list[ChatMessage] = Field(min_length=1, description="the last one is the user's question")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt32 | None = Field(None, description="default: from the settings and `depth`")
    max_completion_tokens: PositiveInt32 | None = Field(None, description="the newer name of max_tokens")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="default: the dial `creativity`")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    response_format: ResponseFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="another name of the dial `depth`")
    user: str | None = Field(None, max_length=200, description="your name for the end user; kept with the response")
    ragtune: Controls | None = None
    n: int | None = Field(None, description="only 1")
    metadata: dict[str, Any] | None = None
    moderation: Any = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: int | None = None
    web_search_options: Any = None

    @field_validator(*REFUSED)
    @classmethod
    def _refuse(cls, value: Any, info: ValidationInfo) -> Any:
        if value and value not in ("none", "auto", ["text"]):
            raise ValueError(f"it is not supported; {REFUSED[str(info.field_name)]}")
        return value

    @field_validator("n")
    @classmethod
    def _one_answer(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError("there is one answer to a request; ask again with another `seed` for another one")
        return value

    @property
    def ignored(self) -> list[str]:
        """The fields that ask for something and change nothing, in the order of the schema."""
        return [name for name in IGNORED if getattr(self, name) and getattr(self, name) not in ("auto", "default")]


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
    spans: list[tuple[int, int]] = Field(description="[start, end) in the answer of each sentence that cites it")
    url: str = Field(description="opens a browser at the place; empty if the source is no web page")


class ClosestPassage(BaseModel):
    """A passage to look at if the answer is a refusal."""

    number: int = Field(description="its number in the prompt")
    title: str
    source: str = Field(description="path, URL or JSONL id of the document")
    sentence: str = Field(description="its sentence that is most likely to answer the question")
    score: float = Field(description="probability, from 0 to 1, that this sentence answers the question")


class FailedCheck(BaseModel):
    """What a check found wrong with the model's own words."""

    reason: str = Field(description=", ".join((*CLAIM_REASONS, *FORM_REASONS)))
    detail: str


class RagTuneField(BaseModel):
    """What RagTune adds to a response, and to the closing chunks of a stream."""

    format: int = Field(FORMAT, description="version of this format")
    response_id: str = Field(description="send it to /v1/feedback; equal to `id`")
    model_version: str = Field(description="registry version, `base` before the first, `provider`, or `fallback:NAME`")
    citations: list[CitedPassage]
    delivered: Literal["answer", "answer_and_quotation", "quotation", "refusal"] = Field(description="what people get")
    refused: bool = Field(description="the documents do not contain the answer, by the evidence or by the model")
    quoted: bool = Field(description="the text has a sentence of the documents, marked as a quotation")
    quotation: str = Field(description="that sentence; empty if nothing is quoted")
    closest: list[ClosestPassage] = Field(description="up to three passages to look at after a refusal, best first")
    language: str = Field(description="language of the question, an ISO 639-1 code; see docs/howto/languages.md")
    warnings: list[str] = Field(description="problems that the checks of the answer found")
    support: float = Field(1.0, description="share of the words of its least supported sentence that a passage has")
    failures: list[FailedCheck] = Field([], description="what is wrong with the text as it was delivered")
    replaced: list[str] = Field([], description="why earlier texts of the model were not delivered")
    cached: bool = Field(
        False, description="an earlier answer to exactly this question; `usage` is that of the earlier one"
    )
    retrieval_ms: float


class UrlCitation(BaseModel):
    """A cited web page; the indexes are characters of the answer."""

    start_index: int
    end_index: int
    title: str
    url: str


class Annotation(BaseModel):
    """A citation of a web page in OpenAI's form; `ragtune.citations` has those of all documents."""

    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitation


class ReplyMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = Field(None, description="null; see `ragtune.refused`")
    annotations: list[Annotation] = Field(default_factory=list, description="cited web pages")


class Choice(BaseModel):
    """The answer; there is always exactly one choice."""

    index: int = 0
    message: ReplyMessage
    logprobs: None = Field(None, description="null")
    finish_reason: str


class Usage(BaseModel):
    """Token counts; the prompt includes the passages."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """A chat completion in OpenAI's format with the field `ragtune`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
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


class EmbeddingRequest(Shape):
    """Texts to embed."""

    model: Literal["ragtune-embedder"]
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=2048)]
    ) = Field(description="a text, or up to 2048 texts")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="only the embedder's own number")
    user: str | None = Field(None, description="changes nothing")


class Embedding(BaseModel):
    """The vector of one text, of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="numbers, or base64 of 32-bit floats")


class EmbeddingUsage(BaseModel):
    """Tokens that were embedded."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Vectors in OpenAI's format."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = "ragtune-embedder"
    usage: EmbeddingUsage


class FeedbackRequest(Shape):
    """A verdict on one response."""

    response_id: str = Field(min_length=1, description="`ragtune.response_id` of the response")
    rating: Literal["up", "down"] | Annotated[int, Field(ge=1, le=MOST_STARS)] = Field(
        description="`up`, `down`, or 1 to 5 stars"
    )
    correction: str = Field("", max_length=LONGEST_TEXT, description="the right answer")
    comment: str = Field("", max_length=LONGEST_TEXT)
    tags: list[Annotated[str, Field(min_length=1, max_length=LONGEST_TAG)]] = Field(
        default_factory=list, max_length=MOST_TAGS, description="words of your own, such as `wrong unit`"
    )

    _plain_rating = field_validator("rating", mode="before")(thumb_or_stars)


class FeedbackResponse(BaseModel):
    """The stored verdict."""

    id: str
    sequence: int = Field(description="grows with every verdict")
    response_id: str
    rating: Literal["up", "neutral", "down"] = Field(description="4 and 5 stars are `up`, 1 and 2 `down`, 3 `neutral`")
    stars: int = Field(description="1 to 5, or 0 for a thumb")
    tags: list[str]
    created_at: str
    model_version: str


class FeedbackStatus(BaseModel):
    """What became of a verdict."""

    id: str
    response_id: str
    created_at: str
    rating: Literal["up", "neutral", "down"]
    question: str
    correction: str
    status: (
        Literal["waiting", "accepted", "in_dataset", "released"]
        | Literal["rejected", "replaced", "over_cap", "held_back", "failed", "no_correction"]
    )
    reason: str = Field(description="why, in a sentence, with the name of the reviewer who decided")
    since: str = Field(description="when the last person decided, or else when the verdict came")
    split: str = Field(description="of the current dataset, or empty")
    dataset: str = Field(description="version of the current dataset if the correction is in it, or empty")
    versions: list[str] = Field(description="released versions that learned from it")


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
    log: Literal["written", "waiting"] = Field(description="whether responses can be recorded; answers go on anyway")


class Status(BaseModel):
    """The engines, the champion, the counts and the last error."""

    format: int = FORMAT
    version: str = Field(description="of RagTune")
    uptime_seconds: float
    live: dict[str, Any] | None
    next: dict[str, Any] | None = Field(description="the engine that will become live")
    comparison: dict[str, Any] | None
    arms: list[dict[str, Any]] = Field(description="engines that an experiment needs in addition to the live one")
    arm_errors: list[str] = Field(description="why a version of the experiment has no engine")
    champion: str | None = Field(description="the registry's champion; it becomes live once its engine answers")
    retrieval: bool
    responses: int | None = Field(description="null if the feedback log cannot be read")
    feedback: int | None
    error: str
