"""The models of requests and responses of clients that send scores as to Langfuse.

The fields are those of Langfuse's API: https://api.reference.langfuse.com, `POST /api/public/scores` and
`POST /api/public/ingestion`. Fields that say nothing here, such as `environment` and `metadata`, are ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from ragtune.store.feedback import LONGEST_TEXT

SCORE_PATH, EVENT_PATH = "/api/public/scores", "/api/public/ingestion"
SCORE_PATHS = (SCORE_PATH, EVENT_PATH)
"""Routes that also accept the key as the password of Basic authentication, as Langfuse's clients send it."""
MOST_SCORES = 1000
"""Scores in one request. Chosen by hand; Langfuse's own client sends 15."""
LONGEST_NAME = 200
"""Characters of a name or an id. Chosen by hand."""
DataType = Literal["NUMERIC", "BOOLEAN", "CATEGORICAL", "CORRECTION", "TEXT"]


class Score(BaseModel):
    """A score of one response."""

    model_config = ConfigDict(populate_by_name=True)

    trace_id: str = Field(alias="traceId", min_length=1, description="`ragtune.response_id` of the response")
    name: str = Field(min_length=1, max_length=LONGEST_NAME, description="one of the setting `feedback.scores`")
    value: StrictBool | StrictInt | StrictFloat | Annotated[str, Field(max_length=LONGEST_TEXT)]
    data_type: DataType | None = Field(None, alias="dataType", description="follows from the value if it is missing")
    comment: str | None = Field(None, max_length=LONGEST_TEXT)
    id: str = Field("", max_length=LONGEST_NAME, description="the same score under the same id is stored once")


class ScoreStored(BaseModel):
    """The stored score."""

    id: str = Field(description="the one that was sent, or that of the verdict")


class ScoreError(BaseModel):
    """Why a score was not stored."""

    message: str


class ScoresAccepted(BaseModel):
    """All scores of a list were stored."""

    message: Literal["Accepted"] = "Accepted"


class ScoreResults(BaseModel):
    """Some scores of a list were not stored."""

    accepted: int
    rejected: int
    errors: list[ScoreError]


class IngestionEvent(BaseModel):
    """An event of Langfuse's older clients."""

    id: str = Field(min_length=1, max_length=LONGEST_NAME)
    type: str = Field(description="`score-create`; others are refused one by one")
    body: dict[str, Any]


class Ingestion(BaseModel):
    """A batch of events."""

    batch: list[IngestionEvent] = Field(max_length=MOST_SCORES)


class IngestionSuccess(BaseModel):
    """An event that was stored."""

    id: str
    status: Literal[201] = 201


class IngestionError(BaseModel):
    """An event that was not stored, and why."""

    id: str
    status: int
    message: str


class IngestionResults(BaseModel):
    """What became of each event."""

    successes: list[IngestionSuccess]
    errors: list[IngestionError]
