"""An OpenAI-compatible server in this process that behaves, and misbehaves, as a test says."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = ["The", "price", "of", "everything", "in", "the", "cart.", "[1]"]
USAGE = {"prompt_tokens": 7, "completion_tokens": len(WORDS), "total_tokens": 7 + len(WORDS)}
ENGINE_400 = "Engine says: this prompt is odd."


class ServedApp:
    """An ASGI app behind uvicorn on a free loopback port, in a thread."""

    def __init__(self, app, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host, port), family=family)
        self.url = f"http://{host}:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=2))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the server ended at its start"
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


class ScriptedUpstream:
    """`behaviour` is the name of a method below; `behaviours` are taken from the front first, one a request.

    It answers with `words`; lists in `next_words` are taken first, one an answer.

    `requests` are the bodies that arrived; `running` counts those under way; `abandoned` counts the connections that
    ended before a whole answer, or with a stream; `metrics` is what its `/metrics` returns, "" for an error.
    """

    def __init__(self, name: str = "fake", words: list[str] = WORDS) -> None:
        self.name, self.words = name, words
        self.behaviour, self.behaviours = "answer", []
        self.next_words: list[list[str]] = []
        self.requests: list[dict] = []
        self.abandoned = self.running = 0
        self.metrics = ""
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/health", lambda _: JSONResponse({})),
            Route("/metrics", self._metrics),
        ]
        self.served = ServedApp(Starlette(routes=routes))
        self.url = f"{self.served.url}/v1"

    def close(self) -> None:
        self.served.close()

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def _metrics(self, _: Request) -> Response:
        return PlainTextResponse(self.metrics, 200 if self.metrics else 500)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.running += 1
        name = self.behaviours.pop(0) if self.behaviours else self.behaviour
        watch = asyncio.ensure_future(self._watch(request))
        try:
            return await getattr(self, name)(body)
        finally:
            if not body.get("stream") and not watch.done():
                self.running -= 1
                watch.cancel()

    async def _watch(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.abandoned += 1  # also at the end of a complete stream
        self.running -= 1

    async def answer(self, body: dict) -> Response:
        return self._reply(body)

    async def slow(self, body: dict) -> Response:
        """Begin after 1.5 seconds, or write a word every 0.3 seconds."""
        if not body.get("stream"):
            await asyncio.sleep(1.5)
        return self._reply(body, pause=0.3)

    async def endless(self, body: dict) -> Response:
        if not body.get("stream"):
            await asyncio.sleep(30)
        return self._reply(body, pause=30)

    async def too_many(self, body: dict) -> Response:
        return JSONResponse({"error": {"message": "slow down", "type": "rate_limit", "code": 429}}, 429)

    async def broken(self, body: dict) -> Response:
        return JSONResponse({"error": {"message": "internal route x at 10.0.0.1", "type": "server_error"}}, 500)

    async def refusing(self, body: dict) -> Response:
        return JSONResponse({"error": {"message": ENGINE_400, "type": "BadRequestError", "code": 400}}, 400)

    async def garbage(self, body: dict) -> Response:
        return PlainTextResponse("<html>not JSON</html>", media_type="text/html")

    async def no_choices(self, body: dict) -> Response:
        return JSONResponse({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []})

    async def hangs_up_first(self, body: dict) -> Response:
        return StreamingResponse(self._hang_up(body, []), media_type="text/event-stream")

    async def hangs_up_in_the_middle(self, body: dict) -> Response:
        return StreamingResponse(self._hang_up(body, [*self.words, "And", "more"]), media_type="text/event-stream")

    async def error_in_the_middle(self, body: dict) -> Response:
        return StreamingResponse(self._break(body, [*self.words, "And", "more"]), media_type="text/event-stream")

    def _reply(self, body: dict, pause: float = 0.0) -> Response:
        words = self.next_words.pop(0) if self.next_words else self.words
        if body.get("stream"):
            return StreamingResponse(self._frames(body, words, pause), media_type="text/event-stream")
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**self._head(body, "chat.completion"), "choices": [choice], "usage": USAGE})

    def _head(self, body: dict, kind: str = "chat.completion.chunk") -> dict:
        return {"id": "upstream", "object": kind, "created": int(time.time()), "model": body["model"]}

    def _frame(self, body: dict, delta: dict, finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps({**self._head(body), 'choices': [choice]})}\n\n"

    async def _frames(self, body: dict, words: list[str], pause: float) -> AsyncIterator[str]:
        for word in words:
            await asyncio.sleep(pause)
            yield self._frame(body, {"content": word + " "})
        yield self._frame(body, {}, "stop")
        yield f"data: {json.dumps({**self._head(body), 'choices': [], 'usage': USAGE})}\n\n"
        yield "data: [DONE]\n\n"

    async def _hang_up(self, body: dict, words: list[str]) -> AsyncIterator[str]:
        for word in words:
            yield self._frame(body, {"content": word + " "})
            await asyncio.sleep(0.05)
        # The response was promised in chunks; ending here without the last chunk is a broken connection.
        raise ConnectionResetError("this test server hangs up")

    async def _break(self, body: dict, words: list[str]) -> AsyncIterator[str]:
        for word in words:
            yield self._frame(body, {"content": word + " "})
        yield f"data: {json.dumps({'error': {'message': 'the engine died', 'code': 500}})}\n\n"
