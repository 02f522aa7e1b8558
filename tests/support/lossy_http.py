"""An HTTP network between a client and the service that loses, delays and replaces requests and responses."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

import httpx

from cartsvc.api.problems import Problem
from tests.support.http_server import Quiet, serving
from tests.support.servers import serve
from tests.support.tokens import ENVIRONMENT, user_token

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = 60


class Seen(NamedTuple):
    """One request in the network, with the status of the server (None if the request did not reach it)."""

    method: str
    path: str
    key: str | None
    status: int | None
    replayed: bool


class Foreign(NamedTuple):
    """A response that the network sends in place of the server, such as the page of a proxy."""

    status: int
    body: str = ""
    retry_after: str | None = None


class Network:
    """Passes requests on to a server. ``trouble`` lists what happens to the next requests, in order:

    ``request`` and ``answer`` lose the request or the response, ``half`` the second half of the response;
    ``silence`` delays the response until the client gives up; ``late`` delays it until another response has been sent;
    "" does nothing; a Problem or a Foreign is returned instead of the server's response.
    """

    def __init__(self, url: str, upstream: str) -> None:
        self.url = url
        self.upstream = upstream
        self.trouble: list[str | Problem | Foreign] = []
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.overtaken = threading.Event()

    def next_trouble(self) -> str | Problem | Foreign:
        """Return what happens to the current request."""
        with self.lock:
            return self.trouble.pop(0) if self.trouble else ""


@contextmanager
def lossy_network(upstream: str) -> Iterator[Network]:
    """Run a network in front of the server at ``upstream`` (host:port) until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Passing)
    server.network = network = Network(f"http://127.0.0.1:{server.server_port}", upstream)  # type: ignore[attr-defined]
    with serving(server):
        yield network


@contextmanager
def service_with_tokens() -> Iterator[httpx.Client]:
    """Run a service with authentication. Yield a client that reaches it directly, and may use every cart."""
    headers = {"Authorization": f"Bearer {user_token('tests', scope='carts:all', seconds=3600)}"}
    with (
        serve(WEB_CONCURRENCY="1", **ENVIRONMENT) as server,
        httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client,
    ):
        yield client


@contextmanager
def network_before(service: httpx.Client) -> Iterator[Network]:
    """Run a network in front of the service, and check that all planned trouble has come."""
    with lossy_network(str(service.base_url).removeprefix("http://").rstrip("/")) as network:
        yield network
    assert network.trouble == []  # a test whose trouble never came has shown nothing


class _Passing(Quiet, BaseHTTPRequestHandler):
    """Passes one request on. The connection ends with each response, so that a lost response is noticed at once."""

    def _pass(self) -> None:
        network: Network = self.server.network  # type: ignore[attr-defined]
        trouble = network.next_trouble()
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = self.headers.get("Idempotency-Key")
        if trouble == "late":
            network.overtaken.clear()
        if trouble == "request" or isinstance(trouble, Problem | Foreign):
            network.seen.append(Seen(self.command, self.path, key, None, replayed=False))
            if isinstance(trouble, Problem):
                refusal = {"type": f"urn:cartsvc:problem:{trouble.slug}", "status": trouble.status}
                # The service sends seconds; a test need not wait.
                self._replace(Foreign(trouble.status, json.dumps(refusal), "0"))
            elif isinstance(trouble, Foreign):
                self._replace(trouble)
            return
        upstream = HTTPConnection(network.upstream, timeout=_SECONDS)
        upstream.request(self.command, self.path, body or None, dict(self.headers))
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        replayed = answer.headers.get("Idempotency-Replayed") == "true"
        network.seen.append(Seen(self.command, self.path, key, answer.status, replayed))
        if trouble == "silence":
            self.rfile.read(1)  # until the client gives up and closes
        if trouble in ("answer", "silence"):
            return
        if trouble == "late":
            assert network.overtaken.wait(_SECONDS)
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name != "Connection":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if trouble == "half" else data)
        network.overtaken.set()

    def _replace(self, response: Foreign) -> None:
        self.send_response_only(response.status)
        if response.retry_after is not None:
            self.send_header("Retry-After", response.retry_after)
        self.end_headers()
        self.wfile.write(response.body.encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 - http.server's names
