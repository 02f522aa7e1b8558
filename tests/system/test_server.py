"""What only a real gunicorn shows: connections, signals, slow clients, many clients at once."""

from __future__ import annotations

import signal
import socket
import threading
import time
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.support.http_clients import SECONDS, WORKERS, Client, at_once
from tests.support.servers import run, serve

if TYPE_CHECKING:
    from tests.support.servers import Server


@WORKERS
def test_no_add_is_lost_when_32_clients_add_at_once(server: Server) -> None:
    """32 clients x 50 adds to one cart are 1,600 exactly, and each is answered with a total of its own."""

    def add_fifty(client: Client, _: int) -> list[int]:
        return [client.add("alice").body["total_quantity"] for _ in range(50)]

    with_room = at_once(32, server.url, add_fifty)

    totals = sorted(total for each in with_room for total in each)
    assert totals == list(range(1, 1601))
    with Client(server.url) as client:
        cart = client.call("GET", "/cart/alice").body
    assert (cart["total_quantity"], cart["version"]) == (1600, 1600)


@WORKERS
def test_a_stop_finishes_what_was_accepted(server: Server) -> None:
    """SIGTERM under load: every request on an open connection is answered, the last one with Connection: close."""
    stopped = threading.Event()
    answered = count()

    def add_until_closed(client: Client, number: int) -> tuple[int, str | None]:
        for total in count(1):
            response = client.add(f"user-{number}")
            assert (response.status, response.body["total_quantity"]) == (200, total)
            if next(answered) == 200:
                server.process.send_signal(signal.SIGTERM)
                stopped.set()
            if response.headers["Connection"] == "close":
                return total, "closed"
        return 0, None

    ends = at_once(16, server.url, add_until_closed)

    assert stopped.is_set()
    assert {end for _, end in ends} == {"closed"}
    assert server.process.wait(SECONDS) == 0


@WORKERS
def test_a_stop_waits_for_the_rest_of_a_body(server: Server) -> None:
    """A request whose body is under way when SIGTERM comes is read to its end, done and answered."""
    body = b'{"product_id": "sku-1", "quantity": 2}'
    head = (
        f"POST /cart/alice HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with Client(server.url) as client:
        client.call("GET", "/healthz")
        client.connection.sock.sendall(head.encode() + body[:10])
        time.sleep(0.3)  # nothing tells from outside that the worker has begun to read

        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("Handling signal: term")
        client.connection.sock.sendall(body[10:])

        response = b""
        while b'"total_quantity":2' not in response:
            chunk = client.connection.sock.recv(65536)
            assert chunk, response
            response += chunk
        assert response.startswith(b"HTTP/1.1 200 OK")
    assert server.process.wait(SECONDS) == 0


@WORKERS
def test_connections_are_kept_alive(server: Server) -> None:
    """Many requests go over one connection."""
    with Client(server.url) as client:
        socket_used = client.connection.sock
        for total in range(1, 21):
            response = client.add("alice")
            assert (response.body["total_quantity"], response.headers["Connection"]) == (total, "keep-alive")
            assert client.connection.sock is socket_used


def test_clients_that_dribble_do_not_stop_others(server: Server) -> None:
    """With 200 clients each sending its head byte by byte, others are served within a second."""
    address = (urlsplit(server.url).hostname, urlsplit(server.url).port)
    dribblers = [socket.create_connection(address, SECONDS) for _ in range(200)]
    enough = threading.Event()

    def dribble() -> None:
        for byte in b"GET /cart/alice HTTP/1.1\r\nX-Slow: " + b"a" * 1000:
            for dribbler in dribblers:
                dribbler.send(bytes([byte]))
            if enough.wait(0.05):
                return

    thread = threading.Thread(target=dribble)
    thread.start()
    try:
        slowest = 0.0
        for _ in range(100):
            began = time.monotonic()
            with Client(server.url) as client:
                assert client.add("bob").status == 200
            slowest = max(slowest, time.monotonic() - began)
    finally:
        enough.set()
        thread.join()
        for dribbler in dribblers:
            dribbler.close()
    assert slowest < 1


def test_a_store_that_blocks_holds_up_only_its_own_requests() -> None:
    """While 50 requests wait for a slow store, others that need no store are served at once."""
    with serve("tests.support.apps.slow_app:app") as slow:

        def read(client: Client, number: int) -> float:
            began = time.monotonic()
            assert client.call("GET", "/healthz" if number == 0 else f"/cart/user-{number}").status == 200
            return time.monotonic() - began

        began = time.monotonic()
        live, *waited = at_once(50, slow.url, read)
        assert min(waited) >= 0.5
        assert live < 0.5
        assert time.monotonic() - began < 10


def test_a_body_over_the_limit_is_answered(server: Server) -> None:
    """A megabyte gets 413 whether announced or chunked, and the connection or the next one goes on."""
    big = b'{"product_id": "' + b"a" * 2**20 + b'"}'
    for chunked in (False, True):
        with Client(server.url) as client:
            headers = {"Content-Type": "application/json"}
            body = iter([big]) if chunked else big
            client.connection.request("POST", "/cart/alice", body, headers, encode_chunked=chunked)
            response = client.answer()
            assert (response.status, response.body["type"]) == (413, "urn:cartsvc:problem:content-too-large")
    with Client(server.url) as client:
        assert client.add("alice").body["total_quantity"] == 1


def test_a_wrong_setting_stops_the_start() -> None:
    """All faults are named in one message, without a traceback, and the exit code says that it failed."""
    ended = run(CARTSVC_MAX_ITEMS="many", CARTSVC_STORE_URL="http://x")
    assert ended.returncode == 1
    assert ended.output.count("cartsvc cannot start") == 1
    assert "CARTSVC_MAX_ITEMS='many': must be a whole number" in ended.output
    assert "CARTSVC_STORE_URL=...: must be" in ended.output
    assert "Traceback" not in ended.output


def test_an_unknown_setting_is_told() -> None:
    """A slip in a variable's name is told in the log with the nearest setting; Kubernetes' variables are not."""
    with serve(CARTSVC_CART_TLL="5", CARTSVC_SERVICE_HOST="10.0.0.1") as slipped:
        slipped.wait_for_log("CARTSVC_CART_TLL is not a setting of cartsvc")
        assert "the nearest one is CARTSVC_CART_TTL" in slipped.log()
        assert "SERVICE_HOST" not in slipped.log()
