"""The gateway: our documented routes over engines and retrieval.

This is the composition root of the serving wing: it alone chooses back ends.
"""

import asyncio
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType

from fastapi import FastAPI
from starlette.types import ASGIApp

from ragtune.errors import ModelError, ResourceError
from ragtune.knowledge.retrieval import Retriever
from ragtune.ports import Progress
from ragtune.settings import Settings, prepare_process
from ragtune.store.artifacts import ArtifactStore, write_json
from ragtune.store.experiments import ExperimentStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune.store.shadows import ShadowStore
from ragtune_serving.address import check_port, endpoint_file, http_url, listen
from ragtune_serving.api import build_api
from ragtune_serving.audit import Audited, AuditLog
from ragtune_serving.chat import ChatService
from ragtune_serving.console.app import with_console
from ragtune_serving.deployment import Deployment, Engines, Needed, Publisher
from ragtune_serving.experiment_control import ExperimentControl
from ragtune_serving.experiment_traffic import ExperimentTraffic
from ragtune_serving.feedback_tokens import FeedbackTokens
from ragtune_serving.grounding import Grounding
from ragtune_serving.guard import Guard, with_cors
from ragtune_serving.keys import KeyStore
from ragtune_serving.ledgers import ledger_from
from ragtune_serving.limits import Limits
from ragtune_serving.logs import log_request
from ragtune_serving.metrics import Metrics
from ragtune_serving.processes import ctrl_c_is_off, how_to_stop, limit_arenas
from ragtune_serving.recorder import ResponseRecorder
from ragtune_serving.request_context import RequestContexts
from ragtune_serving.response_cache import cache_from
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.routes import Services
from ragtune_serving.routing import EngineRouter
from ragtune_serving.scrape import show_load
from ragtune_serving.shadowing import Shadowing
from ragtune_serving.shared_engines import Announcer, FollowedDeployment, SharedEngines
from ragtune_serving.studies import StudyDesk
from ragtune_serving.tracing import Tracer
from ragtune_serving.workers import metrics_folder, run_workers

_DRAIN_SECONDS = 10
"""How long uvicorn waits for open answers when the gateway stops; chosen by hand, not sensitive."""
_GAUGE_SECONDS = 1.0
"""Between two updates of the gauges of one worker; Prometheus asks every 15 seconds or so. Chosen by hand."""
_START_NOTICE_SECONDS = 10.0
"""Between two lines while an engine starts, which takes half a minute and more on a CPU. Chosen by hand."""
SignalHandler = Callable[[int, FrameType | None], None]
logger = logging.getLogger(__name__)


def build_services(settings: Settings, shared: SharedEngines | None = None) -> Services:
    """Return the services of the gateway, with the back ends that the settings name.

    With `shared` it is a worker, which uses the engines of another process.
    """
    from ragtune.backends.catalog import evidence_from, line_similarity_from, retriever_from

    # Two threads that import transformers at the same moment break its lazy modules.
    loading = threading.Lock()
    similarity, evidence = line_similarity_from(settings), evidence_from(settings)

    def open_retriever() -> Retriever:
        logger.info("loading the models that search and check answers")
        with loading:
            retriever = retriever_from(settings)
            for embedder in {retriever.embedder, similarity.embedder}:
                embedder.embed(["warm up"])
            evidence.probabilities("warm up", ["warm up"])
        return retriever

    def engines(publisher: Publisher, needed: Needed) -> Engines:
        return FollowedDeployment(shared, publisher) if shared else _deployment(settings, publisher, needed, loading)

    grounding = Grounding(settings, open_retriever, similarity, evidence)
    folder = metrics_folder(settings) if shared else None
    return services_over(settings, grounding, ModelRegistry(settings), engines, folder)


