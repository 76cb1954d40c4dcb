"""A whole gateway over HTTP whose engines are mock servers, one for each released version, for benchmarks.

The registry, the logs, the experiments and the mirroring are real; only the weights are a few bytes and the engines
answer at once: version 1 gives a right answer to 40% of the questions, every other version to 80%.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ragtune.backends.engines import RemoteEngine, free_port
from ragtune.draws import draw
from ragtune.ports import Engine, RunningEngine
from ragtune.settings import load_settings
from ragtune.store.registry import ModelRegistry
from ragtune_serving.deployment import Deployment, Needed, Publisher
from ragtune_serving.gateway import build_app, services_over
from ragtune_serving.grounding import Grounding
from ragtune_serving.keys import KeyStore
from tests.support.releases import released

RIGHT = {"1": 0.4}
RIGHT_OTHERWISE = 0.8
_READY_SECONDS = 600
"""How long the gateway may take to start; chosen by hand for a busy machine."""
_USAGE = {"prompt_tokens": 300, "completion_tokens": 18, "total_tokens": 318}


def mock_home(home: Path, versions: int = 2) -> Path:
    """Release versions with weights of a few bytes into a home; version 1 becomes champion."""
    registry = ModelRegistry(load_settings({"home": home}))
    for number in range(1, versions + 1):
        registry.register(released(home, str(number).encode(), adapter_sha256=str(number), seed=number))
    registry.move("champion", "1")
    return home


class MockEngine(Engine):
    """Starts mock servers in threads; `right` maps a question to its accepted answers."""

    def __init__(self, right: Mapping[str, Sequence[str]]) -> None:
        self.right = right
        self.servers: list[ServedApp] = []

    def launch(self, model: Path, name: str, at_once: int = 1) -> RunningEngine:  # noqa: ARG002 the interface's
        """Start a server that answers as the version in the name does."""
        version = name.removeprefix("ragtune-v").partition("-")[0]
        self.servers.append(ServedApp(_engine(name, version, self.right)))
        return RemoteEngine(f"{self.servers[-1].url}/v1", "none", name, Path("mock.log"))

    @contextlib.contextmanager
    def running(self, model: Path, name: str, at_once: int = 1) -> Iterator[RunningEngine]:
        """Start a server for the length of a `with` block."""
        yield self.launch(model, name, at_once)


class ServedApp:
    """An ASGI app behind uvicorn on a free port, in a thread."""

    def __init__(self, app: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="error", ws="none"))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        """End the server."""
        self.server.should_exit = True
        self.thread.join()


class Mocked:
    """The gateway of a mock home; use it in a `with` block.

    `engine` replaces the one that answers by `right`. Further keyword arguments are sections of the settings.
    """

    def __init__(
        self, home: Path, right: Mapping[str, Sequence[str]], engine: MockEngine | None = None, **sections: Any
    ) -> None:
        sections = {"experiments": {"look_seconds": 0.5}, "gateway": {"poll_seconds": 0.2}, **sections}
        self.settings = load_settings({"home": home, **sections})
        self.registry, self.engine = ModelRegistry(self.settings), engine or MockEngine(right)
        keys = KeyStore(home / "keys")
        keys.ensure()
        self.key = keys.client_key()
        # Without an index, so that all time is that of the gateway itself.
        without_index = Grounding(self.settings, lambda: SimpleNamespace(index=SimpleNamespace(versions=list)))  # type: ignore[arg-type, return-value]
        base = home / "base"
        base.mkdir(exist_ok=True)

        def engines(publisher: Publisher, needed: Needed) -> Deployment:
            return Deployment(
                self.settings, self.engine, self.registry, lambda: (base, "bf16"), publisher, needed=needed
            )

        self.services = services_over(self.settings, without_index, self.registry, engines)
        self.served = ServedApp(build_app(self.services, self.settings, keys))
        self.url = self.served.url

    def champion(self) -> str | None:
        """Return the champion's version."""
        return self.registry.alias_version("champion")

    def __enter__(self) -> "Mocked":
        end = time.monotonic() + _READY_SECONDS
        try:
            while httpx.get(f"{self.url}/health/readiness", timeout=_READY_SECONDS).status_code != httpx.codes.OK:
                if time.monotonic() > end:
                    raise SystemExit("The gateway did not become ready.")
                time.sleep(0.1)
        except BaseException:
            self.close()  # its threads would keep the process alive
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the gateway and its engines."""
        self.served.close()
        for server in self.engine.servers:
            server.close()


def _engine(name: str, version: str, right: Mapping[str, Sequence[str]]) -> Starlette:
    """Return an OpenAI-compatible server that gives the right answer to a fixed share of the questions."""
    share = RIGHT.get(version, RIGHT_OTHERWISE)

    async def chat(request: Request) -> Response:
        body = await request.json()
        question = body["messages"][-1]["content"]
        accepted = next((answers for text, answers in right.items() if text in question), ())
        good = accepted and draw(0, version, question) < share
        content = f"The answer is {accepted[0]}." if good else "It depends on the weather."
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        head = {"id": "mock", "object": "chat.completion", "created": int(time.time()), "model": body["model"]}
        if not body.get("stream"):
            return JSONResponse({**head, "choices": [choice], "usage": _USAGE})
        delta = {"index": 0, "delta": {"content": content}, "finish_reason": "stop"}
        chunks = [{**head, "object": "chat.completion.chunk", "choices": [delta], "usage": _USAGE}]
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        return Response(text, media_type="text/event-stream")

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"}]})

    routes = [Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models)]
    return Starlette(routes=[*routes, Route("/health", models)])
