"""Tests of rate limits and headers on the real server: with coroutines and with threads, and what it says of itself."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.http_clients import SECONDS, Client, at_once
from tests.support.servers import serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from tests.support.servers import Server

_LIMITED = {"CARTSVC_RATE_LIMIT": "50/day", "WEB_CONCURRENCY": "1"}  # a worker counts by itself, unless in Valkey
_BOTH = pytest.mark.parametrize(
    "server", [_LIMITED, _LIMITED | {"CARTSVC_THREADS": "8"}], ids=["gevent", "threads"], indirect=True
)


@_BOTH
def test_exactly_so_many_come_through(server: Server) -> None:
    """Clients that start together get 50 of their 160 requests through, and the health check is none of them."""
    assert _storm(server) == (50, 110)
    with Client(server.url) as client:
        refused = client.add("alice")
        assert (refused.status, refused.headers["Content-Type"]) == (429, "application/problem+json")
        assert int(refused.headers["Retry-After"]) > 1
        assert client.call("GET", "/healthz").status == 200


@pytest.mark.parametrize("threads", ["0", "4"], ids=["gevent", "threads"])
def test_two_workers_count_together(threads: str) -> None:
    """In Valkey, whichever of them a connection is with."""
    with valkey() as there:
        settings = _LIMITED | {"CARTSVC_STORE_URL": there.url, "WEB_CONCURRENCY": "2", "CARTSVC_THREADS": threads}
        with serve("tests.support.apps.slow_counter_app:app", **settings) as server:
            assert _storm(server) == (50, 110)


def _storm(server: Server) -> tuple[int, int]:
    def work(client: Client, _: int) -> list[int]:
        return [client.call("GET", "/cart/alice").status for _ in range(10)]

    found = [status for statuses in at_once(16, server.url, work) for status in statuses]
    return found.count(200), found.count(429)


@pytest.mark.parametrize("server", [{"CARTSVC_RATE_LIMIT": "1/day", "CARTSVC_TRUSTED_PROXIES": "1"}], indirect=True)
def test_a_header_that_comes_twice(server: Server) -> None:
    """As a proxy sends it that adds a line of its own: the last one counts."""
    found = []
    with Client(server.url) as client:
        for spoof in ("198.51.100.1", "198.51.100.2"):
            client.connection.putrequest("GET", "/cart/alice")
            client.connection.putheader("X-Forwarded-For", spoof)
            client.connection.putheader("X-Forwarded-For", "203.0.113.9")
            client.connection.endheaders()
            found.append(client.answer().status)
    assert found == [200, 429]


_RAW = [
    b"GET /cart/alice HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /cart/.. HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /swagger-ui HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"PATCH /cart/alice HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"POST /cart/alice HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nx y: z\r\n\r\n",
]


def test_no_answer_tells_a_version(server: Server) -> None:
    """Nor what the service is made of, beyond the server's name; gunicorn's own refusals included."""
    for request in _RAW:
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
            connection.sendall(request)
            response = b"".join(iter(lambda: connection.recv(65_536), b""))
        head, _, body = response.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ")
        assert not re.search(rb"(?i)x-powered-by|werkzeug|flask|python|gevent|cartsvc/", head)
        assert re.findall(rb"(?i)\r\nServer: ([^\r]*)", head) in ([b"gunicorn"], [])
        assert not re.search(rb"(?i)werkzeug|flask|python|gunicorn|gevent|Traceback|\d+\.\d+\.\d+", body)
