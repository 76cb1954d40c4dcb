"""The gateway: LiteLLM's proxy app behind our documented routes, with engines and retrieval.

This is the composition root of the serving wing: it alone chooses back ends.
"""

import asyncio
import logging
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response

from ragtune.errors import ResourceError
from ragtune.knowledge.retrieval import Retriever
from ragtune.ports import RunningEngine
from ragtune.settings import Settings, prepare_process
from ragtune.store.artifacts import ArtifactStore, write_json
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune_serving.address import check_port, endpoint_file
from ragtune_serving.api import OPEN_PATHS, build_api
from ragtune_serving.deployment import Deployment
from ragtune_serving.grounding import Grounding
from ragtune_serving.keys import KeyStore, bearer
from ragtune_serving.metrics import Metrics
from ragtune_serving.problems import problem
from ragtune_serving.processes import ctrl_c_is_off, how_to_stop
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.routes import Services

_LARGEST_BODY = 4 << 20
"""Bytes of a request. Chosen by hand: a prompt of 8,192 tokens is some 40 KiB, so this only stops abuse."""
_DRAIN_SECONDS = 10
"""How long uvicorn waits for open answers when the gateway stops; chosen by hand, not sensitive."""
_PUBLISH_SECONDS = 30
"""How long an engine's thread waits for the event loop to change the router; chosen by hand, not sensitive."""
SignalHandler = Callable[[int, FrameType | None], None]
logger = logging.getLogger(__name__)


class Guard:
    """Refuses requests without an accepted key; health checks and the API description need none."""

    def __init__(self, app: Callable[..., Awaitable[None]], keys: KeyStore) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer 401 before reading the request's body."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        path = scope["path"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        scope["ragtune_user"] = self.keys.user(bearer(headers.get("authorization", "")))
        refusal: Response | None = None
        if not scope["ragtune_user"] and path not in OPEN_PATHS and not path.startswith("/docs/"):
            message = (
                "The key is missing or not accepted. Send 'Authorization: Bearer KEY'; the local key is in "
                "RAGTUNE_HOME/keys/client.key."
            )
            refusal = problem(401, message, headers={"WWW-Authenticate": "Bearer"})
        elif int(headers.get("content-length", "0") or 0) > _LARGEST_BODY:
            refusal = problem(400, f"The body is larger than {_LARGEST_BODY >> 20} MiB.")
        await (refusal or self.app)(scope, receive, send)


