"""The gateway's FastAPI app: the documented routes, their OpenAPI description and the error format."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

import sqlalchemy
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ragtune.errors import RagTuneError, SettingsError
from ragtune_serving.experiment_schema import ExperimentRequest, ShadowRequest
from ragtune_serving.guard import BODY_TOO_LARGE, LARGEST_BODY, OPEN_PATHS
from ragtune_serving.limits import LimitError
from ragtune_serving.problems import RETRY_SECONDS, explain, problem
from ragtune_serving.review_schema import AssignmentRequest, ReviewRequest
from ragtune_serving.routes import Services, documentation, routes
from ragtune_serving.schema import ChatRequest, EmbeddingRequest, FeedbackRequest
from ragtune_serving.study_schema import AdjudicationRequest, RatingRequest

TITLE = "RagTune gateway"
ABOUT = "Answers from your documents, OpenAI-compatible. Send `Authorization: Bearer KEY`."
_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/experiments": ExperimentRequest,
    "/v1/feedback": FeedbackRequest,
    "/v1/review/assignments": AssignmentRequest,
    "/v1/review/decisions": ReviewRequest,
    "/v1/shadows": ShadowRequest,
    "/v1/studies/adjudications": AdjudicationRequest,
    "/v1/studies/ratings": RatingRequest,
}
logger = logging.getLogger(__name__)


def build_api(
    services: Services, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Any]] | None = None
) -> FastAPI:
    """Return the app with every documented route."""
    app = FastAPI(
        title=TITLE,
        version=version("ragtune"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        max_body_size=LARGEST_BODY,
    )
    app.include_router(routes(services))
    app.include_router(documentation(TITLE))
    app.openapi = lambda: _description(app)  # type: ignore[method-assign]
    _format_errors(app)
    return app


def _description(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description: with the required key, and without FastAPI's 422, which is a 400 here."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes, description=ABOUT)
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                operation["security"] = [] if path in OPEN_PATHS else [{"key": []}]
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = schema
    return app.openapi_schema


def _format_errors(app: FastAPI) -> None:
    """Add handlers to the app that answer every error in OpenAI's format, with the status that fits it."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        message, field = explain(error.errors(), _BODIES.get(request.url.path))
        return problem(400, message, field)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        message = BODY_TOO_LARGE if error.status_code == 413 else str(error.detail)
        if error.status_code in (404, 405):
            paths = ", ".join(sorted(_description(app)["paths"]))
            message = f"There is no {request.method} {request.url.path} here. Routes: {paths}."
        return problem(error.status_code, message, headers=error.headers)

    @app.exception_handler(SettingsError)
    async def wrong(_: Request, error: SettingsError) -> Response:
        return problem(400, str(error))

    @app.exception_handler(sqlalchemy.exc.OperationalError)
    async def away(request: Request, error: sqlalchemy.exc.OperationalError) -> Response:
        logger.warning("%s: the database does not answer: %s", request.url.path, error.orig)
        return problem(503, "The database does not answer.", headers={"Retry-After": RETRY_SECONDS})

    @app.exception_handler(LimitError)
    async def limited(_: Request, error: LimitError) -> Response:
        return problem(429, str(error), headers={**error.headers, "Retry-After": str(error.retry_after)})

    @app.exception_handler(RagTuneError)
    async def unavailable(request: Request, error: RagTuneError) -> Response:
        logger.warning("%s: %s", request.url.path, error)
        return problem(503, str(error), headers={"Retry-After": RETRY_SECONDS})

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        logger.error("%s failed", request.url.path, exc_info=error)
        return problem(500, "The gateway failed. See its log in RAGTUNE_HOME/logs.")
