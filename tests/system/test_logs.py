"""The log of the real server: JSON in every line, requests by their settings, and nothing of what clients send."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http_clients import Client
from tests.support.raw_http import exchange
from tests.support.servers import serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Server

USER, SECRET, ID = "user-4711", "s3cret-token", "id-of-the-test"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLASSES = pytest.mark.parametrize(
    "logged",
    [{"WEB_CONCURRENCY": "1"}, {"WEB_CONCURRENCY": "1", "CARTSVC_THREADS": "4"}],
    ids=["gevent", "threads"],
    indirect=True,
)


@pytest.fixture(scope="module")
def logged(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return a server that logs each request, with these settings."""
    with serve(CARTSVC_LOG_FORMAT="json", CARTSVC_ACCESS_LOG="all", **request.param) as server:
        yield server


def lines(server: Server) -> list[dict[str, Any]]:
    """Return the whole log; each line must be a JSON object."""
    return [json.loads(line) for line in server.log().splitlines()]


def requests(server: Server) -> list[dict[str, Any]]:
    """Return the lines of requests."""
    return [line for line in lines(server) if line["event"] == "http.server.request"]


def head(method: str, target: str, *, request_id: str = ID) -> bytes:
    """Return a request with all that must not be in the log."""
    fields = [f"Authorization: Bearer {SECRET}", f"X-Request-ID: {request_id}", f"Cookie: a={SECRET}"]
    fields += [f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01", "Host: x", f"Referer: /cart/{USER}", "Connection: close"]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""]).encode()


@CLASSES
def test_a_line_of_a_request(logged: Server) -> None:
    """The id of the client, the route instead of the path, and the worker that has served it."""
    exchange(logged, head("DELETE", f"/cart/{USER}", request_id="of-one-line"))
    (line,) = [each for each in requests(logged) if each["request_id"] == "of-one-line"]
    assert line.pop("duration_ms") >= line.pop("store_ms") > 0
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "severity": "INFO",
        "event": "http.server.request",
        "http.request.method": "DELETE",
        "http.route": "/cart/{user_id}",
        "http.response.status_code": 404,
        "request_id": "of-one-line",
        "trace_id": TRACE,
        "problem": "cart-not-found",
        "worker_pid": logged.workers()[0],
    }


@CLASSES
def test_every_line_is_json_and_names_no_client(logged: Server) -> None:
    """Through a start, hostile requests, a killed worker and a reload: no user id, path or token is in any line."""
    targets = [f"/cart/{USER}", f"/cart/{USER}/items/x?token={SECRET}", f"/{SECRET}", f"//{USER}/..%00{SECRET}"]
    for target in targets:
        for method in ("GET", "DELETE", SECRET.upper(), "OPTIONS"):
            exchange(logged, head(method, target))
    exchange(logged, head("GET", f"/cart/{USER}", request_id=f'{SECRET} "\x7f'))
    exchange(logged, f"GET /cart/{USER} HTTP/9.9\r\n{SECRET}\r\n\r\n".encode(), b"\x00\xff{}\r\n\r\n")
    os.kill(logged.workers()[0], signal.SIGKILL)
    logged.wait_for_boots(2)
    logged.process.send_signal(signal.SIGHUP)
    logged.wait_for_boots(3)
    logged.wait_for_workers(1)
    log = logged.log()
    for text in (USER, SECRET, SECRET.upper(), "?token"):
        assert text not in log
    assert {line["severity"] for line in lines(logged)} >= {"INFO", "WARNING", "ERROR"}
    answered = requests(logged)
    assert len([line for line in answered if line["request_id"] == ID]) >= 4 * 4
    assert {line["trace_id"] for line in answered} >= {TRACE}
    assert {line["http.route"] for line in answered} == {
        "",
        "/cart/{user_id}",
        "/cart/{user_id}/items/{item_id}",
        "/healthz",
    }


@pytest.mark.parametrize(
    ("setting", "expected"),
    [({}, [503]), ({"CARTSVC_ACCESS_LOG": "off", "CARTSVC_SLOW_REQUEST": "0.001"}, [])],
)
def test_failed_requests_are_logged_unless_off(setting: dict[str, str], expected: list[int]) -> None:
    """By default requests that succeed are not. The line of the store's failure has the same id."""
    settings = {"CARTSVC_LOG_FORMAT": "json", "WEB_CONCURRENCY": "1"} | setting
    with valkey() as store, serve(CARTSVC_STORE_URL=store.url, **settings) as server:
        with Client(server.url) as client:
            assert client.add(USER).status == 200
        store.kill()
        exchange(server, head("GET", f"/cart/{USER}"))
        server.wait_for_log("store unavailable")
        found = [line for line in requests(server) if line["http.response.status_code"] != 200]
        assert [line["http.response.status_code"] for line in found] == expected
        (failure,) = [line for line in lines(server) if line["event"].startswith("store unavailable")]
        assert (failure["request_id"], failure["trace_id"]) == (ID, TRACE)
