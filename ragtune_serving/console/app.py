"""The console: pages for people at `/console`, in front of the API.

A page is HTML from a template. Scripts of the pages call the documented routes below `/console/v1`; there the session
stands for the key, and the request goes to the API as if it had come with that key. So programs and people share one
set of routes, limits and checks.
"""

import hmac
import logging
import shlex
from urllib.parse import quote, urlsplit

import sqlalchemy
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragtune.errors import FeedbackError, RagTuneError
from ragtune.knowledge.catalogue import Catalogue
from ragtune.settings import Settings
from ragtune_serving.audit import actor_of
from ragtune_serving.console.asking import add_ask_pages
from ragtune_serving.console.candidates import add_candidate_pages
from ragtune_serving.console.documents import add_document_pages
from ragtune_serving.console.evaluating import add_evaluation_page
from ragtune_serving.console.experiments import add_experiment_pages
from ragtune_serving.console.feedback import add_feedback_pages
from ragtune_serving.console.health import add_health_pages
from ragtune_serving.console.knowledge import add_knowledge_pages
from ragtune_serving.console.pages import pages_of, render, session_of, static_file
from ragtune_serving.console.reviews import add_review_pages
from ragtune_serving.console.runs import add_run_pages
from ragtune_serving.console.sessions import SECONDS, Sessions
from ragtune_serving.guard import LARGEST_BODY
from ragtune_serving.keys import KeyStore
from ragtune_serving.problems import problem
from ragtune_serving.routes import Services

ROOT = "/console"
_API = f"{ROOT}/v1/"
_OPEN = (f"{ROOT}/sign-in", f"{ROOT}/static")
"""What nobody has to sign in for."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_EVERY_ROLE = (ROOT, f"{ROOT}/sign-out")
"""What every session may call."""
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
logger = logging.getLogger(__name__)


class Console:
    """Serves everything below `/console` and passes every other request on to the API.

    It finds the session of a request, refuses changes that did not come from its own pages, and opens to a session
    the pages that the role of its key may call.
    """

    def __init__(self, api: ASGIApp, guarded: ASGIApp, pages: FastAPI, sessions: Sessions) -> None:
        self.api, self._guarded, self._pages, self._sessions = api, guarded, pages, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for the console, and send a browser that asks for `/` there; pass other ones on."""
        if scope["type"] == "http" and scope["path"] == "/" and "text/html" in Headers(scope=scope).get("accept", ""):
            await RedirectResponse(ROOT, 303)(scope, receive, send)
            return
        if scope["type"] != "http" or not (scope["path"] + "/").startswith(f"{ROOT}/"):
            await self.api(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        headers = Headers(scope=scope)
        cookies = cookie_parser(headers.get("cookie", ""))
        session = self._sessions.read(cookies.get(self._sessions.cookie_name, ""))
        scope = {**scope, "path": path, "ragtune_session": session}
        if session is not None:
            actor = actor_of(scope)
            actor.name, actor.role = session.key.name, session.key.role
        send = _with_security_headers(send)
        is_open = path in _OPEN or path.startswith(f"{_OPEN[1]}/")
        if scope["method"] not in ("GET", "HEAD") and (refusal := _foreign(scope, headers, is_open)):
            await refusal(scope, receive, send)
        elif session is None and not is_open:
            await _sign_in_first(scope, headers)(scope, receive, send)
        elif session is not None and path.startswith(_API):
            api_path = path.removeprefix(ROOT)
            api_scope = {**scope, "path": api_path, "raw_path": api_path.encode(), "ragtune_key": session.key}
            await self._guarded(api_scope, receive, send)
        elif session is not None and not is_open and path not in _EVERY_ROLE and not session.key.may_call(path):
            await self._forbidden(scope)(scope, receive, send)
        else:
            await self._pages(scope, receive, send)

    @staticmethod
    def _forbidden(scope: Scope) -> Response:
        key = scope["ragtune_session"].key
        if key.hides(scope["path"]):
            return render(
                Request(scope),
                "message.html",
                403,
                title="Not for your key",
                message="This page shows texts of all documents, and the filter of your key allows only some of them.",
                fix="Ask an administrator for a key without a filter.",
            )
        return render(
            Request(scope),
            "message.html",
            403,
            title="Not for your role",
            message=f"Your key has the role {key.role}, which does not include this page.",
            fix="Open one of the pages in the navigation, or ask an administrator for a key with another role.",
        )


def with_console(api: ASGIApp, guarded: ASGIApp, services: Services, settings: Settings, keys: KeyStore) -> Console:
    """Return the app with the console in front of it; `guarded` is the API behind the checks of keys, without CORS."""
    sessions = Sessions(keys)
    return Console(api, guarded, _build_pages(services, settings, keys, sessions), sessions)


def _build_pages(services: Services, settings: Settings, keys: KeyStore, sessions: Sessions) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, max_body_size=LARGEST_BODY)
    _add_sign_in(app, sessions)
    catalogue = Catalogue(settings)
    add_ask_pages(app, services, settings)
    add_document_pages(app, services, catalogue)
    add_review_pages(app, services.reviews, keys)
    add_evaluation_page(app)
    add_knowledge_pages(app, services, settings, catalogue)
    add_run_pages(app, settings)
    add_candidate_pages(app, services, settings)
    add_experiment_pages(app, services, keys)
    add_feedback_pages(app, services, settings)
    add_health_pages(app, services, settings, catalogue)

    @app.get(ROOT)
    async def start(request: Request) -> Response:
        pages = pages_of(session_of(request).key)
        if pages:
            return RedirectResponse(pages[0].path, 303)
        message = f"Your key has the role {session_of(request).key.role}, which has no page here."
        return render(request, "message.html", 403, title="No pages", message=message, fix="Sign in with another key.")

    @app.get(ROOT + "/static/{name}")
    async def static(name: str) -> Response:
        path = static_file(name)
        if path is None:
            return problem(404, f"There is no file '{name}'.")
        return FileResponse(path, headers={"Cache-Control": "public, max-age=31536000, immutable"})

    @app.exception_handler(404)
    async def missing(request: Request, _: Exception) -> Response:
        message, fix = f"There is no page {request.url.path}.", "Open one of the pages in the navigation."
        return render(request, "message.html", 404, title="Not found", message=message, fix=fix)

    @app.exception_handler(RagTuneError)
    async def failed(request: Request, error: RagTuneError) -> Response:
        if request.headers.get("hx-request"):
            return problem(503, str(error))
        title = "This cannot be shown now"
        return render(request, "message.html", 503, title=title, message=error.found, fix=error.fix)

    @app.exception_handler(sqlalchemy.exc.OperationalError)
    async def away(request: Request, error: sqlalchemy.exc.OperationalError) -> Response:
        logger.warning("%s: the database does not answer: %s", request.url.path, error.orig)
        return await failed(request, FeedbackError("The database does not answer.", fix="try again in a moment"))

    return app


