"""How a server stops: its port is closed at once, idle connections do not delay it, and requests are answered."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.support.http_clients import SECONDS, Client, at_once
from tests.support.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Server

# Connections are kept as behind a proxy that keeps idle connections for 60 seconds.
KEPT = {"CARTSVC_KEEP_ALIVE": "75", "WEB_CONCURRENCY": "1"}
GRACE = 2  # seconds that idle connections are kept
MOST = 10  # seconds that a stop may take here: the grace, and a busy machine; half of gunicorn's graceful time-out
BODY = b'{"product_id": "sku-1", "quantity": 2}'
HEAD = b"POST /cart/alice HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
    BODY
)


@pytest.fixture(scope="module", params=[KEPT, KEPT | {"CARTSVC_THREADS": "4"}], ids=["gevent", "threads"])
def stopped_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return one server for the module, of each worker class, which tests stop."""
    with serve(**request.param) as running:
        yield running


@pytest.fixture
def server(stopped_server: Server) -> Server:
    """Return the server, started again if a test has stopped it."""
    if stopped_server.process.poll() is not None:
        stopped_server.start()
    return stopped_server


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


def test_clients_are_told_how_long_connections_are_kept(server: Server) -> None:
    """``Keep-Alive: timeout=N`` on each response after which the connection stays open, and on no other."""
    with Client(server.url) as client:
        assert client.add("alice").headers.get_all("Keep-Alive") == ["timeout=75"]
        for path, status in (("/cart/alice", 200), ("/healthz", 200), ("/nothing", 404)):
            response = client.call("GET", path)
            assert (response.status, response.headers.get_all("Keep-Alive")) == (status, ["timeout=75"])
        assert client.call("DELETE", "/cart/alice").headers.get_all("Keep-Alive") == ["timeout=75"]
        last = client.call("GET", "/healthz", Connection="close")
        assert (last.headers["Connection"], last.headers["Keep-Alive"]) == ("close", None)


def test_a_worker_whose_server_was_killed_frees_the_port(server: Server, request: pytest.FixtureRequest) -> None:
    """Another server can start there soon, though a client keeps its connection, and though a thread still answers."""
    settings = request.node.callspec.params["stopped_server"]
    with connected(server) as running, Client(server.url) as idle:
        running.sendall(HEAD + BODY[:10])
        assert idle.add("bob").status == 200  # the worker has the other request by now
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait(SECONDS)
        wait_until_refused(server)
        if "CARTSVC_THREADS" in settings:  # gevent's worker has ended
            running.sendall(BODY[10:])
            assert running.makefile("rb").read().startswith(b"HTTP/1.1 200 OK\r\n")
        server.start()


def test_a_stop_finishes_what_was_accepted(server: Server) -> None:
    """SIGTERM under load: every request on an open connection is answered, the last one with Connection: close."""
    stopped = threading.Event()
    answered = count()

    def add_until_closed(client: Client, number: int) -> tuple[int, str | None]:
        for total in count(1):
            response = client.add(f"user-{number}")
            assert (response.status, response.body["total_quantity"]) == (200, total)
            if next(answered) == 100:
                server.process.send_signal(signal.SIGTERM)
                stopped.set()
            if response.headers["Connection"] == "close":
                return total, "closed"
        return 0, None

    ends = at_once(16, server.url, add_until_closed)

    assert stopped.is_set()
    assert {end for _, end in ends} == {"closed"}
    assert server.process.wait(SECONDS) == 0


def test_the_port_is_closed_while_a_request_runs(server: Server) -> None:
    """A balancer must see at once that the server is gone; a request whose body is under way is answered all the same.

    It may be the first one of its connection, or a later one.
    """
    with connected(server) as first, Client(server.url) as client:
        assert client.add("alice").status == 200
        running = [first, client.connection.sock]
        for each in running:
            each.sendall(HEAD + BODY[:10])
        with Client(server.url) as other:
            assert other.add("bob").status == 200  # the worker has the other requests by now

        server.process.send_signal(signal.SIGTERM)
        wait_until_refused(server)

        assert server.process.poll() is None
        for each, total in zip(running, (3, 5), strict=True):
            each.sendall(BODY[10:])
            reply = each.makefile("rb").read()
            assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nConnection: close\r\n" in reply
            assert b'"total_quantity":%d' % total in reply
            assert reply.endswith(b"}")
    assert server.process.wait(SECONDS) == 0


def test_connections_without_a_request_do_not_delay_a_stop(server: Server) -> None:
    """They are closed after the grace, however long clients may keep connections otherwise.

    Some have had requests, and some none, because browsers open connections for requests that may never come. One that
    is used in time is answered, because a client may have sent its request before it can know of the stop.
    """
    with connected(server) as old, Client(server.url) as idle, Client(server.url) as used:
        for total, each in enumerate((idle, used), 1):
            response = each.add("alice")
            assert (response.body["total_quantity"], response.headers["Connection"]) == (total, "keep-alive")
        time.sleep(GRACE + 0.5)  # for so long a new connection has a thread; nothing tells from outside
        with connected(server) as new:
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            wait_until_refused(server)
            response = used.add("alice")
            assert (response.status, response.body["total_quantity"]) == (200, 3)
            assert (response.headers["Connection"], response.headers["Keep-Alive"]) == ("close", None)
            assert server.process.wait(SECONDS) == 0
            assert time.monotonic() - began < MOST
            assert old.recv(1) == new.recv(1) == idle.connection.sock.recv(1) == b""
