"""Tracing in one process: when there is no span, and how often the SDK's messages are logged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cartsvc.telemetry.requests import RequestInfo, current_request
from cartsvc.telemetry.tracing import Tracing, start_exporter
from tests.support.services import FakeSeconds

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE = "ab" * 16
SENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def request(**environ: Any) -> RequestInfo:
    """Return a request to an unknown path."""
    return RequestInfo({"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http"} | environ, "id")


@pytest.fixture
def exported() -> InMemorySpanExporter:
    """Return where spans arrive at once."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exported: InMemorySpanExporter) -> Iterator[Tracing]:
    """Return the tracing of a process."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    made = Tracing(provider, version="1", store="memory", now_ns=lambda: 10**18)
    yield made
    made.close()


def test_a_call_outside_a_request_has_no_span(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    """A command's, and a probe's of the metrics."""
    tracing.store_call("get", seconds=1, error="")
    assert exported.get_finished_spans() == ()


def test_a_call_lasts_as_long_as_was_measured(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    """It ends now, and began earlier."""
    info = request()
    tracing.begin(info)
    token = current_request.set(info)
    tracing.store_call("get", seconds=0.25, error="")
    current_request.reset(token)
    (span,) = exported.get_finished_spans()
    assert (span.start_time, span.end_time) == (10**18 - 250_000_000, 10**18)


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "x",
        SENT.upper(),
        SENT[:-1],
        SENT.replace(TRACE, "0" * 32),
        SENT.replace("00f067aa0ba902b7", "0" * 16),
        "ff" + SENT[2:],
        SENT + "\n",
        SENT + " " * 600,
    ],
)
def test_an_invalid_traceparent_begins_a_trace(
    tracing: Tracing, exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture, sent: str
) -> None:
    """And it is not logged, because clients could fill the log."""
    info = request(HTTP_TRACEPARENT=sent)
    tracing.begin(info)
    tracing.end(info)
    (span,) = exported.get_finished_spans()
    assert (span.parent, info.trace_id) == (None, f"{span.context.trace_id:032x}")
    assert info.trace_id != TRACE
    assert caplog.records == []


def test_a_disabled_sdk_leaves_the_trace_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SDK_DISABLED makes no spans; the log has the trace of ``traceparent`` as without tracing."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing = Tracing(TracerProvider(), version="1", store="memory", now_ns=lambda: 0)
    for environ, trace_id in (({}, None), ({"HTTP_TRACEPARENT": SENT}, TRACE)):
        info = request(**environ)
        tracing.begin(info)
        tracing.end(info)
        assert info.trace_id == trace_id


def test_a_message_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its arguments; another one is not delayed by it."""
    clock = FakeSeconds()
    logger = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    before = list(logger.filters)
    provider = start_exporter(version="1", monotonic=clock)
    try:
        for seconds in (0, 59, 1):
            clock.advance(seconds)
            for number in range(2):
                logger.error("failed %s", number)
            logger.warning("retry")
        assert [record.getMessage() for record in caplog.records] == ["failed 0", "retry"] * 2
    finally:
        provider.shutdown()
        for each in set(logger.filters) - set(before):
            logger.removeFilter(each)
            logging.getLogger("opentelemetry.sdk._shared_internal").removeFilter(each)
