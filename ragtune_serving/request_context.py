"""What belongs to one HTTP request and is needed far from it: its id, its times, what may be logged of it."""

import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragtune_serving.times import Times

HEADER = "x-request-id"
"""The header in which a client may send an id, and in which every response has one."""
_VALID_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
"""Ids that are taken over from a client; any other could forge lines of a log."""


@dataclass(slots=True)
class RequestContext:
    """One request.

    `traceparent` is the header of the same name, by which the spans of a client and ours become one trace. `fields`
    are plain values for the log and for spans. `started` is a time of `perf_counter`. `status` is 0 until the response
    begins.
    """

    id: str = ""
    method: str = ""
    path: str = ""
    traceparent: str = ""
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    times: Times = field(default_factory=Times)
    fields: dict[str, Any] = field(default_factory=dict)


_CURRENT: ContextVar[RequestContext | None] = ContextVar("ragtune_request", default=None)
Observer = Callable[[RequestContext, float], None]
"""Called at the end of a request with its duration in seconds."""


def current_request() -> RequestContext:
    """Return the request that this code runs for; outside of one, an empty context that nobody reads."""
    return _CURRENT.get() or RequestContext()


class RequestContexts:
    """Gives every request its context and every response its id, and calls the observers at the end."""

    def __init__(self, app: ASGIApp, *observers: Observer) -> None:
        self.app, self._observers = app, observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = RequestContext(
            id=_request_id(headers.get(HEADER, "")),
            method=scope["method"],
            path=scope["path"],
            traceparent=headers.get("traceparent", ""),
        )

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request.id
            await send(message)

        token = _CURRENT.set(request)
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            _CURRENT.reset(token)
            for observe in self._observers:
                observe(request, time.perf_counter() - request.started)


def _request_id(sent: str) -> str:
    return sent if _VALID_ID.fullmatch(sent) else f"req-{uuid.uuid4().hex}"
