"""The page Training runs: tracked trainings with their scores, and what differs between two of them."""

from fastapi import FastAPI, Request, Response

from ragtune.errors import ExperimentError
from ragtune.model.runs.comparison import RunComparison, compare
from ragtune.model.runs.log import TRAINED, RunLog
from ragtune.settings import Settings
from ragtune_serving.console.pages import render

PATH = "/console/candidates/runs"
_SHOWN = 50
"""Trainings on the page. Chosen by hand: years of weekly trainings."""


def add_run_pages(app: FastAPI, settings: Settings) -> None:
    """Add the page; it must come before the pages of versions, whose addresses begin in the same way."""
    log = RunLog(settings)

    @app.get(PATH)
    def runs(request: Request, a: str = "", b: str = "") -> Response:
        compared: RunComparison | None = None
        try:
            if a and b:
                compared = compare(log, log.run(a), log.run(b))
        except ExperimentError as error:
            title = "These runs cannot be compared"
            return render(request, "message.html", 404, title=title, message=error.found, fix="")
        return render(
            request,
            "runs.html",
            runs=log.runs(TRAINED, limit=_SHOWN),
            metric=settings.evaluation.metric,
            mlflow=settings.mlflow_pages,
            a=a,
            b=b,
            compared=compared,
        )
