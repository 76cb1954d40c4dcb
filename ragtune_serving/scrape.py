"""What `GET /metrics` returns: the gateway's own metrics, and those of its engines under the same scrape.

Each series of an engine gets the labels `role` and `model_version`. An engine that does not answer costs the scrape
a second and its series, nothing else: `ragtune_engine_scraped` is 0 then.
"""

import logging
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ragtune_serving.deployment import Engines
from ragtune_serving.engine import EngineAddress, ServingEngine
from ragtune_serving.gpu import gpu_memory
from ragtune_serving.grounding import Grounding
from ragtune_serving.metrics import EngineState, Metrics
from ragtune_serving.recorder import ResponseRecorder
from ragtune_serving.refused_champion import refused_champion

WORKER = "ragtune_serving.worker"
"""The module that a worker of the gateway runs."""
_SECONDS = 1.0
"""How long an engine may take to return its metrics. Chosen by hand: a scrape itself may take 10 s by default."""
_LARGEST = 8 << 20
"""Bytes of an engine's metrics; vLLM's are some 100 KiB."""
_NOT_THE_MODELS = ("python_", "process_", "http_", "ragtune_", "gen_ai_")
"""Beginnings of names that say nothing about the model: the engine's interpreter and web framework; and our own."""
logger = logging.getLogger(__name__)


def scrape(
    metrics: Metrics, deployment: Engines, grounding: Grounding, recorder: ResponseRecorder, *, of_engines: bool
) -> bytes:
    """Return all metrics in Prometheus' text format; `of_engines` adds the engines' own. It blocks up to seconds."""
    states, texts = [], {}
    for role, engine in deployment.engines().items():
        text = _metrics_of(engine.address) if of_engines and engine.address else None
        if text is not None:
            texts[role, engine.model.version] = text
        states.append(_state(role, engine, (text is not None) if of_engines else None))
    metrics.show_engines(states, refuses_champion=refused_champion(deployment.status()) is not None)
    metrics.show_memory(_resident(), gpu_memory())
    show_load(metrics, deployment, grounding, recorder)
    return metrics.text() + engine_text(texts)


def show_load(metrics: Metrics, deployment: Engines, grounding: Grounding, recorder: ResponseRecorder) -> None:
    """Set the gauges that each worker has a part of: its requests, and what waits in it."""
    states = [_state(role, engine, None) for role, engine in deployment.engines().items()]
    metrics.show_load(states, {"search": grounding.waiting, "log": recorder.pending}, recorder.dropped)


def engine_text(texts: Mapping[tuple[str, str], str]) -> bytes:
    """Return the metrics of several engines as one text, each series with the labels of its engine.

    Args:
        texts: {(role, model version): metrics in Prometheus' text format}.
    """
    registry = CollectorRegistry()
    registry.register(_Families(merged_families(texts)))
    return generate_latest(registry)


def merged_families(texts: Mapping[tuple[str, str], str]) -> list[Metric]:
    """Return the families of metrics of all engines; a family that several have is one, as the format demands."""
    merged: dict[str, Metric] = {}
    for (role, version), text in texts.items():
        for family in text_string_to_metric_families(text):
            if family.name.startswith(_NOT_THE_MODELS):
                continue
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {**sample.labels, "role": role, "model_version": version}
                into.samples.append(sample._replace(labels=labels))
    return list(merged.values())


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield from self._families


def _metrics_of(engine: EngineAddress) -> str | None:
    """Return the engine's metrics as text, or None if they cannot be read."""
    url = engine.url.removesuffix("/v1") + "/metrics"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {engine.api_key}"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
            text: str = reply.read(_LARGEST).decode()
            list(text_string_to_metric_families(text))
    except (urllib.error.URLError, OSError, ValueError) as error:
        logger.info("the metrics of %s cannot be read: %s", engine.model_name, error)
        return None
    return text


def _state(role: str, engine: ServingEngine, scraped: bool | None) -> EngineState:
    return EngineState(
        role=role,
        version=engine.model.version,
        precision=engine.model.precision,
        ready=engine.ready,
        restarts=engine.restarts,
        in_flight=engine.in_flight,
        scraped=scraped,
    )


def _resident() -> dict[str, int]:
    """Return the resident memory of the gateway with all its workers, and that of its engines, in bytes."""
    import psutil

    root = psutil.Process()
    if WORKER in root.cmdline():
        root = root.parent() or root
    sizes = {"gateway": root.memory_info().rss, "engines": 0}
    for child in root.children(recursive=True):
        try:
            sizes["gateway" if WORKER in child.cmdline() else "engines"] += child.memory_info().rss
        except psutil.Error:
            continue  # it ended while we looked
    return sizes
