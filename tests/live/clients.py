"""Clients for the live tests: one kept-alive connection each, and many that start at once."""

from __future__ import annotations

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
# For the fixture ``server``: both worker classes, coroutines (the default) and real threads.
_ROOM = {"CARTSVC_MAX_QUANTITY": "1000000"}  # for many adds to one item
_BOTH = [_ROOM, _ROOM | {"CARTSVC_THREADS": "8"}]
WORKERS = pytest.mark.parametrize("server", _BOTH, ids=["gevent", "threads"], indirect=True)
SECONDS = 20  # a client that waits longer fails its test


class Answer(NamedTuple):
    """Status, headers and parsed body; ``body`` is None when it is empty."""

    status: int
    headers: http.client.HTTPMessage
    body: Any


class Client:
    """One kept-alive connection. It never opens a second one by itself."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=SECONDS)
        self.connection.connect()
        self.connection.auto_open = 0

    def call(self, method: str, path: str, body: object = None) -> Answer:
        """Send one request and read its whole answer."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        return self.answer()

    def answer(self) -> Answer:
        """Read one answer."""
        response = self.connection.getresponse()
        data = response.read()
        return Answer(response.status, response.headers, json.loads(data) if data else None)

    def add(self, user_id: str, quantity: int = 1) -> Answer:
        """Add to the item everybody adds to."""
        return self.call("POST", f"/cart/{user_id}", {"product_id": "sku-1", "quantity": quantity})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def at_once(count: int, url: str, work: Callable[[Client, int], T]) -> list[T]:
    """Run ``work(client, number)`` in ``count`` threads that start together, each on a warm connection of its own."""
    barrier = threading.Barrier(count)

    def run(number: int) -> T:
        with Client(url) as client:
            client.call("GET", "/healthz")
            barrier.wait(SECONDS)
            return work(client, number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
