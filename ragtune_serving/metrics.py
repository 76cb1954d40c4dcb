"""Prometheus metrics of the gateway, in a registry of their own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 13, 30, 60, 120)
_MILLISECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 3000)


class Metrics:
    """Everything that /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
            "ragtune_retrieval_milliseconds", "Time of retrieval", buckets=_MILLISECONDS, registry=self.registry
        )
        self.refusals = Counter("ragtune_refusals", "Answers that refused", ["model"], registry=self.registry)
        self.warnings = Counter("ragtune_answers_with_warnings", "Answers with a warning", registry=self.registry)
        self.tokens = Counter("ragtune_tokens", "Tokens of engine calls", ["kind"], registry=self.registry)
        self.feedback = Counter("ragtune_feedback", "Verdicts", ["rating"], registry=self.registry)
        self.restarts = Gauge("ragtune_engine_restarts", "Restarts of the live engine", registry=self.registry)
        self.ready = Gauge("ragtune_ready", "1 while questions are answered", registry=self.registry)
        self.model = Gauge("ragtune_model_info", "1 for what is live", ["version", "precision"], registry=self.registry)

    def show_live(self, version: str, precision: str, ready: bool, restarts: int) -> None:
        """Set the gauges to what is live now."""
        self.model.clear()
        self.model.labels(version, precision).set(1)
        self.ready.set(int(ready))
        self.restarts.set(restarts)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)
