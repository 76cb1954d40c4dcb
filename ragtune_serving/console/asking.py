"""The page Ask: a conversation with the model, or with two models next to each other."""

from fastapi import FastAPI, Request, Response

from ragtune.answer.controls import DIALS, NEUTRAL, SWITCHES, with_controls
from ragtune.settings import Settings
from ragtune.store.feedback import LONGEST_TEXT
from ragtune_serving.console.pages import render
from ragtune_serving.deployment import MODELS
from ragtune_serving.routes import Services


def add_ask_pages(app: FastAPI, services: Services, settings: Settings) -> None:
    """Add the page Ask. Its script calls `/v1/chat/completions` and `/v1/feedback` below `/console`."""

    @app.get("/console/ask")
    def ask(request: Request) -> Response:
        controls = with_controls(NEUTRAL, settings.answer.dials, settings.answer.switches)
        live = services.deployment.live
        return render(
            request,
            "ask.html",
            models=MODELS,
            dials={name: getattr(controls, name) for name in DIALS},
            switches={name: getattr(controls, name) for name in SWITCHES},
            has_index=services.grounding.present,
            is_settled=services.grounding.settled,
            version=live.model.version if live else "",
            longest_text=LONGEST_TEXT,
        )