def services_over(
    settings: Settings,
    grounding: Grounding,
    registry: ModelRegistry,
    engines: Callable[[Publisher, Needed], Engines],
    shared_metrics: Path | None = None,
) -> Services:
    """Return the services of the gateway over these back ends.

    `engines` returns the engines that publish their routes to the router; it gets what returns the versions that an
    experiment needs. `shared_metrics` is the folder in which several workers count together.
    """
    # uvicorn, which vLLM runs on, closes a connection that was idle for 5 seconds. LiteLLM would keep it for 120, and a
    # request that is sent at that moment fails. Under load a connection is used again within milliseconds anyway.
    prepare_process(LITELLM_LOG="ERROR", AIOHTTP_KEEPALIVE_TIMEOUT="1")
    router = EngineRouter(settings.gateway)
    for name in ("LiteLLM", "LiteLLM Router"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    log, metrics = FeedbackLog(settings.feedback_url), Metrics(shared_metrics)
    traffic, shadowing = _followers(settings)
    deployment = engines(router, lambda: (*traffic.versions(), *shadowing.versions()))
    recorder = ResponseRecorder(log)
    cache, studies = cache_from(settings), StudyDesk(settings)
    return Services(
        chat=ChatService(settings, deployment, grounding, router, recorder, metrics, traffic, shadowing, cache),
        deployment=deployment,
        grounding=grounding,
        log=log,
        recorder=recorder,
        ledger=ledger_from(settings),
        limits=Limits(**settings.gateway.limits.model_dump()),
        metrics=metrics,
        started=time.time(),
        reviews=ReviewDesk(settings),
        experiments=ExperimentControl(settings, traffic.store, shadowing.store, log, registry, studies.store),
        tokens=FeedbackTokens(settings.home / "keys"),
        studies=studies,
    )


def _followers(settings: Settings) -> tuple[ExperimentTraffic, Shadowing]:
    """Return what follows the logs of experiments and of shadow deployments."""
    url, poll_seconds = settings.feedback_url, settings.gateway.poll_seconds
    shadowing = Shadowing(ShadowStore(url), poll_seconds, settings.gateway.workers)
    return ExperimentTraffic(ExperimentStore(url), poll_seconds), shadowing


def _deployment(
    settings: Settings,
    publisher: Publisher,
    needed: Needed,
    loading: AbstractContextManager[object] | None = None,
    held: Callable[[str], bool] | None = None,
) -> Deployment:
    """Return the engines of this process; `loading` is held while the base model is loaded."""
    from ragtune.backends.catalog import engine_from
    from ragtune.backends.served_base import served_base
    from ragtune.model.base.pretrained import resolve_base_model

    store = ArtifactStore(settings.home / "artifacts")

    def base() -> tuple[Path, str]:
        with loading or nullcontext():
            ref = store.current("base_model") or resolve_base_model(settings.base_model, store, _log_progress)
        try:
            return served_base(settings, store, ref, _log_progress)
        except ModelError as error:  # slower answers are better than none; the precision is in the status
            logger.error("%s; it is served as it is", error.found)
            return store.folder(ref), "bf16"

    engine, registry = engine_from(settings, progress_logger()), ModelRegistry(settings)
    return Deployment(settings, engine, registry, base, publisher, needed=needed, held=held)


def _log_progress(what: str, done: int, total: int) -> None:  # noqa: ARG001 the interface's
    if not done:
        logger.info("%s", what)


def progress_logger(every: float = _START_NOTICE_SECONDS) -> Progress:
    """Return a progress callback for the start of an engine: it logs a line every few seconds."""
    last_lines: dict[str, float] = {}

    def log(what: str, done: int, total: int) -> None:
        before = last_lines.setdefault(what, time.monotonic())
        if total > 1 and time.monotonic() - before >= every:
            last_lines[what] = time.monotonic()
            logger.info("%s: %d s so far, at most %d s", what, done, total)

    return log


def build_app(services: Services, settings: Settings, keys: KeyStore) -> ASGIApp:
    """Return the whole gateway as an ASGI app; its lifespan starts and stops the engines."""
    gateway = settings.gateway
    tracer = Tracer(gateway.traces_url) if gateway.traces_url else None
    observers = [log_request, *([tracer.record] if tracer else [])]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.chat.router.start()
        services.grounding.start()
        await asyncio.to_thread(services.chat.traffic.start)
        await asyncio.to_thread(services.chat.shadowing.start)
        services.deployment.start()
        services.experiments.start()
        gauges = asyncio.ensure_future(_show_load(services))
        ready = asyncio.ensure_future(_announce_ready(services))
        mirroring = asyncio.create_task(services.chat.shadowing.work(services.deployment, services.chat.router))
        try:
            yield
        finally:
            gauges.cancel()
            ready.cancel()
            mirroring.cancel()
            with suppress(asyncio.CancelledError):
                await mirroring
            await asyncio.to_thread(services.chat.shadowing.stop)
            await asyncio.to_thread(services.grounding.stop)
            await asyncio.to_thread(services.experiments.stop)
            await asyncio.to_thread(services.deployment.stop)
            await asyncio.to_thread(services.chat.traffic.stop)
            await services.chat.router.stop()
            if services.chat.cache is not None:
                await services.chat.cache.close()
            await asyncio.to_thread(services.recorder.close)
            await services.ledger.close()
            services.log.close()
            services.chat.traffic.store.close()
            services.chat.shadowing.store.close()
            services.reviews.close()
            services.studies.close()
            if tracer is not None:
                await asyncio.to_thread(tracer.close)

    guarded = Guard(build_api(services, lifespan), keys, services.tokens)
    observed = RequestContexts(guarded, *observers)
    console = with_console(with_cors(observed, gateway.cors_origins), observed, services, settings, keys)
    return Audited(console, AuditLog(settings.home))


async def _show_load(services: Services) -> None:
    """Keep the gauges of this worker up to date, because another one may be asked for metrics."""
    while True:
        show_load(services.metrics, services.deployment, services.grounding, services.recorder)
        await asyncio.sleep(_GAUGE_SECONDS)


async def _announce_ready(services: Services) -> None:
    """Log once that questions are answered from now on, and from what."""
    while not (services.grounding.settled and (live := services.deployment.live) and live.ready):
        await asyncio.sleep(_GAUGE_SECONDS)
    source = "from the documents" if services.grounding.present else "without documents, because there is no index yet"
    logger.info("ready: questions are answered %s by model version %s", source, live.model.version)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; raise ResourceError if the port is in use or the home is served already."""
    from filelock import FileLock, Timeout

    limit_arenas()
    endpoint = endpoint_file(settings)
    endpoint.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.home / "gateway" / "serve.lock", timeout=1)
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
        listener = listen(settings.gateway.host, settings.gateway.port)
        url = http_url(*listener.getsockname()[:2])
        write_json(endpoint, {"url": url})
        sys.stderr.write(f"Gateway at {url}/v1 (console: {url}/console, API: {url}/docs)\n")
        sys.stderr.write(how_to_stop("the gateway") + "\n")
        try:
            if settings.gateway.workers > 1:
                shared = SharedEngines(settings.home / "gateway")
                announcer = Announcer(shared)
                traffic, shadowing = _followers(settings)
                traffic.start()
                shadowing.start()

                def needed() -> tuple[str, ...]:
                    return (*traffic.versions(), *shadowing.versions())

                deployment = _deployment(settings, announcer, needed, held=shared.held)
                run_workers(settings, listener, deployment, announcer, shared)
                traffic.stop()
                shadowing.stop()
            else:
                run_app(build_app(build_services(settings), settings, keys), listener)
        finally:
            endpoint.unlink(missing_ok=True)


def run_app(app: ASGIApp, listener: socket.socket) -> None:
    """Answer requests in this process until SIGINT or SIGTERM."""
    import uvicorn

    # After its shutdown uvicorn raises the signal again. Python's default for SIGTERM would end the process
    # there, without reaching `finally`.
    signal.signal(signal.SIGTERM, _exit)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_DRAIN_SECONDS, ws="none"
    )
    server = uvicorn.Server(config)
    if ctrl_c_is_off():
        server.handle_exit = _except_ctrl_c(server.handle_exit)  # type: ignore[assignment, method-assign]
    server.run(sockets=[listener])


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
