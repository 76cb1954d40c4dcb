"""An OpenAI-compatible server with a fixed number of places: a request takes one for a fixed time, others wait."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.support.fake_engine import free_port

NAME = "paced"
WORDS = ["It", "is", "valid", "for", "three", "years.", "[1]"]
USAGE = {"prompt_tokens": 100, "completion_tokens": len(WORDS), "total_tokens": 100 + len(WORDS)}


def application(places: int, seconds: float):
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    free = asyncio.Semaphore(places)

    async def chat(request: Request) -> Response:
        body = await request.json()
        head = {"id": "x", "created": int(time.time()), "model": NAME}
        if body.get("stream"):
            return StreamingResponse(
                frames({**head, "object": "chat.completion.chunk"}), media_type="text/event-stream"
            )
        async with free:
            await asyncio.sleep(seconds)
        choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(WORDS)}, "finish_reason": "stop"}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": USAGE})

    async def frames(head: dict) -> AsyncIterator[str]:
        async with free:
            for word in WORDS:
                await asyncio.sleep(seconds / len(WORDS))
                choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
                yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
        stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield f"data: {json.dumps({**head, 'choices': [stop]})}\n\n"
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n"

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": NAME, "object": "model"}]})

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models)])


@contextlib.contextmanager
def paced_upstream(places: int, seconds: float, log: Path) -> Iterator[str]:
    """Run the server in a process of its own and yield its URL with `/v1`."""
    port = free_port()
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "tests.support.paced_upstream", str(port), str(places), str(seconds)]
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        url, end = f"http://127.0.0.1:{port}/v1", time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/models", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
        yield url
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    import uvicorn

    served = application(int(sys.argv[2]), float(sys.argv[3]))
    uvicorn.run(served, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
