"""The models of requests and responses of human evaluation."""

from collections.abc import Collection
from typing import Literal, Self

from pydantic import BaseModel, Field

from ragtune.evaluation.agreement import Agreement, Estimate
from ragtune.evaluation.review_agreement import ReviewAgreement
from ragtune.evaluation.studies.results import StudyResults
from ragtune.evaluation.studies.study import LONGEST_COMMENT
from ragtune_serving.schema import Shape


class StudyCard(BaseModel):
    """A study with the progress of the caller."""

    name: str
    mode: Literal["rating", "pairwise"]
    questions: list[str]
    meanings: dict[str, str] = Field(description="what each question asks, in a sentence")
    choices: list[str] = Field(description="what may be chosen for each question")
    guideline: str
    created_at: str
    rated: int = Field(description="tasks that you have rated")
    tasks: int = Field(description="tasks that are assigned to you")


class ShownText(BaseModel):
    """An answer and the passages that it cites."""

    text: str
    sources: list[str]


class StudyTask(BaseModel):
    """A question with one answer to rate, or with the left and the right one to compare."""

    task: str
    question: str
    expected: str = Field(description="the expected answer; empty if it is not known")
    answers: list[ShownText]
    choices: dict[str, str] = Field({}, description="your newest choices; empty if it was not rated or put off")
    comment: str = Field("", description="your newest comment")


class StudyTasks(BaseModel):
    """Your tasks: the next open ones, or those rated last."""

    open: int
    rated: int
    tasks: list[StudyTask]


class RatingRequest(Shape):
    """A rating of one task; without choices the task is put off."""

    task: str = Field(min_length=1, description="`task` of one of your tasks")
    choices: dict[str, str] = Field({}, description="a choice for every question of the study")
    comment: str = Field("", max_length=LONGEST_COMMENT)
    seconds: float = Field(0.0, ge=0, description="how long the task took")


class RatingResponse(BaseModel):
    """A stored rating."""

    id: str
    task: str
    choices: dict[str, str]
    skipped: bool
    comment: str
    created_at: str
    open: int = Field(description="tasks that are left to you")


class Coefficient(BaseModel):
    """A coefficient with its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """Return an estimate as the API sends it."""
        return cls(value=estimate.value, low=estimate.low, high=estimate.high)


class AgreementOn(BaseModel):
    """The agreement of annotators on one question."""

    question: str
    annotators: list[str]
    items: int = Field(description="items that at least two of them rated")
    percent: float = Field(description="share of pairs of ratings that are equal")
    alpha: Coefficient = Field(description="Krippendorff's")
    ac2: Coefficient = Field(description="Gwet's")
    kappa: Coefficient = Field(description="Cohen's of two annotators, Fleiss' of more")

    @classmethod
    def of(cls, one: Agreement) -> Self:
        """Return the shape of an agreement."""
        return cls(
            question=one.question,
            annotators=list(one.annotators),
            items=one.items,
            percent=one.percent,
            alpha=Coefficient.of(one.alpha),
            ac2=Coefficient.of(one.ac2),
            kappa=Coefficient.of(one.kappa),
        )


class DisputedItem(BaseModel):
    """An item on which annotators differ."""

    item: str
    question: str = Field(description="the question of the rubric")
    asked: str = Field(description="the question that was answered")
    answers: list[str]
    choices: dict[str, str] = Field(description="by annotator; `first` and `second` are the places in `answers`")
    adjudicated: str = Field(description="the final choice; empty if there is none yet")


class RatedModelShape(BaseModel):
    """What annotators say of a model: a mean from 0 to 1, or from -1 to 1 for a comparison `B over A`."""

    model: str
    question: str
    value: float
    low: float
    high: float
    n: int


class StudyReport(BaseModel):
    """The results of a study so far."""

    study: str
    items: int
    annotators: list[str]
    ratings: int
    cannot_judge: int
    models: list[RatedModelShape]
    agreement: list[AgreementOn] = Field(description="of all annotators")
    pairs: list[AgreementOn] = Field(description="of every pair, the one that agrees least first")
    repeats: int
    consistency: dict[str, float] | None = Field(description="share of repeats with the same choice, by question")
    disputed: list[DisputedItem] = Field(description="not settled and most disputed first")
    hidden: int = Field(description="disputed items left out because you still have to rate them")

    @classmethod
    def of(cls, results: StudyResults, unrated: Collection[str] = ()) -> Self:
        """Return the shape of a study's results without the choices on items that the reader still has to rate."""
        shown = [one for one in results.disagreements if one.item.id not in unrated]
        return cls(
            study=results.study.name,
            items=results.items,
            annotators=list(results.annotators),
            ratings=results.ratings,
            cannot_judge=results.cannot_judge,
            models=[
                RatedModelShape(
                    model=row.model, question=row.question, value=row.value, low=row.low, high=row.high, n=row.n
                )
                for row in results.models
            ],
            agreement=[AgreementOn.of(one) for one in results.overall],
            pairs=[AgreementOn.of(one) for one in results.pairs],
            repeats=results.repeats,
            consistency=dict(results.consistency) if results.consistency is not None else None,
            disputed=[
                DisputedItem(
                    item=one.item.id,
                    question=one.question,
                    asked=one.item.question,
                    answers=[answer.text for answer in one.item.answers],
                    choices=dict(one.choices),
                    adjudicated=one.adjudicated,
                )
                for one in shown
            ],
            hidden=len(results.disagreements) - len(shown),
        )


class AdjudicationRequest(Shape):
    """The final choice for an item on which annotators differ."""

    study: str
    item: str
    question: str
    choice: str = Field(description="for a comparison `first`, `second` or `neither`")
    comment: str = Field("", max_length=LONGEST_COMMENT)


class AdjudicationResponse(BaseModel):
    """A stored adjudication."""

    item: str
    question: str
    choice: str
    adjudicator: str
    created_at: str


class DisputedPairShape(BaseModel):
    """A pair that reviewers judge differently."""

    key: str
    question: str = Field(description="the pair as it was reviewed")
    answer: str
    verdicts: dict[str, str] = Field(description="the newest verdict of each reviewer")
    comments: dict[str, str] = Field(description="what they wrote with it")


class ReviewAgreementReport(BaseModel):
    """How far reviewers of pairs agree."""

    pairs: int = Field(description="pairs with verdicts of at least two reviewers")
    agreement: list[AgreementOn] = Field(
        description="of all reviewers, on `verdict` (reject, correct, accept) and on `kept` (no, yes)"
    )
    between: list[AgreementOn] = Field(description="of every two reviewers, those that agree least first")
    disputed: list[DisputedPairShape] = Field(description="the most disputed first")

    @classmethod
    def of(cls, result: ReviewAgreement) -> Self:
        """Return the shape of an agreement of reviewers."""
        return cls(
            pairs=result.pairs,
            agreement=[AgreementOn.of(one) for one in result.overall],
            between=[AgreementOn.of(one) for one in result.between],
            disputed=[
                DisputedPairShape(
                    key=one.pair_key,
                    question=one.question,
                    answer=one.answer,
                    verdicts=dict(one.verdicts),
                    comments=dict(one.comments),
                )
                for one in result.disputed
            ],
        )
