"""The page Evaluate: people rate answers or compare two models, and see how far they agree."""

from fastapi import FastAPI, Request, Response

from ragtune_serving.console.pages import render, session_of

_AGREEMENT = "/v1/studies/agreement"
"""Who may call this route sees the results and settles disputed items."""


def add_evaluation_page(app: FastAPI) -> None:
    """Add the page Evaluate. Its script calls `/v1/studies` below `/console`."""

    @app.get("/console/evaluate")
    async def evaluate(request: Request) -> Response:
        return render(request, "evaluate.html", leads=session_of(request).key.may_call(_AGREEMENT))
