"""The models of requests and responses of pair reviews."""

from typing import Literal

from pydantic import BaseModel, Field

from ragtune.store.feedback import LONGEST_TEXT
from ragtune_serving.schema import Shape


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
    """A pair with the passage it is based on and the decisions that you may see: your own, and at the end others'."""

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
    waiting: int = Field(description="corrections by users that no reviewer has settled yet")
    reviewers: list[ReviewerProgress]
