"""Prometheus metrics of the gateway: our own names, and next to them the names of OpenTelemetry for generative AI.

They have their own registry, so that metrics of libraries do not appear among them. `scrape.py` adds those of the
engines.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ragtune.records import Answer
from ragtune_serving.gpu import GpuMemory
from ragtune_serving.schema import RagTuneField
from ragtune_serving.times import Times

# Bucket bounds are chosen by hand: dense where a CPU answers (0.3 to 3 s) and searches (5 to 50 ms).
_SECONDS = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 13, 30, 60, 120)
_MILLISECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 3000)
_OVERHEAD_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
# Those of OpenTelemetry are in its conventions: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics
_GEN_AI_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_GEN_AI_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_GEN_AI_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_GEN_AI_TOKENS = tuple(4**power for power in range(14))
_GEN_AI_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")
_OPERATION, _PROVIDER = "chat", "ragtune"
"""Values of the first two of these labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """One engine at the moment of a scrape; `role` is `live`, `next` or `comparison`.

    `scraped` says whether its own metrics could be read, or is None if nobody tried.
    """

    role: str
    version: str
    precision: str
    ready: bool
    restarts: int
    in_flight: int
    scraped: bool | None = None


class Metrics:
    """All metrics of the gateway itself."""

    def __init__(self, shared: Path | None = None) -> None:
        """Count in this process, or, if PROMETHEUS_MULTIPROC_DIR names the folder `shared`, in all workers together."""
        self.registry = CollectorRegistry()
        self._shared = shared
        self._shown: dict[Gauge, set[tuple[str, ...]]] = {}
        self.requests = self._counter("requests", "Chat requests", "model", "outcome")
        self.latency = self._histogram("request_seconds", "Time to the whole answer", _SECONDS, "model")
        self.first_token = self._histogram(
            "first_token_seconds", "Time to the first token of streamed answers", _SECONDS, "model"
        )
        self.overhead = self._histogram(
            "overhead_seconds",
            "Time of an answer without the time of the engine and of a client that reads slowly",
            _OVERHEAD_SECONDS,
            "model",
        )
        self.retrieval = self._histogram("retrieval_milliseconds", "Retrieval time", _MILLISECONDS)
        self.refusals = self._counter("refusals", "Answers that are refusals", "model")
        self.deliveries = self._counter("deliveries", "Answers by what people got", "kind")
        self.warnings = self._counter("answers_with_warnings", "Answers with at least one warning")
        self.failed_checks = self._counter("failed_checks", "Texts of the model that failed a check", "reason")
        self.replaced = self._counter("replaced_answers", "Answers in place of one that failed its checks", "by")
        self.arms = self._counter(
            "experiment_requests", "Requests of the running experiment", "experiment", "version", "outcome"
        )
        self.mirrors = Gauge(
            "ragtune_shadow_requests",
            "Requests that were sampled to be mirrored, and what became of them, since the gateway started",
            ["version", "state"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.cache = self._counter("cache_requests", "Chat requests by what the cache had", "result")
        self.tokens = self._counter("tokens", "Tokens of prompts and completions", "kind")
        self.feedback = self._counter("feedback", "Feedback verdicts", "rating")
        self._add_gauges()
        self._add_gen_ai()

    def _add_gauges(self) -> None:
        """Add the metrics that say how things are now."""
        self.queue = self._gauge("queue_length", "Work that waits: searches, responses to record", "queue", of="each")
        self.log_pending = self._gauge(
            "log_pending", "Responses that are not written to the feedback log yet", of="each"
        )
        self.log_dropped = self._gauge("log_dropped", "Responses that could not be written and are lost", of="ever")
        self.restarts = self._gauge("engine_restarts", "Restarts of the live engine")
        self.ready = self._gauge("ready", "1 if the live engine is ready, else 0")
        self.model = self._gauge("model_info", "1 for the live model", "version", "precision")
        self.refused_champion = self._gauge(
            "champion_refused", "1 if the champion fails to verify or to start, so that another model answers, else 0"
        )
        self.engine_up = self._gauge("engine_up", "1 if the engine takes requests", "role", "model_version")
        self.engine_requests = self._gauge(
            "engine_requests", "Requests that an engine answers now", "role", "model_version", of="each"
        )
        self.engine_scraped = self._gauge(
            "engine_scraped", "1 if the engine's own metrics are part of this scrape", "role", "model_version"
        )
        self.memory = self._gauge("memory_bytes", "Resident memory: of the gateway, and of its engines", "process")
        self.gpu_used = self._gauge("gpu_memory_used_bytes", "Memory of a GPU in use, by all programs", "gpu")
        self.gpu_total = self._gauge("gpu_memory_total_bytes", "Memory of a GPU", "gpu")

    def _add_gen_ai(self) -> None:
        """Add the metrics that OpenTelemetry names."""
        self.duration = self._gen_ai(
            "server_request_duration_seconds", "Duration of a request", _GEN_AI_SECONDS, "error_type"
        )
        self.time_to_first_token = self._gen_ai(
            "server_time_to_first_token_seconds", "Time to the first token of streamed answers", _GEN_AI_FIRST_TOKEN
        )
        self.time_per_token = self._gen_ai(
            "server_time_per_output_token_seconds", "Time per token after the first of a stream", _GEN_AI_PER_TOKEN
        )
        self.token_usage = self._gen_ai(
            "client_token_usage", "Tokens of prompts and completions", _GEN_AI_TOKENS, "gen_ai_token_type"
        )

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"ragtune_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str, of: Literal["all", "each", "ever"] = "all") -> Gauge:
        """Return a gauge.

        With several workers, one `of` all of them has the value of the worker that looked last; one of each is summed
        over those that run; one that counts what ever happened is summed over those that ended, too.
        """
        modes: dict[str, Any] = {"all": "livemostrecent", "each": "livesum", "ever": "sum"}
        return Gauge(f"ragtune_{name}", about, labels, registry=self.registry, multiprocess_mode=modes[of])

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"ragtune_{name}", about, labels, buckets=buckets, registry=self.registry)

    def _gen_ai(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"gen_ai_{name}", about, (*_GEN_AI_LABELS, *labels), buckets=buckets, registry=self.registry)

    def count_answer(self, model: str, version: str, answer: Answer, times: Times, *, streamed: bool) -> None:
        """Count a complete answer.

        Args:
            model: the model name of the request.
            version: of the model that answered.
            answer: the checked answer.
            times: where the time went.
            streamed: whether it was sent as it came.
        """
        completion = answer.completion
        self.latency.labels(model).observe(completion.total_seconds)
        self.overhead.labels(model).observe(max(0.0, completion.total_seconds - times.engine - times.client))
        self.deliveries.labels(answer.kind).inc()
        if answer.refused:
            self.refusals.labels(model).inc()
        if answer.warnings:
            self.warnings.inc()
        for failure in (*(failure for failures in answer.tries for failure in failures), *answer.failures):
            self.failed_checks.labels(failure.reason).inc()
        if answer.tries:
            by = "refusal" if answer.refused else "second try" if answer.own_words else "quotation"
            self.replaced.labels(by).inc()
        tokens = {"input": completion.prompt_tokens, "output": completion.completion_tokens}
        self.tokens.labels("prompt").inc(tokens["input"])
        self.tokens.labels("completion").inc(tokens["output"])
        labels = (_OPERATION, _PROVIDER, model, version)
        self.duration.labels(*labels, "").observe(completion.total_seconds)
        for kind, count in tokens.items():
            if count:
                self.token_usage.labels(*labels, kind).observe(count)
        if streamed:
            self.first_token.labels(model).observe(completion.first_token_seconds)
            self.time_to_first_token.labels(*labels).observe(completion.first_token_seconds)
            if tokens["output"] > 1:
                self.time_per_token.labels(*labels).observe(times.writing / (tokens["output"] - 1))

    def count_cached(self, model: str, field: RagTuneField, seconds: float, *, streamed: bool) -> None:
        """Count an answer that came from the cache; no engine wrote anything, so no tokens are counted."""
        self.latency.labels(model).observe(seconds)
        self.overhead.labels(model).observe(seconds)
        self.deliveries.labels(field.delivered).inc()
        if field.refused:
            self.refusals.labels(model).inc()
        if field.warnings:
            self.warnings.inc()
        labels = (_OPERATION, _PROVIDER, model, field.model_version)
        self.duration.labels(*labels, "").observe(seconds)
        if streamed:
            self.first_token.labels(model).observe(seconds)
            self.time_to_first_token.labels(*labels).observe(seconds)

    def count_failure(self, model: str, version: str, reason: str, seconds: float) -> None:
        """Count a request whose answer was not completed; `reason` is its outcome, such as `failed`."""
        self.duration.labels(_OPERATION, _PROVIDER, model, version, reason).observe(seconds)

    def show_load(self, engines: Iterable[EngineState], queues: Mapping[str, int], dropped: int) -> None:
        """Set the gauges that each worker has a part of.

        Args:
            engines: those that this worker sends requests to.
            queues: {queue: length}; that of the log is named `log`.
            dropped: responses that this worker could not record.
        """
        self._show(self.engine_requests, {(engine.role, engine.version): engine.in_flight for engine in engines})
        for queue, length in queues.items():
            self.queue.labels(queue).set(length)
        self.log_pending.set(queues["log"])
        self.log_dropped.set(dropped)

    def show_engines(self, engines: Sequence[EngineState], *, refuses_champion: bool) -> None:
        """Set the gauges that describe the engines, and whether the version that the registry names is not served."""
        self.refused_champion.set(int(refuses_champion))
        self._show(self.engine_up, {(engine.role, engine.version): int(engine.ready) for engine in engines})
        scraped = {(engine.role, engine.version): engine.scraped for engine in engines}
        self._show(self.engine_scraped, {labels: int(value) for labels, value in scraped.items() if value is not None})
        for live in (engine for engine in engines if engine.role == "live"):
            self._show(self.model, {(live.version, live.precision): 1})
            self.ready.set(int(live.ready))
            self.restarts.set(live.restarts)

    def _show(self, gauge: Gauge, values: Mapping[tuple[str, ...], int]) -> None:
        """Set the series of a gauge; others disappear, or become 0 if there are several workers."""
        if self._shared is None:
            gauge.clear()
        else:  # what workers share cannot be cleared
            for labels in self._shown.get(gauge, set()) - set(values):
                gauge.labels(*labels).set(0)
        self._shown[gauge] = set(values)
        for labels, value in values.items():
            gauge.labels(*labels).set(value)

    def show_memory(self, processes: Mapping[str, int], gpus: Iterable[GpuMemory]) -> None:
        """Set the gauges of memory; `processes` is {group of processes: bytes}."""
        for group, size in processes.items():
            self.memory.labels(group).set(size)
        for gpu in gpus:
            self.gpu_used.labels(gpu.gpu).set(gpu.used)
            self.gpu_total.labels(gpu.gpu).set(gpu.total)

    def show_mirrors(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Set the gauges of a shadow deployment: {version: {state: requests}}."""
        if self._shared is None:  # what workers share cannot be cleared
            self.mirrors.clear()
        for version, states in counts.items():
            for state, count in states.items():
                self.mirrors.labels(version, state).set(count)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format; those of workers are summed."""
        if self._shared is None:
            return generate_latest(self.registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        together = CollectorRegistry()
        MultiProcessCollector(together, str(self._shared))
        return generate_latest(together)
