"""What of gunicorn's workers no client can bring about at will; tests/system has the rest."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from gunicorn import http
from gunicorn.config import Config
from gunicorn.http.wsgi import Response
from gunicorn.workers.gthread import TConn

from cartsvc.server.workers import IDLE_GRACE_S, GeventWorker, ThreadWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KEEP_ALIVE = 75


@pytest.mark.parametrize("stopped", [False, True], ids=["replaced", "stopped"])
def test_a_connection_that_comes_back_after_the_end_is_kept_as_long_as_it_was_told(*, stopped: bool) -> None:
    """Its response said keep-alive before the worker began to end. Only a stop is in a hurry."""
    config = Config()
    config.set("keepalive", KEEP_ALIVE)
    worker = ThreadWorker(1, os.getppid(), [], None, 30, config, None)
    worker.method_queue.init()
    ours, theirs = socket.socketpair()
    with ours, theirs, selectors.DefaultSelector() as worker.poller:
        connection = TConn(config, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
        connection.parser = http.get_parser(config, ours, connection.client)
        answered: Future[bool] = Future()
        answered.set_result(True)
        began = time.monotonic()
        if stopped:
            worker.handle_exit(signal.SIGTERM, None)
        worker.alive = False  # as after max_requests

        worker.finish_request(connection, answered)

        assert list(worker.keepalived_conns) == [connection]
        seconds = IDLE_GRACE_S if stopped else KEEP_ALIVE
        assert connection.timeout - began == pytest.approx(seconds, abs=1)
    worker.method_queue.close()
    worker.tmp.close()


class Recorder:
    """A socket that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        """Keep it."""
        self.sent.append(data)


def sent(app: Callable[[Any, Any], Iterable[bytes]], *, method: str = "GET") -> list[bytes]:
    """Return what a worker sends for the response of this app, one member for each system call."""
    config, recorder = Config(), Recorder()
    worker = GeventWorker(1, os.getppid(), [], SimpleNamespace(wsgi=lambda: app), 30, config, None)
    worker.load_wsgi()
    request = SimpleNamespace(method=method, version=(1, 1), should_close=lambda: False)
    response = Response(request, recorder, config)
    for part in worker.wsgi({"REQUEST_METHOD": method}, response.start_response):
        response.write(part)
    response.close()
    worker.tmp.close()
    return recorder.sent


def responding(status: str, headers: dict[str, str], *parts: bytes) -> Callable[[Any, Any], Iterable[bytes]]:
    """Return an app with this response."""

    def app(_: Any, start_response: Callable[..., object]) -> Iterable[bytes]:
        start_response(status, list(headers.items()))
        return list(parts)

    return app


def test_headers_and_body_are_one_system_call() -> None:
    """Gunicorn would make two."""
    (data,) = sent(responding("200 OK", {"Content-Length": "4"}, b"cart"))
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(b"\r\nKeep-Alive: timeout=2\r\n\r\ncart")


@pytest.mark.parametrize(
    ("app", "method", "body"),
    [
        (responding("200 OK", {"Content-Length": "4"}, b"cart"), "HEAD", b""),
        (responding("200 OK", {"Content-Length": "4"}), "HEAD", b""),
        (responding("304 Not Modified", {"Content-Length": "4"}, b"cart"), "GET", b""),
        (responding("204 No Content", {}, b""), "GET", b""),
        (responding("200 OK", {"Content-Length": "0"}, b""), "GET", b""),
        (responding("200 OK", {"Content-Length": "4"}, b"ca", b"rt"), "GET", b"cart"),
        (responding("200 OK", {}, b"cart"), "GET", b"4\r\ncart\r\n0\r\n\r\n"),
        (responding("200 OK", {"Content-Length": "4"}, b"carts"), "GET", b"cart"),
    ],
)
def test_any_response_is_sent_completely(app: Callable[[Any, Any], Iterable[bytes]], method: str, body: bytes) -> None:
    """Headers that wait for a body must not wait in vain."""
    assert b"".join(sent(app, method=method)).partition(b"\r\n\r\n")[2] == body
