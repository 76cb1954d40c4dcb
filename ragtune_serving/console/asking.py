"""The page Ask: a conversation with one model or two, and what became of the user's corrections."""

from fastapi import FastAPI, Request, Response

from ragtune.answer.controls import DIALS, NEUTRAL, SWITCHES, with_controls
from ragtune.settings import Settings
from ragtune.store.feedback import LONGEST_TEXT
from ragtune_serving.console.pages import render, session_of
from ragtune_serving.deployment import MODELS
from ragtune_serving.routes import Services

_NEWEST = 20
"""Corrections that the page lists. Chosen by hand; `ragtune feedback corrections` has all."""
STATUS_WORDS = {
    "waiting": ("", "waits for a reviewer"),
    "accepted": ("good", "accepted"),
    "in_dataset": ("good", "in the dataset"),
    "released": ("good", "a model learned from it"),
    "rejected": ("bad", "rejected"),
    "replaced": ("", "replaced"),
    "over_cap": ("warn", "too many of yours wait"),
    "held_back": ("warn", "held back"),
    "failed": ("bad", "failed a check"),
}
"""{what became of a correction: (class of its tag, words for its author)}."""


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

    @app.get("/console/ask/corrections")
    def corrections(request: Request) -> Response:
        user = session_of(request).key.name
        own = [one.event.id for one in services.reviews.statuses() if one.event.user == user]
        newest = reversed(own[-_NEWEST:])
        traces = [services.reviews.trace(name, services.experiments.registry.versions) for name in newest]
        return render(request, "ask_corrections.html", traces=traces, number=len(own), words=STATUS_WORDS)
