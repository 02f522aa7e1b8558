"""Trace requests and their calls to the store with OpenTelemetry, which no other module imports.

It is imported only if OTEL_EXPORTER_OTLP_ENDPOINT is set. The SDK reads its own variables, such as OTEL_TRACES_SAMPLER.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, set_span_in_context

from cartsvc.telemetry.requests import current_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.telemetry.requests import RequestInfo

_NAME = "cartsvc"
_FLUSH_S = 2  # a worker that ends waits so long for the collector, and is replaced only then
_QUIET_S = 60  # between two equal messages of the SDK, which repeats them for each batch while the collector is down
_NOISY_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)
_NS_PER_S = 1_000_000_000
_SERVER_ERROR = 500


class Tracing:
    """Make a span of each request, and in it a span of each call to the store.

    ``store`` is the kind of store, and ``now_ns`` returns nanoseconds since the epoch, as the SDK's own clock does.
    """

    def __init__(self, provider: TracerProvider, *, version: str, store: str, now_ns: Callable[[], int]) -> None:
        self._provider, self._store, self._now_ns = provider, store, now_ns
        self._tracer = provider.get_tracer(_NAME, version)

    def begin(self, info: RequestInfo) -> None:
        """Begin the span of a request, in the trace of its ``traceparent`` if that is valid."""
        attributes = {"http.request.method": info.method, "url.scheme": info.wsgi["wsgi.url_scheme"]}
        span = self._tracer.start_span(_name(info.method), _parent(info), SpanKind.SERVER, attributes)
        if span.get_span_context().is_valid:  # false with OTEL_SDK_DISABLED
            info.span = span

    def end(self, info: RequestInfo) -> None:
        """End the span of a request. It contains no path and no text of the client but the request's id."""
        span = info.span
        if span is None:
            return
        if span.is_recording():
            attributes: dict[str, str | int | list[str]] = {
                "http.response.status_code": info.status_code,
                "http.response.header.x-request-id": [info.request_id],
            }
            if info.route:
                span.update_name(f"{_name(info.method)} {info.route}")
                attributes["http.route"] = info.route
            if info.status_code >= _SERVER_ERROR:
                attributes["error.type"] = info.problem or str(info.status_code)
                span.set_status(StatusCode.ERROR)
            span.set_attributes(attributes)
        span.end()

    def store_call(self, operation: str, *, seconds: float, error: str) -> None:
        """Make the span of a call to the store, which has ended now."""
        info = current_request.get()
        if info is None or info.span is None or not info.span.is_recording():
            return
        ended_at = self._now_ns()
        span = self._tracer.start_span(
            operation,
            set_span_in_context(info.span, Context()),
            SpanKind.CLIENT,
            {"db.system.name": self._store, "db.operation.name": operation},
            start_time=ended_at - int(seconds * _NS_PER_S),
        )
        if error:
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end(ended_at)

    def conflicts(self, count: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Export the spans that are left, and return when that is done or takes too long."""
        export = threading.Thread(target=self._provider.shutdown, daemon=True)
        export.start()
        export.join(_FLUSH_S)


def start_exporter(*, version: str, monotonic: Callable[[], float]) -> TracerProvider:
    """Return a provider that exports spans in batches, in a thread of its own that no request waits for.

    While the collector is unavailable, spans are dropped when the queue is full. Call it in the worker: threads do not
    survive a fork. ``monotonic`` returns seconds.
    """
    quiet = _Quiet(monotonic)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).addFilter(quiet)
    own = Resource.create({"service.name": _NAME, "service.version": version})
    resource = own.merge(OTELResourceDetector().detect())  # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take effect
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class _Quiet(logging.Filter):
    """Pass each message, whatever its arguments, at most once a minute."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._passed_at: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the message."""
        now = self._monotonic()
        if now - self._passed_at.get(record.msg, -_QUIET_S) < _QUIET_S:
            return False
        self._passed_at[record.msg] = now
        return True


def _name(method: str) -> str:
    """Return the name of a request's span without its route, as the semantic conventions have it."""
    return "HTTP" if method == "_OTHER" else method


def _parent(info: RequestInfo) -> Context:
    """Return the context of the request's ``traceparent``.

    ``tracestate`` is ignored: it is a text of the client, and the SDK would log one that is malformed.
    """
    found = info.traceparent
    if found is None:
        return Context()
    trace_id, span_id, flags = (int(each, 16) for each in found.groups())
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return set_span_in_context(NonRecordingSpan(parent), Context())