def _add_sign_in(app: FastAPI, sessions: Sessions) -> None:
    @app.get(ROOT + "/sign-in")
    async def form(request: Request, to: str = ROOT) -> Response:
        if request.scope["ragtune_session"] is not None:
            return RedirectResponse(_own_path(to), 303)
        return _form(request, sessions, to)

    @app.post(ROOT + "/sign-in")
    async def sign_in(request: Request) -> Response:
        fields = await request.form()
        to = _own_path(str(fields.get("to", "")))
        cookie = sessions.sign_in(str(fields.get("key", "")))
        if cookie is None:
            return _form(
                request, sessions, to, "This key is not accepted. It may be mistyped, expired or revoked.", 401
            )
        if session := sessions.read(cookie):
            actor = actor_of(request.scope)
            actor.name, actor.role = session.key.name, session.key.role
        response = RedirectResponse(to, 303)
        response.set_cookie(
            sessions.cookie_name, cookie, max_age=SECONDS, path="/", secure=True, httponly=True, samesite="lax"
        )
        return response

    @app.post(ROOT + "/sign-out")
    async def sign_out() -> Response:
        response = Response(headers={"HX-Redirect": f"{ROOT}/sign-in"})
        response.delete_cookie(sessions.cookie_name, path="/", secure=True, httponly=True, samesite="lax")
        return response


def _form(request: Request, sessions: Sessions, to: str, error: str = "", status: int = 200) -> Response:
    # Browsers keep a secure cookie only if it comes over HTTPS or from this machine.
    loopback = request.url.hostname in _LOOPBACK
    insecure = request.url.scheme != "https" and not loopback
    # A proxy on this machine brings visitors from elsewhere, to whom paths of this machine are no use.
    at_home = loopback and request.client is not None and request.client.host in _LOOPBACK
    at_home = at_home and "forwarded" not in request.headers and "x-forwarded-for" not in request.headers
    key_file = shlex.quote(str(sessions.key_file)) if at_home else ""
    return render(request, "sign_in.html", status, to=to, error=error, insecure=insecure, key_file=key_file)


def _own_path(to: str) -> str:
    """Return the path of the console that a person wanted; the start page if it leads elsewhere."""
    parts = urlsplit(to)
    is_own = not parts.scheme and not parts.netloc and "\\" not in to and (parts.path + "/").startswith(f"{ROOT}/")
    return to if is_own else ROOT


def _sign_in_first(scope: Scope, headers: Headers) -> Response:
    if scope["path"].startswith(_API) or headers.get("hx-request") or scope["method"] != "GET":
        return problem(401, "Your session has ended. Sign in again; what you typed is kept in this browser.")
    query = scope["query_string"].decode("latin-1")
    to = scope["path"] + (f"?{query}" if query else "")
    return RedirectResponse(f"{ROOT}/sign-in" + ("" if to == ROOT else f"?to={quote(to, safe='')}"), 303)


def _foreign(scope: Scope, headers: Headers, is_open: bool) -> Response | None:
    """Return why a change is refused, or None: other web sites can make a browser send requests with its cookies."""
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != headers.get("host")
    ):
        return problem(403, "This request came from another web site. Open the console itself.")
    session = scope["ragtune_session"]
    if session is None or is_open:
        return None
    if not hmac.compare_digest(headers.get("x-csrf-token", "").encode(), session.csrf_token.encode()):
        return problem(403, "This request does not carry the token of your session. Reload the page and try again.")
    return None


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_with_headers
