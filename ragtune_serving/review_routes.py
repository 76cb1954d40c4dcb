"""The routes for reviewers: list pairs, get assignments, decide, see the progress.

The name of the API key is the name of the reviewer.
"""

from collections import defaultdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from ragtune.dataset.reviews.decisions import Decision, newest_verdicts, pair_key
from ragtune.errors import DatasetError
from ragtune_serving.problems import problem
from ragtune_serving.review_schema import (
    AssignmentRequest,
    AssignmentResponse,
    ReviewPair,
    ReviewPairs,
    ReviewProgress,
    ReviewRequest,
    ReviewResponse,
)
from ragtune_serving.reviewer import Reviewer
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.schema import ErrorBody
from ragtune_serving.study_schema import ReviewAgreementReport

_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "a wrong field; the message lists the valid ones"},
    401: {"model": ErrorBody, "description": "no key, or a key that is not accepted"},
    503: {"model": ErrorBody, "description": "there is no dataset yet"},
}
_NO_PAIR: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "no such pair"}}


def add_review_routes(router: APIRouter, desk: ReviewDesk) -> None:
    """Add the routes below `/v1/review`."""
    common: dict[str, Any] = {"tags": ["review"], "responses": _RESPONSES}

    @router.get(
        "/v1/review/pairs", **common, summary="List pairs: those assigned to you, those not settled yet, or all"
    )
    def pairs(
        request: Request,
        show: Literal["mine", "open", "all"] = "mine",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> ReviewPairs:
        return _page(desk, desk.reviewer(request.scope["ragtune_key"]), show, offset, limit)

    @router.post("/v1/review/assignments", **common, summary="Get pairs that still need a reviewer")
    def assignments(body: AssignmentRequest, request: Request) -> AssignmentResponse:
        user = request.scope["ragtune_key"].name
        count = desk.claim(user, body.count)
        return AssignmentResponse(given=count, open=len(desk.reviews.pairs_to_review(user, desk.dataset().pairs)))

    @router.post(
        "/v1/review/decisions",
        tags=["review"],
        response_model=ReviewResponse,
        responses={**_RESPONSES, **_NO_PAIR},
        summary="Accept, reject, correct or comment",
    )
    def decisions(body: ReviewRequest, request: Request) -> ReviewResponse | Response:
        pair = desk.dataset().by_key.get(body.key)
        if pair is None:
            return problem(404, f"There is no pair with the key '{body.key}'.", "key")
        texts = (body.question, body.answer, body.comment)
        try:
            return _response(desk.reviews.decide(pair, request.scope["ragtune_key"].name, body.verdict, *texts))
        except DatasetError as error:
            return problem(400, str(error))

    @router.get("/v1/review/progress", **common, summary="Count settled pairs, and the pairs each reviewer has decided")
    def progress() -> ReviewProgress:
        return ReviewProgress(**desk.progress())

    @router.get("/v1/review/agreement", **common, summary="Show how far reviewers agree, and the pairs they dispute")
    def agreement(request: Request) -> ReviewAgreementReport:
        return ReviewAgreementReport.of(desk.agreement_for(desk.reviewer(request.scope["ragtune_key"])))


def _page(desk: ReviewDesk, reviewer: Reviewer, show: str, offset: int, limit: int) -> ReviewPairs:
    dataset = desk.dataset()
    pairs = dataset.pairs
    if show == "mine":
        pairs = desk.reviews.pairs_to_review(reviewer.name, dataset.pairs)
    elif show == "open":
        pairs = desk.open_pairs()
    stored = desk.reviews.decisions()
    verdicts = newest_verdicts(stored)
    decisions: dict[str, list[ReviewResponse]] = defaultdict(list)
    for decision in stored:
        if decision.reviewer == reviewer.name or reviewer.may_see(
            verdicts.get(decision.pair_key, {}), desk.reviews_per_pair
        ):
            decisions[decision.pair_key].append(_response(decision))
    reviewers = desk.reviews.assignments()
    page = []
    for pair in pairs[offset : offset + limit]:
        key, chunk = pair_key(pair), dataset.chunks.get(pair.chunk_id)
        page.append(
            ReviewPair(
                key=key,
                question=pair.question,
                answer=pair.answer,
                answerable=pair.answerable,
                kind=pair.kind,
                document=pair.document_id,
                chunk=pair.chunk_id,
                title=chunk.title if chunk else "",
                text=chunk.text if chunk else "",
                topic=pair.topic,
                scores=pair.scores,
                reviewers=sorted(reviewers[key]),
                decisions=decisions[key],
            )
        )
    return ReviewPairs(total=len(pairs), pairs=page)


def _response(decision: Decision) -> ReviewResponse:
    return ReviewResponse(
        id=decision.id,
        sequence=decision.sequence,
        key=decision.pair_key,
        reviewer=decision.reviewer,
        verdict=decision.verdict,
        question=decision.question,
        answer=decision.answer,
        comment=decision.comment,
        created_at=decision.created_at,
    )
