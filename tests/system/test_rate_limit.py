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
    from collections.abc import Iterator

    from tests.support.servers import Server

_LIMIT = 50
_LIMITED = {
    "CARTSVC_RATE_LIMIT": f"{_LIMIT}/day",
    "WEB_CONCURRENCY": "1",
}  # a worker counts by itself, unless in Valkey


@pytest.fixture(scope="module", params=["0", "8"], ids=["gevent", "threads"])
def limited(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return a server behind one proxy, which counts by itself."""
    with serve(**_LIMITED, CARTSVC_TRUSTED_PROXIES="1", CARTSVC_THREADS=request.param) as server:
        yield server


def test_exactly_so_many_come_through(limited: Server) -> None:
    """Clients that start together get 50 of their 160 requests through, and the health check is none of them."""
    assert _storm(limited) == (50, 110)
    with Client(limited.url) as client:
        refused = client.add("alice")
        assert (refused.status, refused.headers["Content-Type"]) == (429, "application/problem+json")
        assert int(refused.headers["Retry-After"]) > 1
        assert client.call("GET", "/healthz").status == 200


def test_two_workers_count_together() -> None:
    """In Valkey, whichever of them a connection is with."""
    with valkey() as there:
        settings = _LIMITED | {"CARTSVC_STORE_URL": there.url, "WEB_CONCURRENCY": "2"}
        with serve("tests.support.apps.slow_counter_app:app", **settings) as server:
            assert _storm(server) == (50, 110)


def _storm(server: Server) -> tuple[int, int]:
    def work(client: Client, _: int) -> list[int]:
        return [client.call("GET", "/cart/alice").status for _ in range(10)]

    found = [status for statuses in at_once(16, server.url, work) for status in statuses]
    return found.count(200), found.count(429)


def test_a_header_that_comes_twice(limited: Server) -> None:
    """As a proxy sends it that adds a line of its own: the last one counts."""
    found = []
    with Client(limited.url) as client:
        for number in range(_LIMIT + 1):
            client.connection.putrequest("GET", "/cart/alice")
            client.connection.putheader("X-Forwarded-For", f"198.51.100.{number}")
            client.connection.putheader("X-Forwarded-For", "203.0.113.9")
            client.connection.endheaders()
            found.append(client.answer().status)
    assert found == [200] * _LIMIT + [429]


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


@pytest.mark.parametrize("server", [{"WEB_CONCURRENCY": "1"}], indirect=True)
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
