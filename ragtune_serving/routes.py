"""The documented routes; the gateway has no others."""

import time
from collections import ChainMap
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse

from ragtune.store.feedback import FeedbackLog, Verdict, thumb_of
from ragtune_serving.chat import ChatService
from ragtune_serving.deployment import MODELS, Engines
from ragtune_serving.embedding_routes import add_embedding_route
from ragtune_serving.exchange import new_response_id
from ragtune_serving.experiment_control import ExperimentControl
from ragtune_serving.experiment_routes import add_experiment_routes
from ragtune_serving.feedback_tokens import HEADER as FEEDBACK_TOKEN
from ragtune_serving.feedback_tokens import FeedbackTokens
from ragtune_serving.grounding import Grounding
from ragtune_serving.ledgers import Ledger
from ragtune_serving.limits import Limits
from ragtune_serving.metrics import Metrics
from ragtune_serving.problems import problem
from ragtune_serving.rating_desk import RatingDesk, own_only
from ragtune_serving.recorder import ResponseRecorder
from ragtune_serving.review_routes import add_review_routes
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.schema import (
    Alive,
    ChatRequest,
    ChatResponse,
    ErrorBody,
    FeedbackRequest,
    FeedbackResponse,
    FeedbackStatus,
    ModelCard,
    ModelList,
    Readiness,
    Status,
)
from ragtune_serving.score_routes import add_score_routes
from ragtune_serving.scrape import scrape
from ragtune_serving.streaming import ClientGone, respond
from ragtune_serving.studies import StudyDesk
from ragtune_serving.study_routes import add_study_routes