class RouterPublisher:
    """Adds engines to LiteLLM's router and removes them, from any thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None

    def publish(self, route: str, running: RunningEngine | None) -> None:
        """Send requests for this route to this engine; remove the route if it is None. Returns when that is done."""
        if self.loop is None or self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._apply(route, running), self.loop).result(_PUBLISH_SECONDS)

    async def _apply(self, route: str, running: RunningEngine | None) -> None:
        from litellm.proxy import proxy_server
        from litellm.types.router import Deployment as RouterDeployment
        from litellm.types.router import LiteLLM_Params, ModelInfo

        if running is None:
            proxy_server.llm_router.delete_deployment(id=route)
            return
        params = LiteLLM_Params(
            model=f"openai/{running.model_name}", api_base=running.url, api_key=running.api_key or "none"
        )
        proxy_server.llm_router.upsert_deployment(
            RouterDeployment(model_name=route, litellm_params=params, model_info=ModelInfo(id=route))
        )


def build_services(settings: Settings, publisher: RouterPublisher) -> Services:
    """Return the services of the gateway, with the back ends that the settings name."""
    from ragtune.backends.catalog import engine_from, line_similarity_from, retriever_from
    from ragtune.model.base.pretrained import resolve_base_model

    store = ArtifactStore(settings.home / "artifacts")
    # Two threads that import transformers at the same moment break its lazy modules.
    loading = threading.Lock()

    def base() -> Path:
        with loading:
            ref = store.current("base_model") or resolve_base_model(settings.base_model, store)
        return store.folder(ref)

    similarity = line_similarity_from(settings)

    def open_retriever() -> Retriever:
        with loading:
            retriever = retriever_from(settings)
            for embedder in {retriever.embedder, similarity.embedder}:
                embedder.embed(["warm up"])
        return retriever

    deployment = Deployment(settings, engine_from(settings), ModelRegistry(settings), base, publisher)
    grounding = Grounding(settings, open_retriever, similarity)
    return Services(
        deployment, grounding, FeedbackLog(settings.feedback_url), Metrics(), time.time(), ReviewDesk(settings)
    )


def build_app(settings: Settings, keys: KeyStore) -> Guard:
    """Return the whole gateway as an ASGI app; its lifespan starts and stops the engines."""
    write_json(settings.home / "gateway" / "litellm.json", _PROXY_CONFIG)
    prepare_process(
        CONFIG_FILE_PATH=str(settings.home / "gateway" / "litellm.json"),
        LITELLM_MASTER_KEY=f"sk-{secrets.token_urlsafe(32)}",
        LITELLM_LOG="ERROR",
    )
    import litellm
    from litellm.proxy import proxy_server

    from ragtune_serving.hooks import AnsweringHooks

    publisher = RouterPublisher()
    services = build_services(settings, publisher)
    hooks = AnsweringHooks(services.deployment, services.grounding, services.log, services.metrics, settings.seed)
    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    litellm.callbacks.append(hooks)
    proxy_server.user_custom_auth = _authenticate_with(keys)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Any]:
        async with proxy_server.app.router.lifespan_context(proxy_server.app) as state:
            proxy_server.llm_router = proxy_server.llm_router or litellm.Router(model_list=[], num_retries=0)
            publisher.loop = asyncio.get_running_loop()
            services.grounding.start()
            services.deployment.start()
            try:
                yield state
            finally:
                services.grounding.stop()
                await asyncio.to_thread(services.deployment.stop)
                services.log.close()
                services.reviews.reviews.close()

    return Guard(build_api(services, proxy_server.app, lifespan), keys)


def _authenticate_with(keys: KeyStore) -> Callable[..., Awaitable[Any]]:
    async def authenticate(request: Request, api_key: str) -> Any:  # noqa: ARG001
        from litellm.proxy._types import UserAPIKeyAuth

        name = keys.user(api_key.removeprefix("Bearer ").strip())
        if not name:
            raise HTTPException(401, "The key is missing or not accepted.")
        return UserAPIKeyAuth(user_id=name)

    return authenticate


# No retries and no cooldowns: an engine that fails is restarted here, and the client hears of it at once.
_PROXY_CONFIG = {
    "model_list": [],
    "litellm_settings": {"num_retries": 0, "request_timeout": 600, "telemetry": False, "drop_params": True},
    "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    "general_settings": {"disable_model_info_refresh": True, "store_model_in_db": False},
}


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; raise ResourceError if the port is in use or the home is served already."""
    import uvicorn
    from filelock import FileLock, Timeout

    endpoint = endpoint_file(settings)
    endpoint.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.home / "gateway" / "serve.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ResourceError(
            f"Another gateway already serves {settings.home}.",
            fix="stop the other `ragtune serve`, or set RAGTUNE_HOME to another folder",
        ) from error
    with lock:
        check_port(settings.gateway.host, settings.gateway.port, "gateway.port")
        keys = KeyStore(settings.home / "keys")
        _show_once(keys.ensure())
        app = build_app(settings, keys)
        listener = socket.create_server((settings.gateway.host, settings.gateway.port))
        host, port = listener.getsockname()[:2]
        write_json(endpoint, {"url": f"http://{host}:{port}"})
        sys.stderr.write(f"Gateway at http://{host}:{port}/v1 (API: http://{host}:{port}/docs)\n")
        # After its shutdown uvicorn raises the signal again. Python's default for SIGTERM would end the process
        # there, without reaching `finally`.
        signal.signal(signal.SIGTERM, _exit)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_DRAIN_SECONDS, ws="none"
        )
        server = uvicorn.Server(config)
        sys.stderr.write(how_to_stop("the gateway") + "\n")
        if ctrl_c_is_off():
            server.handle_exit = _except_ctrl_c(server.handle_exit)  # type: ignore[assignment, method-assign]
        try:
            server.run(sockets=[listener])
        finally:
            endpoint.unlink(missing_ok=True)


def _except_ctrl_c(handle: SignalHandler) -> SignalHandler:
    """Return a signal handler that ignores SIGINT: uvicorn would otherwise handle it though it was ignored before."""

    def handle_others(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            handle(number, frame)

    return handle_others


def _exit(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(0)


def _show_once(key: str) -> None:
    """Print a new key if stderr is a terminal; never write it to a file or pipe."""
    if key and sys.stderr.isatty():
        sys.stderr.write(f"Your API key, shown once: {key}\n")
