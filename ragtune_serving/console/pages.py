"""Renders the pages of the console: the templates, what every page shows, and which pages a role has."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from ragtune_serving.console.sessions import Session
from ragtune_serving.keys import Key

FOLDER = Path(__file__).parent
STATIC_FOLDERS = (FOLDER / "static", FOLDER / "vendor")


@dataclass(frozen=True, slots=True)
class Page:
    """An entry of the navigation."""

    name: str
    title: str
    path: str


PAGES = (
    Page("ask", "Ask", "/console/ask"),
    Page("reviews", "Review pairs", "/console/reviews"),
    Page("evaluate", "Evaluate", "/console/evaluate"),
    Page("knowledge", "Knowledge", "/console/knowledge"),
    Page("candidates", "Candidates", "/console/candidates"),
    Page("experiments", "Experiments", "/console/experiments"),
    Page("feedback", "Feedback", "/console/feedback"),
    Page("health", "Health", "/console/health"),
)
"""All pages; a key sees those that its role may call."""


def pages_of(key: Key) -> list[Page]:
    """Return the pages that a key may open."""
    return [page for page in PAGES if key.may_call(page.path)]


def session_of(request: Request) -> Session:
    """Return the session of a request; the console lets no request without one reach a page."""
    session: Session = request.scope["ragtune_session"]
    return session


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page, or a part of one, as HTML. All values are escaped."""
    session: Session | None = request.scope.get("ragtune_session")
    common: Mapping[str, Any] = {
        "session": session,
        "pages": pages_of(session.key) if session else [],
        "path": request.scope["path"],
    }
    return HTMLResponse(_environment().get_template(template).render({**common, **values}), status)


def static_file(name: str) -> Path | None:
    """Return a file that pages load, or None if there is none of this name."""
    return next((folder / name for folder in STATIC_FOLDERS if name in _names(folder)), None)


@cache
def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir() if path.is_file())


@cache
def _address(name: str) -> str:
    """Return the address of a static file; it changes with the content, so browsers may keep the file for good."""
    path = static_file(name)
    if path is None:
        raise FileNotFoundError(f"The console has no static file '{name}'.")
    return f"/console/static/{name}?v={hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ragtune_serving.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = _address
    environment.filters["ago"] = ago
    environment.filters["count"] = lambda number: f"{number:,}"
    return environment


def ago(moment: str | float, at: datetime | None = None) -> str:
    """Return how long ago a moment was (ISO 8601 in UTC, or seconds since 1970), such as `5 min ago`."""
    if isinstance(moment, str):
        then = datetime.fromisoformat(moment)
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
    else:
        then = datetime.fromtimestamp(moment, UTC)
    seconds = ((at or datetime.now(UTC)) - then).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"
