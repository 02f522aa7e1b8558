"""What only a real gunicorn shows: connections, slow clients, many clients at once."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.http_clients import SECONDS, Client, at_once
from tests.support.raw_http import CHUNKED, JSON, exchange
from tests.support.servers import serve

if TYPE_CHECKING:
    from tests.support.servers import Server


def test_no_add_is_lost_when_32_clients_add_at_once(shared_server: Server) -> None:
    """32 clients x 20 adds to one cart are 640 exactly, and each is answered with a total of its own."""

    def add_twenty(client: Client, _: int) -> list[int]:
        return [client.add("alice").body["total_quantity"] for _ in range(20)]

    with_room = at_once(32, shared_server.url, add_twenty)

    totals = sorted(total for each in with_room for total in each)
    assert totals == list(range(1, 641))
    with Client(shared_server.url) as client:
        cart = client.call("GET", "/cart/alice").body
    assert (cart["total_quantity"], cart["version"]) == (640, 640)


def test_connections_are_kept_alive(shared_server: Server) -> None:
    """Many requests go over one connection."""
    with Client(shared_server.url) as client:
        socket_used = client.connection.sock
        for total in range(1, 21):
            response = client.add("carol")
            assert (response.body["total_quantity"], response.headers["Connection"]) == (total, "keep-alive")
            assert client.connection.sock is socket_used


@pytest.mark.parametrize("server", [{"WEB_CONCURRENCY": "1"}], ids=["gevent"], indirect=True)
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


def test_a_body_over_the_limit_is_answered(shared_server: Server) -> None:
    """A megabyte gets 413 whether announced or chunked, and the connection or the next one goes on."""
    big = b'{"product_id": "' + b"a" * 2**20 + b'"}'
    head = b"POST /cart/dave HTTP/1.1\r\nHost: x\r\n" + JSON + b"\r\n"
    announced = b"Content-Length: %d\r\n\r\n%s" % (len(big), big)
    chunked = CHUNKED + b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(big), big)
    for body in (announced, chunked):
        (response,) = exchange(shared_server, head + body)
        assert response.status == 413
        assert json.loads(response.body)["type"] == "urn:cartsvc:problem:content-too-large"
    with Client(shared_server.url) as client:
        assert client.add("dave").body["total_quantity"] == 1
