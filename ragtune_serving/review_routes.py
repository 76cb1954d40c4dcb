"""The routes of reviewers: pairs to decide, decisions, and how far everybody is. The key says who decides."""

from collections import defaultdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from ragtune.dataset.reviews.decisions import Decision, pair_key
from ragtune.errors import DatasetError
from ragtune_serving.problems import problem
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.schema import (
    AssignmentRequest,
    AssignmentResponse,
    ErrorBody,
    ReviewPair,
    ReviewPairs,
    ReviewProgress,
    ReviewRequest,
    ReviewResponse,
)

_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "a wrong field; the message lists the valid ones"},
    401: {"model": ErrorBody, "description": "no key, or one that is not accepted"},
    503: {"model": ErrorBody, "description": "there is no dataset yet"},
}
_GONE: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "no such pair"}}


def add_review_routes(router: APIRouter, desk: ReviewDesk) -> None:
    """Add the routes below `/v1/review`."""
    common: dict[str, Any] = {"tags": ["review"], "responses": _RESPONSES}

    @router.get("/v1/review/pairs", **common, summary="List pairs: yours, those that nobody settled, or all")
    def pairs(
        request: Request,
        show: Literal["mine", "open", "all"] = "mine",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> ReviewPairs:
        return _page(desk, request.scope["ragtune_user"], show, offset, limit)

    @router.post("/v1/review/assignments", **common, summary="Get pairs that still need a reviewer")
    def assignments(body: AssignmentRequest, request: Request) -> AssignmentResponse:
        user = request.scope["ragtune_user"]
        given = desk.claim(user, body.count)
        return AssignmentResponse(given=given, open=len(desk.reviews.assigned(user, desk.dataset().pairs)))

    @router.post(
        "/v1/review/decisions",
        tags=["review"],
        response_model=ReviewResponse,
        responses={**_RESPONSES, **_GONE},
        summary="Accept, reject, correct or comment",
    )
    def decisions(body: ReviewRequest, request: Request) -> ReviewResponse | Response:
        pair = desk.dataset().by_key.get(body.key)
        if pair is None:
            return problem(404, f"There is no pair with the key '{body.key}'.", "key")
        texts = (body.question, body.answer, body.comment)
        try:
            return _told(desk.reviews.decide(pair, request.scope["ragtune_user"], body.verdict, *texts))
        except DatasetError as error:
            return problem(400, str(error))

    @router.get("/v1/review/progress", **common, summary="How many pairs are settled, and how far each reviewer is")
    def progress() -> ReviewProgress:
        return ReviewProgress(**desk.progress())


def _page(desk: ReviewDesk, user: str, show: str, offset: int, limit: int) -> ReviewPairs:
    dataset = desk.dataset()
    found = dataset.pairs
    if show == "mine":
        found = desk.reviews.assigned(user, dataset.pairs)
    elif show == "open":
        found = desk.open_pairs()
    said: dict[str, list[ReviewResponse]] = defaultdict(list)
    for each in desk.reviews.decisions():
        said[each.pair_key].append(_told(each))
    held = desk.reviews.assignments()
    shown = []
    for pair in found[offset : offset + limit]:
        key, chunk = pair_key(pair), dataset.chunks.get(pair.chunk_id)
        shown.append(
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
                reviewers=sorted(held[key]),
                decisions=said[key],
            )
        )
    return ReviewPairs(total=len(found), pairs=shown)


def _told(decision: Decision) -> ReviewResponse:
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
