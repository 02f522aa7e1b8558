"""Serve the metrics on a port of their own, and nothing else there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_PATH = "/metrics"
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPort:
    """Serve ``page`` at ``GET /metrics`` of ``port``, and pass requests to all other ports to ``app``.

    gunicorn takes SERVER_PORT from the listening socket, so no client can choose it. ``page`` is None in a worker
    without files for its metrics.
    """

    def __init__(self, app: WSGIApplication, *, port: int, page: Callable[[], bytes] | None) -> None:
        self._app = app
        self._port = str(port)
        self._page = page

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        if environ["SERVER_PORT"] != self._port:
            return self._app(environ, start_response)
        if environ["PATH_INFO"] != _PATH:
            return _respond(start_response, "404 Not Found", b"The metrics are at /metrics.\n")
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _respond(start_response, "405 Method Not Allowed", b"Use GET.\n", ("Allow", "GET, HEAD"))
        if self._page is None:
            return _respond(start_response, "503 Service Unavailable", b"This worker has no room for its metrics.\n")
        body = self._page()
        return _respond(start_response, "200 OK", b"" if environ["REQUEST_METHOD"] == "HEAD" else body)


def _respond(start_response: StartResponse, status: str, body: bytes, *headers: tuple[str, str]) -> list[bytes]:
    start_response(status, [("Content-Type", _TEXT), ("Content-Length", str(len(body))), *headers])
    return [body]
