"""A collector of OpenTelemetry in this process, which keeps the spans that arrive over HTTP."""

import gzip
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.scripted_upstream import ServedApp


class SpanCollector:
    """`spans` are what arrived, as OTLP's own messages; `bodies` the requests as bytes."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.bodies = b""
        self.served = ServedApp(Starlette(routes=[Route("/v1/traces", self._take, methods=["POST"])]))
        self.url = self.served.url

    async def _take(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.bodies += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf")

    def traces(self) -> list[list[Any]]:
        """Return the spans of each trace, the root first."""
        traces: dict[bytes, list[Any]] = {}
        for span in self.spans:
            traces.setdefault(span.trace_id, []).append(span)
        return [sorted(spans, key=lambda span: not span.name.startswith("chat ")) for spans in traces.values()]

    def close(self) -> None:
        self.served.close()


def attributes(span: Any) -> dict[str, Any]:
    """Return {name: value} of a span."""
    values = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        values[attribute.key] = getattr(attribute.value, kind)
    return values
