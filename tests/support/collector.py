"""A collector of OpenTelemetry for tests: it receives spans by OTLP over HTTP."""

from __future__ import annotations

import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.http_server import Quiet, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = 20
_KINDS = {2: "server", 3: "client"}


class Span(NamedTuple):
    """A span that has arrived. Ids are hexadecimal digits; ``parent_id`` is empty for the first span of a trace."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    is_error: bool
    start_ns: int
    end_ns: int


class Collector:
    """A collector at ``url``, which has received ``bodies`` with ``headers``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []

    def spans(self, kind: str | None = None) -> list[Span]:
        """Return the spans that have arrived, of this kind (server or client) if it is given."""
        requests = map(ExportTraceServiceRequest.FromString, self.bodies)
        found = [
            _span(span, group.resource)
            for request in requests
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        return [span for span in found if kind in {None, span.kind}]

    def requests(self, *ids: str) -> dict[str, Span]:
        """Return the spans of the requests with these ids, once all have arrived."""
        deadline = time.monotonic() + _SECONDS
        while True:
            spans = {request_id(span): span for span in self.spans("server")}
            if spans.keys() >= set(ids):
                return {each: spans[each] for each in ids}
            assert time.monotonic() < deadline, spans
            time.sleep(0.05)


def request_id(span: Span) -> str:
    """Return the id of the request that this span is of."""
    (found,) = span.attributes["http.response.header.x-request-id"]
    return str(found)


def _span(span: Any, resource: Any) -> Span:
    return Span(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        _KINDS[span.kind],
        _values(span.attributes),
        _values(resource.attributes),
        span.status.code == span.status.STATUS_CODE_ERROR,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    if value.WhichOneof("value") == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, value.WhichOneof("value"))


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector until the block ends."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Receive spans."""
            assert self.path == "/v1/traces"
            running.headers.append(dict(self.headers))
            running.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    running = Collector(f"http://127.0.0.1:{server.server_port}")
    with serving(server):
        yield running
