"""HTTP clients of the system tests: on one kept-alive connection, with retries, and many that start at once."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
SECONDS = 20  # a client that waits longer fails its test
NO_ANSWER = ("no answer",)


class Response(NamedTuple):
    """Status, headers and parsed body; ``body`` is None when it is empty."""

    status: int
    headers: http.client.HTTPMessage
    body: Any


class Client:
    """A client with one kept-alive connection, which it never replaces by itself."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=SECONDS)
        self.connection.connect()
        self.connection.auto_open = 0

    def call(self, method: str, path: str, body: object = None, **conditions: str) -> Response:
        """Send one request with these headers (their names written with _ for -), and return its response."""
        self.send(method, path, body, **conditions)
        return self.answer()

    def send(self, method: str, path: str, body: object = None, **conditions: str) -> None:
        """Send one request."""
        headers = {name.replace("_", "-"): value for name, value in conditions.items()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)

    def answer(self) -> Response:
        """Read one response."""
        response = self.connection.getresponse()
        data = response.read()
        return Response(response.status, response.headers, json.loads(data) if data else None)

    def add(self, user_id: str, quantity: int = 1) -> Response:
        """Add to the item that all clients add to."""
        return self.call("POST", f"/cart/{user_id}", {"product_id": "sku-1", "quantity": quantity})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


class Persistent:
    """A client that retries a request, with the same key, until it has a response.

    ``met`` counts what it got instead of a success: NO_ANSWER, or status, slug and Retry-After of a 5xx.
    """

    def __init__(self, url: str) -> None:
        self.met: Counter[tuple[object, ...]] = Counter()
        self._url = url
        self._client: Client | None = None

    def call(self, method: str, path: str, body: object = None, **conditions: str) -> Response:
        """Send one request until it has a response."""
        deadline = time.monotonic() + SECONDS
        while True:
            response = self.try_once(method, path, body, **conditions)
            if response is not None and response.status < 500:
                return response
            assert time.monotonic() < deadline, self.met
            time.sleep(0.03)

    def try_once(self, method: str, path: str, body: object = None, **conditions: str) -> Response | None:
        """Send one request once, on a new connection if the last one was closed."""
        try:
            if self._client is None:
                self._client = Client(self._url)
            response = self._client.call(method, path, body, **conditions)
        except (OSError, http.client.HTTPException):
            self.met[NO_ANSWER] += 1
            self.close()
            return None
        if response.status >= 500:
            self.met[response.status, response.body["type"], response.headers["Retry-After"]] += 1
        if response.headers["Connection"] == "close":
            self.close()
        return response

    def close(self) -> None:
        """Let the connection go."""
        if self._client is not None:
            self._client.connection.close()
        self._client = None


def at_once(count: int, url: str | Sequence[str], work: Callable[[Client, int], T]) -> list[T]:
    """Run ``work(client, number)`` in ``count`` threads that start together, each on a warm connection of its own.

    With several URLs the clients are spread over them.
    """
    barrier = threading.Barrier(count)
    urls = [url] if isinstance(url, str) else url

    def run(number: int) -> T:
        with Client(urls[number % len(urls)]) as client:
            client.call("GET", "/healthz")
            barrier.wait(SECONDS)
            return work(client, number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
