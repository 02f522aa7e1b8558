"""The lines of the log: their members, their two formats, and what of a request is left out."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from gunicorn.config import Config

from cartsvc.telemetry.access_log import AccessLog
from cartsvc.telemetry.gunicorn_log import logger_with
from cartsvc.telemetry.log_format import log_formatter
from cartsvc.telemetry.requests import RequestInfo, current_request

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = [
    *("timestamp", "severity", "event", "http.request.method", "http.route", "http.response.status_code"),
    *("duration_ms", "request_id", "trace_id", "problem", "store_ms", "worker_pid"),
]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SECRET = "s3cret"  # noqa: S105 - what no line may contain


def info_of(**environ: Any) -> RequestInfo:
    """Return a request with this environment."""
    return RequestInfo({"REQUEST_METHOD": "GET", **environ}, "id-1")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the captured records as they are written in JSON."""
    formatter = log_formatter("json")
    return [json.loads(formatter.format(record)) for record in caplog.records]


def fail(text: str) -> None:
    """Raise an error with a cause, both with this text."""
    try:
        {}[text]
    except KeyError as error:
        raise ValueError(f"of {text}") from error


@pytest.fixture
def running() -> Iterator[RequestInfo]:
    """Return a request that is the current one."""
    info = info_of(HTTP_TRACEPARENT=TRACEPARENT)
    current_request.set(info)
    yield info
    current_request.set(None)


def test_a_request_is_a_line_with_all_fields(caplog: pytest.LogCaptureFixture) -> None:
    """In the documented order, and no others."""
    caplog.set_level(logging.INFO)
    info = info_of(HTTP_TRACEPARENT=TRACEPARENT, **{"cartsvc.problem": "store-full"})
    info.status, info.seconds, info.store_seconds = "507 INSUFFICIENT STORAGE", 0.01234567, 0.0005
    AccessLog(slow_s=1, all_requests=False).end(info)
    (line,) = lines(caplog)
    assert list(line) == FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("timestamp"))
    assert line == {
        "severity": "WARNING",
        "event": "http.server.request",
        "http.request.method": "GET",
        "http.route": "",
        "http.response.status_code": 507,
        "duration_ms": 12.346,
        "request_id": "id-1",
        "trace_id": TRACE,
        "problem": "store-full",
        "store_ms": 0.5,
        "worker_pid": os.getpid(),
    }


@pytest.mark.parametrize(
    ("status", "seconds", "all_requests", "expected"),
    [
        ("200 OK", 0.9, False, []),
        ("404 NOT FOUND", 0.9, False, []),
        ("200 OK", 1.0, False, ["WARNING"]),
        ("500 X", 0.0, False, ["WARNING"]),
        ("503 X", 0.0, True, ["WARNING"]),
        ("200 OK", 0.0, True, ["INFO"]),
        ("404 NOT FOUND", 0.0, True, ["INFO"]),
    ],
)
def test_which_requests_are_logged(
    caplog: pytest.LogCaptureFixture, status: str, seconds: float, expected: list[str], *, all_requests: bool
) -> None:
    """Failed and slow ones always, the others on request."""
    caplog.set_level(logging.INFO)
    info = info_of()
    info.status, info.seconds = status, seconds
    AccessLog(slow_s=1, all_requests=all_requests).end(info)
    assert [line["severity"] for line in lines(caplog)] == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (TRACEPARENT, TRACE),
        (f"cc{TRACEPARENT[2:]}-more", TRACE),
        ("", None),
        (f"ff{TRACEPARENT[2:]}", None),
        (TRACEPARENT.upper(), None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"{TRACEPARENT}\n", None),
        (f"00-{SECRET}-00f067aa0ba902b7-01", None),
    ],
)
def test_a_trace_id_is_that_of_a_valid_traceparent(sent: str, expected: str | None) -> None:
    """Any other has none (W3C Trace Context, 3.2)."""
    assert info_of(HTTP_TRACEPARENT=sent).trace_id == expected


@pytest.mark.parametrize("sent", ["get", SECRET, "GET\n", "BREW"])
def test_an_unknown_method_is_not_logged(sent: str) -> None:
    """It could be any text."""
    assert info_of(REQUEST_METHOD=sent).method == "_OTHER"


