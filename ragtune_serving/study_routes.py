"""The routes of human evaluation: annotators get tasks and rate them, reviewers see agreement and settle items.

The name of the API key is the name of the annotator.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from ragtune.errors import DatasetError
from ragtune.evaluation.studies.study import Study, shown, side
from ragtune_serving.problems import problem
from ragtune_serving.schema import ErrorBody
from ragtune_serving.studies import StudyDesk
from ragtune_serving.study_schema import (
    AdjudicationRequest,
    AdjudicationResponse,
    RatingRequest,
    RatingResponse,
    ShownText,
    StudyCard,
    StudyReport,
    StudyTask,
    StudyTasks,
)

_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "a wrong field; the message lists the valid ones"},
    401: {"model": ErrorBody, "description": "no key, or a key that is not accepted"},
    404: {"model": ErrorBody, "description": "no such study or task"},
}
_COMMON: dict[str, Any] = {"tags": ["studies"], "responses": _RESPONSES}


def add_study_routes(router: APIRouter, desk: StudyDesk) -> None:
    """Add the routes below `/v1/studies`."""
    _add_annotator_routes(router, desk)
    _add_reviewer_routes(router, desk)


def _add_annotator_routes(router: APIRouter, desk: StudyDesk) -> None:
    @router.get("/v1/studies/mine", **_COMMON, summary="List the studies, with your own progress")
    def mine(request: Request) -> list[StudyCard]:
        user = request.scope["ragtune_key"].name
        return [_card(desk, study, user) for study in desk.store.studies()]

    @router.get("/v1/studies/tasks", **_COMMON, response_model=StudyTasks, summary="Get your open or rated tasks")
    def tasks(
        study: str,
        request: Request,
        show: Literal["open", "rated"] = "open",
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> StudyTasks | Response:
        try:
            return _tasks(desk, desk.store.study(study), request.scope["ragtune_key"].name, show, limit)
        except DatasetError as error:
            return problem(404, str(error), "study")

    @router.post("/v1/studies/ratings", **_COMMON, response_model=RatingResponse, summary="Rate a task, or put it off")
    def ratings(body: RatingRequest, request: Request) -> RatingResponse | Response:
        user = request.scope["ragtune_key"].name
        try:
            task = desk.store.task(body.task)
        except DatasetError as error:
            return problem(404, str(error), "task")
        if task.annotator != user:
            return problem(404, f"You have no task '{body.task}'.", "task")
        try:
            rating = desk.store.rate(body.task, user, body.choices, body.comment, body.seconds)
        except DatasetError as error:
            return problem(400, str(error), "choices")
        return RatingResponse(
            id=rating.id,
            task=rating.task_id,
            choices={question: side(choice, task.swapped) for question, choice in rating.choices.items()},
            skipped=rating.skipped,
            comment=rating.comment,
            created_at=rating.created_at,
            open=len(desk.store.open_tasks(task.study, user)),
        )


def _add_reviewer_routes(router: APIRouter, desk: StudyDesk) -> None:
    @router.get(
        "/v1/studies/agreement", **_COMMON, response_model=StudyReport, summary="Show agreement and disputed items"
    )
    def agreement(study: str, request: Request) -> StudyReport | Response:
        try:
            results = desk.results(study)
        except DatasetError as error:
            return problem(404, str(error), "study")
        tasks = desk.store.open_tasks(study, request.scope["ragtune_key"].name)
        return StudyReport.of(results, unrated={task.item_id for task in tasks})

    @router.post(
        "/v1/studies/adjudications", **_COMMON, response_model=AdjudicationResponse, summary="Settle a disputed item"
    )
    def adjudications(body: AdjudicationRequest, request: Request) -> AdjudicationResponse | Response:
        user = request.scope["ragtune_key"].name
        try:
            made = desk.store.adjudicate(body.study, body.item, body.question, body.choice, user, body.comment)
        except DatasetError as error:
            return problem(400, str(error))
        return AdjudicationResponse(
            item=made.item_id,
            question=made.question,
            choice=made.choice,
            adjudicator=made.adjudicator,
            created_at=made.created_at,
        )


def _card(desk: StudyDesk, study: Study, user: str) -> StudyCard:
    own = next((row for row in desk.store.progress(study.name) if row.annotator == user), None)
    return StudyCard(
        name=study.name,
        mode=study.mode,
        questions=list(study.questions),
        meanings=study.meanings,
        choices=list(study.choices),
        guideline=study.guideline,
        created_at=study.created_at,
        rated=own.rated if own else 0,
        tasks=own.tasks if own else 0,
    )


def _tasks(desk: StudyDesk, study: Study, user: str, show: str, limit: int) -> StudyTasks:
    still_open, items = desk.store.open_tasks(study.name, user), desk.store.items(study.name)
    newest, left = desk.store.newest_ratings(study.name), {task.id for task in still_open}
    rated = [task for task in desk.store.tasks(study.name, user) if task.id not in left]
    rated.sort(key=lambda task: newest[task.id].sequence, reverse=True)
    page = []
    for task in (still_open if show == "open" else rated)[:limit]:
        item, own = items[task.item_id], newest.get(task.id)
        choices = {question: side(choice, task.swapped) for question, choice in own.choices.items()} if own else {}
        page.append(
            StudyTask(
                task=task.id,
                question=item.question,
                expected=item.expected,
                answers=[ShownText(text=answer.text, sources=list(answer.sources)) for answer in shown(item, task)],
                choices=choices,
                comment=own.comment if own else "",
            )
        )
    return StudyTasks(open=len(still_open), rated=len(rated), tasks=page)
