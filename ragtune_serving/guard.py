"""What every request passes first: keys, the size of the body, HEAD and OPTIONS, trailing slashes, web origins."""

from collections.abc import Sequence

from fastapi import FastAPI, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from ragtune_serving.audit import actor_of
from ragtune_serving.feedback_tokens import HEADER as FEEDBACK_TOKEN
from ragtune_serving.feedback_tokens import FeedbackTokens
from ragtune_serving.keys import ROLES, KeyStore, allows, basic, bearer
from ragtune_serving.problems import problem
from ragtune_serving.request_context import HEADER as REQUEST_ID
from ragtune_serving.request_context import current_request
from ragtune_serving.score_schema import SCORE_PATHS

LARGEST_BODY = 4 << 20
"""Bytes of a request. Chosen by hand: a prompt of 8,192 tokens is some 40 KiB, so this only stops abuse."""
BODY_TOO_LARGE = f"The body is larger than {LARGEST_BODY >> 20} MiB."
OPEN_PATHS = ("/health/liveliness", "/health/readiness", "/openapi.json", "/docs")
"""Paths that need no key."""
_RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens", "tokens-day", "cost-day")
)


class Guard:
    """Refuses requests without an accepted key, and bodies that are too large, before anything else reads them."""

    def __init__(self, app: FastAPI, keys: KeyStore, tokens: FeedbackTokens) -> None:
        self.app, self.keys, self.tokens = app, keys, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, 403 or 413, or pass the request on with its key in `scope["ragtune_key"]`.

        If a token takes the place of a key, `scope["ragtune_rates"]` is the only response that may be rated.
        """
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        # Clients that send scores through LiteLLM's proxy have the address of its pass-through to Langfuse.
        path = path.removeprefix("/langfuse") if path.removeprefix("/langfuse") in SCORE_PATHS else path
        scope = {**scope, "path": path}
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        # The console has found the key by a session.
        sent = bearer(authorization := headers.get("authorization", ""))
        if not sent and path in SCORE_PATHS:
            sent = basic(authorization)
        scope["ragtune_key"] = scope.get("ragtune_key") or self.keys.find(sent)
        if scope["ragtune_key"] is None and scope["method"] == "POST" and path in ("/v1/feedback", *SCORE_PATHS):
            permission = self.tokens.read(sent)
            if permission is not None:
                scope |= {"ragtune_key": permission.key, "ragtune_rates": permission.response_id}
        if scope["method"] == "OPTIONS":
            await self._options(scope)(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope["method"] = "GET"  # the server sends no body, because it still knows that the method is HEAD
        if (key := scope["ragtune_key"]) is not None:
            current_request().fields["key"] = key.name
            actor = actor_of(scope)
            actor.name, actor.role = key.name, key.role
        if refusal := self._refusal(scope, headers):
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        path, key = scope["path"], scope["ragtune_key"]
        is_open = path in OPEN_PATHS or path.startswith("/docs/")
        if key is None and not is_open:
            message = (
                "The key is missing or not accepted. Send 'Authorization: Bearer KEY'; the local key is in "
                "RAGTUNE_HOME/keys/client.key."
            )
            return problem(401, message, headers={"WWW-Authenticate": "Bearer"})
        if not is_open and key.hides(path):
            message = f"{path} shows texts of all documents, and the filter of this key allows only some of them."
            return problem(403, f"{message} Use a key without a filter.")
        if not is_open and not key.may_call(path):
            roles = ", ".join(role for role, starts in ROLES.items() if allows(starts, path))
            return problem(403, f"The role of this key, {key.role}, may not call {path}. Roles that may: {roles}.")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > LARGEST_BODY:  # FastAPI refuses chunked bodies while it reads them
            return problem(413, BODY_TOO_LARGE)
        return None

    def _options(self, scope: Scope) -> Response:
        """Return the methods of a route; they are public in the API description."""
        methods: set[str] = set()
        for path, operations in self.app.openapi()["paths"].items():
            if compile_path(path)[0].match(scope["path"]):
                methods |= {method.upper() for method in operations}
        if not methods:
            return problem(404, f"There is no {scope['path']} here.")
        methods |= {"OPTIONS", *(["HEAD"] if "GET" in methods else [])}
        return Response(status_code=204, headers={"Allow": ", ".join(sorted(methods))})


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return the app, callable by web pages of these origins; nothing changes if there are none."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["Retry-After", REQUEST_ID, FEEDBACK_TOKEN, *_RATE_HEADERS],
    )