def test_other_lines_of_a_request_have_its_id(caplog: pytest.LogCaptureFixture, running: RequestInfo) -> None:
    """And its trace; lines outside a request have neither."""
    logging.getLogger("cartsvc.x").warning("one %s", "thing")
    (first,) = lines(caplog)
    current_request.set(None)
    (second,) = lines(caplog)
    assert list(first) == ["timestamp", "severity", "event", "request_id", "trace_id", "worker_pid"]
    assert (first["event"], first["request_id"], first["trace_id"]) == ("one thing", running.request_id, TRACE)
    assert list(second) == ["timestamp", "severity", "event", "worker_pid"]


@pytest.mark.usefixtures("running")
def test_a_traceback_of_a_request_has_no_messages(caplog: pytest.LogCaptureFixture) -> None:
    """A message may contain what the client has sent. The classes and places of the whole chain are there."""
    try:
        fail(SECRET)
    except ValueError:
        logging.getLogger("cartsvc").exception("internal error")
    (line,) = lines(caplog)  # formatted while the request runs
    assert SECRET not in line["event"]
    assert re.findall(r"^\w+$", line["event"], re.MULTILINE) == ["KeyError", "ValueError"]
    assert line["event"].count("in fail") == 2


def test_a_traceback_of_a_start_has_its_message(caplog: pytest.LogCaptureFixture) -> None:
    """There is no request whose data it could contain."""
    try:
        fail("the cause")
    except ValueError:
        logging.getLogger("gunicorn.error").exception("Exception in worker process")
    (line,) = lines(caplog)
    assert line["event"].splitlines()[-1] == "ValueError: of the cause"


def test_a_uri_in_gunicorns_lines_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """It contains a user id."""
    logging.getLogger("gunicorn.error").error("Error handling request %s %s", "GET", f"/cart/{SECRET}")
    assert [line["event"] for line in lines(caplog)] == ["Error handling request"]


@pytest.mark.parametrize("hostile", ["a\nb", '"}{"severity": "x"', "\u2028", "\x1b[31m", "\ud800"])
def test_hostile_text_stays_in_its_member(hostile: str) -> None:
    """No text begins a second line or another member."""
    text = log_formatter("json").format(logging.LogRecord("x", logging.WARNING, "", 1, "%s", (hostile,), None))
    assert len(text.splitlines()) == 1
    assert list(json.loads(text)) == ["timestamp", "severity", "event", "worker_pid"]


def test_text_is_for_people(caplog: pytest.LogCaptureFixture) -> None:
    """As gunicorn writes its lines, with the members of a request behind; absent values are left out."""
    caplog.set_level(logging.INFO)
    info = info_of()
    info.status, info.seconds = "200 OK", 0.001
    AccessLog(slow_s=1, all_requests=True).end(info)
    text = log_formatter("text").format(caplog.records[0])
    start = rf"\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \+0000\] \[{os.getpid()}\] \[INFO\] http.server.request "
    members = r"http.request.method=GET http.route= http.response.status_code=200 duration_ms=1.0 request_id=id-1"
    assert re.fullmatch(f"{start}{members} store_ms=0.0", text)


def test_all_loggers_write_to_gunicorns_handler(capsys: pytest.CaptureFixture[str]) -> None:
    """In its format, after each reload once."""
    loggers = [logging.getLogger(name) for name in ("gunicorn.error", "gunicorn.access", "cartsvc", "py.warnings")]
    before = [(list(each.handlers), each.propagate, each.level) for each in loggers]
    try:
        log = logger_with(log_formatter("json"))(Config())
        log.setup(Config())
        log.info("one")
        logging.getLogger("cartsvc.stores").warning("two")
        logging.getLogger("py.warnings").warning("three")
        log.log(logging.ERROR, "late", exc_info=(TimeoutError, TimeoutError(), None))
        written = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    finally:
        logging.captureWarnings(capture=False)
        for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
            each.handlers, each.propagate, each.level = handlers, propagate, level
    assert written == ["one", "two", "three"]
    assert sys.exc_info()[0] is None
