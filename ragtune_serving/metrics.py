"""Prometheus metrics of the gateway.

They have their own registry, so that metrics of libraries do not appear among them.
"""

from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# Bucket bounds are chosen by hand: dense where a CPU answers (0.3 to 3 s) and searches (5 to 50 ms).
_SECONDS = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 13, 30, 60, 120)
_MILLISECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 3000)


class Metrics:
    """All metrics that `GET /metrics` returns."""

    def __init__(self, shared: Path | None = None) -> None:
        """Count in this process, or, if PROMETHEUS_MULTIPROC_DIR names the folder `shared`, in all workers together."""
        self.registry = CollectorRegistry()
        self._shared = shared
        self._live: tuple[str, str] | None = None
        self.requests = Counter("ragtune_requests", "Chat requests", ["model", "outcome"], registry=self.registry)
        self.latency = Histogram(
            "ragtune_request_seconds", "Time to the whole answer", ["model"], buckets=_SECONDS, registry=self.registry
        )
        self.first_token = Histogram(
            "ragtune_first_token_seconds",
            "Time to the first token of streamed answers",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.retrieval = Histogram(
            "ragtune_retrieval_milliseconds", "Retrieval time", buckets=_MILLISECONDS, registry=self.registry
        )
        self.refusals = Counter("ragtune_refusals", "Answers that are refusals", ["model"], registry=self.registry)
        self.warnings = Counter(
            "ragtune_answers_with_warnings", "Answers with at least one warning", registry=self.registry
        )
        self.failed_checks = Counter(
            "ragtune_failed_checks", "Texts of the model that failed a check", ["reason"], registry=self.registry
        )
        self.replaced = Counter(
            "ragtune_replaced_answers", "Answers in place of one that failed its checks", ["by"], registry=self.registry
        )
        self.tokens = Counter(
            "ragtune_tokens",
            "Tokens of prompts and completions",
            ["kind"],
            registry=self.registry,
        )
        self.arms = Counter(
            "ragtune_experiment_requests",
            "Requests of the running experiment",
            ["experiment", "version", "outcome"],
            registry=self.registry,
        )
        self.mirrors = Gauge(
            "ragtune_shadow_requests",
            "Requests that were sampled to be mirrored, and what became of them, since the gateway started",
            ["version", "state"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.cache = Counter(
            "ragtune_cache_requests", "Chat requests by what the cache had", ["result"], registry=self.registry
        )
        self.feedback = Counter("ragtune_feedback", "Feedback verdicts", ["rating"], registry=self.registry)
        self._add_gauges()

    def _add_gauges(self) -> None:
        """Add the metrics that say how things are now."""
        self.log_pending = Gauge(
            "ragtune_log_pending",
            "Responses that are not written to the feedback log yet",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.log_dropped = Gauge(
            "ragtune_log_dropped",
            "Responses that could not be written and are lost",
            registry=self.registry,
            multiprocess_mode="sum",
        )
        # Every worker knows these; the last one that looked is right.
        self.restarts = Gauge(
            "ragtune_engine_restarts",
            "Restarts of the live engine",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.ready = Gauge(
            "ragtune_ready",
            "1 if the live engine is ready, else 0",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.model = Gauge(
            "ragtune_model_info",
            "1 for the live model",
            ["version", "precision"],
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )

    def show_log(self, pending: int, dropped: int) -> None:
        """Set the gauges that describe the feedback log."""
        self.log_pending.set(pending)
        self.log_dropped.set(dropped)

    def show_live(self, version: str, precision: str, ready: bool, restarts: int) -> None:
        """Set the gauges that describe the live model and its engine."""
        if self._shared is None:
            self.model.clear()
        elif self._live and self._live != (version, precision):  # what workers share cannot be cleared
            self.model.labels(*self._live).set(0)
        self._live = (version, precision)
        self.model.labels(version, precision).set(1)
        self.ready.set(int(ready))
        self.restarts.set(restarts)

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
