"""Sends an answer over HTTP, whole or as server-sent events, and stops generating when the client goes away."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Send

from ragtune.errors import RagTuneError
from ragtune_serving.answer_parts import AnswerParts, Closing, Delta
from ragtune_serving.problems import error_body
from ragtune_serving.schema import (
    Annotation,
    ChatRequest,
    ChatResponse,
    Choice,
    CitedPassage,
    ReplyMessage,
    UrlCitation,
)

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class ClientGone(Exception):  # noqa: N818 - not a failure
    """The client closed the connection before the answer was complete."""


class EventStream(StreamingResponse):
    """Server-sent events whose source is closed in every case, also if the client goes away."""

    def __init__(self, events: AsyncGenerator[str, None], headers: Mapping[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", **headers})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send the events; close their source, which ends the generation."""
        async with aclosing(self._events):
            await super().stream_response(send)


async def until_disconnect(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of the work; cancel it and raise ClientGone if the client closes the connection before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def respond(
    request: Request, body: ChatRequest, response_id: str, answer: AnswerParts, headers: Mapping[str, str]
) -> Response:
    """Return the response for an answer. Errors before its first part are raised, later ones end the stream.

    `headers` are read after the first part.
    """
    if not body.stream:
        whole = await until_disconnect(request, _whole(body, response_id, answer))
        return Response(whole, media_type="application/json", headers=dict(headers))
    # The first part decides about the status, so that a client sees an error as such.
    first = await until_disconnect(request, anext(answer))
    return EventStream(_events(body, response_id, first, answer), headers)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(body: ChatRequest, response_id: str, answer: AnswerParts) -> str:
    texts: list[str] = []
    closing: Closing | None = None
    async with aclosing(answer):
        async for part in answer:
            if isinstance(part, Delta):
                texts.append(part.text)
            else:
                closing = part
    assert closing is not None, "an answer without an error ends with its closing"
    message = ReplyMessage(content="".join(texts), annotations=_annotations(closing.ragtune.citations))
    choice = Choice(message=message, finish_reason=closing.finish_reason)
    return ChatResponse(
        id=response_id,
        created=int(time.time()),
        model=body.model,
        choices=[choice],
        usage=closing.usage,
        ragtune=closing.ragtune,
    ).model_dump_json()


def _annotations(citations: Sequence[CitedPassage]) -> list[Annotation]:
    return [
        Annotation(url_citation=UrlCitation(start_index=start, end_index=end, title=citation.title, url=citation.url))
        for citation in citations
        if citation.url
        for start, end in citation.spans
    ]


async def _events(
    body: ChatRequest, response_id: str, first: Delta | Closing, answer: AnswerParts
) -> AsyncGenerator[str, None]:
    """Yield server-sent events: a chunk per part, with `finish_reason` null until the closing one, then `[DONE]`."""
    head = {"id": response_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": body.model}
    wants_usage = bool(body.stream_options and body.stream_options.include_usage)
    if wants_usage:
        head["usage"] = None

    def chunk(delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**head, "choices": [choice], **more})

    part: Delta | Closing = first
    async with aclosing(answer):
        yield chunk({"role": "assistant", "content": ""})
        try:
            while isinstance(part, Delta):
                yield chunk({"content": part.text})
                part = await anext(answer)
        except RagTuneError as error:
            logger.warning("an answer broke off: %s", error)
            yield _event(error_body(503, str(error)))
            return
        except Exception:
            logger.exception("an answer broke off")
            yield _event(error_body(500, "The gateway failed. See its log in RAGTUNE_HOME/logs."))
            return
        result = part.ragtune.model_dump()
        yield chunk({}, part.finish_reason, ragtune=result)
        if wants_usage:
            yield _event({**head, "choices": [], "usage": part.usage.model_dump(), "ragtune": result})
        yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
