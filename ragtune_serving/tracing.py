"""Sends a trace of every request to a collector of OpenTelemetry, if one is configured.

The spans are made at the end of a request from the times that were taken anyway, so that tracing costs nothing while
an answer is written. They hold no question, answer or key, unless `gateway.log_content` is switched on.
"""

import time
from importlib.metadata import version

from ragtune_serving.request_context import RequestContext

_GEN_AI = {
    "model": "gen_ai.request.model",
    "model_version": "gen_ai.response.model",
    "response_id": "gen_ai.response.id",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}
"""{field of a request: its name in OpenTelemetry's conventions}; other fields are called `ragtune.NAME`."""
_CLOSE_MILLISECONDS = 3000
"""How long the last spans may take when the gateway stops; chosen by hand: less than the gateway's time to stop."""


class Tracer:
    """Sends spans to `url`, the address of a collector that speaks OTLP over HTTP, such as http://127.0.0.1:4318.

    A collector that is away costs spans, never an answer: they are sent in batches by a thread.
    """

    def __init__(self, url: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        names = {"service.name": "ragtune", "service.version": version("ragtune")}
        self._provider = TracerProvider(resource=Resource.create(names))
        exporter = OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ragtune_serving")

    def record(self, request: RequestContext, seconds: float) -> None:
        """Make the spans of a request that ended: one for the whole, and one for each of its stages."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if "model" not in request.fields:  # the request was no question
            return
        # Spans have times of day, stages have those of a clock that never jumps.
        offset = time.time_ns() - time.perf_counter_ns()

        def nanoseconds(moment: float) -> int:
            return offset + round(moment * 1e9)

        parent = TraceContextTextMapPropagator().extract({"traceparent": request.traceparent})
        whole = self._tracer.start_span(
            f"chat {request.fields['model']}",
            context=parent,
            kind=SpanKind.SERVER,
            start_time=nanoseconds(request.started),
            attributes=_attributes(request),
        )
        if request.status >= 400 or request.fields.get("outcome") != "answered":
            whole.set_status(Status(StatusCode.ERROR))
        for stage in request.times.stages:
            span = self._tracer.start_span(
                stage.name, context=set_span_in_context(whole), start_time=nanoseconds(stage.started)
            )
            span.end(nanoseconds(stage.ended))
        whole.end(nanoseconds(request.started + seconds))

    def close(self) -> None:
        """Send what is left."""
        self._provider.force_flush(_CLOSE_MILLISECONDS)
        self._provider.shutdown()


def _attributes(request: RequestContext) -> dict[str, str | int | float | bool | list[str]]:
    """Return the attributes of the span of a whole request."""
    fields = {_GEN_AI.get(name, f"ragtune.{name}"): value for name, value in request.fields.items()}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ragtune",
        "http.request.method": request.method,
        "http.response.status_code": request.status,
        "url.path": request.path,
        "ragtune.request_id": request.id,
        **fields,
    }