Responses = dict[int | str, dict[str, Any]]
_NO_KEY: Responses = {
    401: {"model": ErrorBody, "description": "no key, or a key that is not accepted"},
    403: {"model": ErrorBody, "description": "the role of the key does not include this route"},
}
_BAD_FIELD: Responses = {400: {"model": ErrorBody, "description": "a wrong field; the message lists the valid ones"}}
_NO_RESPONSE: Responses = {404: {"model": ErrorBody, "description": "no such response"}}
_NO_FEEDBACK: Responses = {404: {"model": ErrorBody, "description": "no such verdict"}}
_NO_MODEL: Responses = {404: {"model": ErrorBody, "description": "no such model name"}}
_LIMITED: Responses = {429: {"model": ErrorBody, "description": "the key has used what it may; see Retry-After"}}
_TOO_LARGE: Responses = {413: {"model": ErrorBody, "description": "a body that is too large"}}
_UNAVAILABLE: Responses = {
    503: {"model": ErrorBody, "description": "the engine or the index cannot answer now; see Retry-After"}
}
_ANSWER: Responses = {
    200: {"model": ChatResponse, "description": "the answer; with `stream` its chunks as server-sent events"}
}


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that routes work with; `gateway.py` builds them once."""

    chat: ChatService
    deployment: Engines
    grounding: Grounding
    log: FeedbackLog
    recorder: ResponseRecorder
    ledger: Ledger
    limits: Limits
    metrics: Metrics
    started: float
    reviews: ReviewDesk
    studies: StudyDesk
    experiments: ExperimentControl
    tokens: FeedbackTokens


def routes(services: Services) -> APIRouter:
    """Return every documented route."""
    router = APIRouter()
    _add_answering(router, services)
    desk = RatingDesk(services.log, services.recorder, services.metrics)
    _add_feedback(router, desk)
    add_score_routes(router, desk, lambda: services.experiments.settings.feedback.scores)
    _add_feedback_status(router, services)
    _add_state(router, services)
    add_embedding_route(router, services.grounding, {**_BAD_FIELD, **_NO_KEY, **_TOO_LARGE, **_UNAVAILABLE})
    add_review_routes(router, services.reviews)
    add_experiment_routes(router, services.experiments)
    add_study_routes(router, services.studies)
    return router


def _add_answering(router: APIRouter, services: Services) -> None:
    @router.post(
        "/v1/chat/completions",
        tags=["answering"],
        responses={**_ANSWER, **_BAD_FIELD, **_NO_KEY, **_TOO_LARGE, **_LIMITED, **_UNAVAILABLE},
        summary="Answer a question from the documents, with citations",
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        response_id, key = new_response_id(), request.scope["ragtune_key"]
        allowance = services.ledger.allowance(key.name, key.limits.over(services.limits))
        try:
            answer = services.chat.answer(body, response_id, key, allowance)
            token = {FEEDBACK_TOKEN: services.tokens.sign(response_id, key)}
            return await respond(request, body, response_id, answer, ChainMap(token, allowance.headers))
        except ClientGone:
            return Response(status_code=499)  # nobody reads it

    @router.get("/v1/models", tags=["answering"], responses=_NO_KEY, summary="List the model names")
    async def models() -> ModelList:
        return ModelList(data=[_card(services, name) for name in MODELS])

    @router.get(
        "/v1/models/{name}",
        tags=["answering"],
        response_model=ModelCard,
        responses={**_NO_KEY, **_NO_MODEL},
        summary="Describe one model name",
    )
    async def model(name: str) -> ModelCard | Response:
        if name not in MODELS:
            return problem(404, f"There is no model '{name}'. Models: {', '.join(MODELS)}.", "model")
        return _card(services, name)


def _card(services: Services, name: str) -> ModelCard:
    return ModelCard(id=name, created=int(services.started), description=MODELS[name])


def _add_feedback(router: APIRouter, desk: RatingDesk) -> None:
    @router.post(
        "/v1/feedback",
        tags=["feedback"],
        response_model=FeedbackResponse,
        responses={**_BAD_FIELD, **_NO_KEY, **_NO_RESPONSE},
        summary="Say whether an answer was right, and what it should have been",
    )
    def feedback(body: FeedbackRequest, request: Request) -> FeedbackResponse | Response:
        stars = body.rating if isinstance(body.rating, int) else 0
        verdict = Verdict(
            response_id=body.response_id,
            rating=thumb_of(body.rating) if isinstance(body.rating, int) else body.rating,
            correction=body.correction,
            comment=body.comment,
            stars=stars,
            tags=body.tags,
        )
        event = desk.rate(verdict, request.scope)
        if isinstance(event, Response):
            return event
        return FeedbackResponse(
            id=event.id,
            sequence=event.sequence,
            response_id=event.response_id,
            rating=event.rating,
            stars=event.stars,
            tags=list(event.tags),
            created_at=event.created_at,
            model_version=event.model_version,
        )


def _add_feedback_status(router: APIRouter, services: Services) -> None:
    @router.get(
        "/v1/feedback/{id}",
        tags=["feedback"],
        response_model=FeedbackStatus,
        responses={**_NO_KEY, **_NO_FEEDBACK},
        summary="Say what became of a verdict: waiting, accepted, in training, or why not",
    )
    def feedback_status(
        feedback_id: Annotated[str, PathParameter(alias="id")], request: Request
    ) -> FeedbackStatus | Response:
        key, event = request.scope["ragtune_key"], services.log.event(feedback_id)
        if event is None or (event.user != key.name and own_only(key.role)):
            return problem(404, f"This key gave no feedback '{feedback_id}'.", "id")
        trace = services.reviews.trace(feedback_id, services.experiments.registry.versions)
        return FeedbackStatus(
            id=event.id,
            response_id=event.response_id,
            created_at=event.created_at,
            rating=event.rating,
            question=event.question,
            correction=event.correction,
            status=trace.status,
            reason=trace.reason,
            since=trace.since,
            split=trace.pairs[0][1] if trace.pairs else "",
            dataset=trace.dataset,
            versions=list(trace.versions),
        )


def _add_state(router: APIRouter, services: Services) -> None:
    deployment, grounding = services.deployment, services.grounding

    @router.get("/health/liveliness", tags=["state"], summary="Whether the process answers (no key)")
    async def liveliness() -> Alive:
        return Alive()

    @router.get(
        "/health/readiness",
        tags=["state"],
        responses={503: {"model": Readiness, "description": "a question would not be answered now"}},
        summary="Whether a question would be answered now (no key)",
    )
    async def readiness(response: Response) -> Readiness:
        live = deployment.live
        ready = live is not None and live.ready and grounding.settled
        response.status_code = 200 if ready else 503
        name = live.model.version if live else None
        return Readiness(
            status="ready" if ready else "starting",
            model_version=name,
            retrieval=grounding.present,
            # Not the error itself: this route needs no key, and a database's error may name hosts and users.
            log="waiting" if services.recorder.error else "written",
        )

    @router.get("/status", tags=["state"], responses=_NO_KEY, summary="What is live, and the last error")
    def status() -> Status:
        responses, feedback = services.recorder.counts() or (None, None)
        return Status(
            version=version("ragtune"),
            uptime_seconds=round(time.time() - services.started, 1),
            **{**deployment.status(), "error": deployment.error or grounding.error or services.recorder.error},
            retrieval=grounding.present,
            responses=responses,
            feedback=feedback,
        )

    @router.get(
        "/metrics",
        tags=["state"],
        response_class=PlainTextResponse,
        responses=_NO_KEY,
        summary="Prometheus metrics of the gateway and of its engines",
    )
    def metrics() -> Response:
        services.metrics.show_mirrors(services.chat.shadowing.counts())
        of_engines = services.chat.settings.scrapes_engines
        text = scrape(services.metrics, deployment, grounding, services.recorder, of_engines=of_engines)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def documentation(title: str) -> APIRouter:
    """Return the pages that show the OpenAPI description; their assets come from LiteLLM's package, offline."""
    router = APIRouter(include_in_schema=False)
    import litellm

    assets = Path(litellm.__file__).parent / "proxy" / "swagger"

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=title,
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="/docs/favicon.png",
        )

    @router.get("/docs/{name}")
    async def asset(name: str) -> Response:
        if name not in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
            return problem(404, f"There is no page '/docs/{name}'.")
        return FileResponse(assets / name)

    return router
