"""A small OpenAI-compatible server and an `Engine` that starts it as a process.

It answers with the first line of the first passage in the prompt, so that a test sees what
the gateway really sent. Any OpenAI-compatible server is a legitimate back end.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ragtune.errors import EngineError
from ragtune.ports import ChatModel, Engine, RunningEngine

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

KEY = "fake-engine-key"


def reply(model: str, messages: list[dict[str, str]]) -> str:
    question = messages[-1]["content"]
    if "UNKNOWN" in question:
        return "I could not find this in the documents."
    if "[1]" in question:
        title, first = question.split("[1] ", 1)[1].split("\n")[:2]
        if "MISCOUNT" in question:
            return f"{first} [2]"
        return f"{title} says: {first} [1]"
    if "(no passages" in question:
        return "I could not find this in the documents."
    return f"{model} answers from memory."


def application(name: str, key: str = KEY, pause: float = 0.0) -> "Starlette":
    """Return the server; it waits `pause` seconds before each word of an answer."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def chat(request: "Request") -> "Response":
        if request.headers.get("authorization") != f"Bearer {key}":
            return JSONResponse({"error": {"message": "wrong key"}}, 401)
        body = await request.json()
        text = reply(name, body["messages"])
        usage = {"prompt_tokens": 7, "completion_tokens": len(text.split()), "total_tokens": 7 + len(text.split())}
        head = {"id": "upstream", "created": int(time.time()), "model": body["model"]}
        if "CRASH" in body["messages"][-1]["content"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if not body.get("stream"):
            await asyncio.sleep(pause * len(text.split()))
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

        async def frames() -> AsyncIterator[str]:
            head["object"] = "chat.completion.chunk"
            for word in text.split(" "):
                await asyncio.sleep(pause)
                choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
                yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
            choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
            if (body.get("stream_options") or {}).get("include_usage"):
                yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(frames(), media_type="text/event-stream")

    async def models(_: "Request") -> "Response":
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"}]})

    async def health(_: "Request") -> "Response":
        return JSONResponse({})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ]
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RunningFake(RunningEngine):
    def __init__(self, model_name: str, log_path: Path) -> None:
        port = free_port()
        self.url, self.api_key, self.model_name, self.log_path = f"http://127.0.0.1:{port}", KEY, model_name, log_path
        with log_path.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, __file__, str(port), model_name], stdout=log, stderr=log)
        end = time.monotonic() + 120  # a busy machine
        while not self.alive():
            if self.process.poll() is not None or time.monotonic() > end:
                raise EngineError(f"The test engine did not start: {log_path.read_text()}")
            time.sleep(0.05)

    def chat(self) -> ChatModel:
        raise NotImplementedError

    def alive(self) -> bool:
        if self.process.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def memory_bytes(self) -> int:
        return 0

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class FakeEngine(Engine):
    """Starts the server; a folder named `broken` does not start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launched: list[RunningFake] = []

    def launch(self, model: Path, name: str, at_once: int = 1) -> RunningFake:
        if model.name == "broken" or (model / "broken").exists():
            raise EngineError("This model is broken.")
        self.launched.append(RunningFake(name, self.folder / "engine.log"))
        return self.launched[-1]

    @contextlib.contextmanager
    def running(self, model: Path, name: str, at_once: int = 1) -> Iterator[RunningFake]:
        running = self.launch(model, name, at_once)
        try:
            yield running
        finally:
            running.stop()


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(application(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
