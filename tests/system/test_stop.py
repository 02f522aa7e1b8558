"""How a server stops: its port is closed at once, idle connections do not delay it, and requests are answered."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.http_clients import SECONDS, Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Server

KEPT = {"CARTSVC_KEEP_ALIVE": "75"}  # as behind a proxy that keeps idle connections for 60 seconds
CLASSES = pytest.mark.parametrize(
    "server", [KEPT, KEPT | {"CARTSVC_THREADS": "4"}], ids=["gevent", "threads"], indirect=True
)
GRACE = 2  # seconds that idle connections are kept
MOST = 10  # seconds that a stop may take here: the grace, and a busy machine; half of gunicorn's graceful time-out
BODY = b'{"product_id": "sku-1", "quantity": 2}'
HEAD = b"POST /cart/alice HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
    BODY
)


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    """A connection on which nothing has been sent."""
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        yield connection


def wait_until_refused(server: Server) -> None:
    """Return once the port is closed."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), SECONDS).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # the port was closed while this connection waited in the listen backlog
        assert time.monotonic() < deadline, "the port is open"
        time.sleep(0.02)


@CLASSES
def test_the_port_is_closed_while_a_request_runs(server: Server) -> None:
    """A balancer must see at once that the server is gone; the request is answered all the same."""
    with connected(server) as running:
        running.sendall(HEAD + BODY[:10])
        with Client(server.url) as other:
            assert other.add("bob").status == 200  # the worker has the other request by now

        server.process.send_signal(signal.SIGTERM)
        wait_until_refused(server)

        assert server.process.poll() is None
        running.sendall(BODY[10:])
        reply = running.makefile("rb").read()
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in reply
        assert reply.endswith(b"}")
    assert server.process.wait(SECONDS) == 0


@CLASSES
def test_an_idle_connection_does_not_delay_a_stop(server: Server) -> None:
    """It is closed after the grace, however long clients may keep connections otherwise."""
    with Client(server.url) as idle, Client(server.url) as second:
        for each in (idle, second):
            assert each.add("alice").headers["Connection"] == "keep-alive"
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        assert time.monotonic() - began < MOST
        assert idle.connection.sock.recv(1) == b""


@CLASSES
def test_a_silent_connection_does_not_delay_a_stop(server: Server) -> None:
    """Browsers open connections for requests that may never come."""
    with connected(server) as old:
        time.sleep(GRACE + 0.5)  # for so long a new connection has a thread; nothing tells from outside
        with connected(server) as new:
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(SECONDS) == 0
            assert time.monotonic() - began < MOST
            assert old.recv(1) == new.recv(1) == b""


@CLASSES
def test_an_idle_connection_that_is_used_in_time_is_answered(server: Server) -> None:
    """A client may have sent its request before it can know of the stop."""
    with Client(server.url) as idle:
        assert idle.add("alice").headers["Connection"] == "keep-alive"
        server.process.send_signal(signal.SIGTERM)
        wait_until_refused(server)
        response = idle.add("alice")
        assert (response.status, response.body["total_quantity"], response.headers["Connection"]) == (200, 2, "close")
        assert response.headers["Keep-Alive"] is None
    assert server.process.wait(SECONDS) == 0


@CLASSES
def test_a_worker_whose_server_was_killed_frees_the_port(server: Server) -> None:
    """Another server can start there soon, though a client keeps its connection."""
    with Client(server.url) as idle:
        assert idle.add("alice").status == 200
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait(SECONDS)
        wait_until_refused(server)
        server.start()


@pytest.mark.parametrize("server", [KEPT | {"CARTSVC_THREADS": "4"}], indirect=True)
def test_threads_whose_server_was_killed_close_the_port_and_answer(server: Server) -> None:
    """The port is closed while a request still runs."""
    with connected(server) as running:
        running.sendall(HEAD + BODY[:10])
        with Client(server.url) as other:
            assert other.add("bob").status == 200  # the worker has the other request by now
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait(SECONDS)
        wait_until_refused(server)
        running.sendall(BODY[10:])
        assert running.makefile("rb").read().startswith(b"HTTP/1.1 200 OK\r\n")
        server.start()


@CLASSES
def test_clients_are_told_how_long_connections_are_kept(server: Server) -> None:
    """``Keep-Alive: timeout=N`` on each response after which the connection stays open, and on no other."""
    with Client(server.url) as client:
        for path, status in (("/cart/alice", 200), ("/healthz", 200), ("/nothing", 404)):
            response = client.call("GET", path)
            assert (response.status, response.headers.get_all("Keep-Alive")) == (status, ["timeout=75"])
        assert client.call("DELETE", "/cart/alice").headers.get_all("Keep-Alive") == ["timeout=75"]
        last = client.call("GET", "/healthz", Connection="close")
        assert (last.headers["Connection"], last.headers["Keep-Alive"]) == ("close", None)
