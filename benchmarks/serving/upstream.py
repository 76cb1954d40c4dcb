"""The two servers that the gateway is compared with: a mock engine, and LiteLLM's router alone in front of it.

    python -m benchmarks.serving.upstream engine PORT
    python -m benchmarks.serving.upstream router PORT ENGINE_URL

The engine answers at once with a fixed text, so that all the time measured is overhead.
"""

import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TEXT = "The setting is read when the gateway starts, and its default is two seconds. [1]"
USAGE = {"prompt_tokens": 300, "completion_tokens": 18, "total_tokens": 318}
MODEL = "mock"


def engine() -> Starlette:
    """Return an OpenAI-compatible server with a fixed answer."""

    async def chat(request: Request) -> Response:
        body = await request.json()
        head = {"id": "mock", "created": int(time.time()), "model": body["model"]}
        if body.get("stream"):
            return StreamingResponse(
                frames({**head, "object": "chat.completion.chunk"}), media_type="text/event-stream"
            )
        message = {"role": "assistant", "content": TEXT}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": USAGE})

    async def frames(head: dict[str, Any]) -> AsyncIterator[str]:
        for word in TEXT.split():
            choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
        yield f"data: {json.dumps({**head, 'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]})}\n\n"
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n"

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    return Starlette(
        routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models)],
    )


def router(url: str) -> Starlette:
    """Return a server that passes each request through LiteLLM's router and does nothing else."""
    import litellm

    litellm.suppress_debug_info = True
    deployment = {
        "model_name": MODEL,
        "litellm_params": {"model": f"openai/{MODEL}", "api_base": url, "api_key": "none"},
    }
    through = litellm.Router(model_list=[deployment], num_retries=0)

    async def chat(request: Request) -> Response:
        body = await request.json()
        fields = {name: value for name, value in body.items() if name not in ("model", "messages")}
        answer = await through.acompletion(model=MODEL, messages=body["messages"], **fields)
        if body.get("stream"):
            return StreamingResponse(frames(answer), media_type="text/event-stream")
        return JSONResponse(answer.model_dump())

    async def frames(answer: Any) -> AsyncIterator[str]:
        async for chunk in answer:
            yield f"data: {chunk.model_dump_json()}\n\n"
        yield "data: [DONE]\n\n"

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


if __name__ == "__main__":
    from ragtune.settings import prepare_process

    prepare_process(LITELLM_LOG="ERROR")
    served = engine() if sys.argv[1] == "engine" else router(sys.argv[3])
    uvicorn.run(served, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
