"""Limit how long gunicorn's workers wait for slow clients, and request a body only when it is read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from gunicorn.http import Request

_MIN_BYTES_PER_SECOND = 32 * 2**10  # minimum upload rate: this many bytes extend the deadline of a body by one second
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MAX_RECV = 4 * 2**10  # bytes per read, because gunicorn parses chunks one by one and copies the rest each time


class ClientTimeouts:
    """Start and end the timeouts of each request, with the same values for all clients.

    ``timeout_s`` (seconds) limits the time for a body, before its bytes extend it, and for each part of a response;
    ``max_body`` (bytes) is the maximum size of a body; ``yield_control`` runs other connections, for workers that need
    it.
    """

    def __init__(self, *, timeout_s: float, max_body: int, yield_control: Callable[[], object]) -> None:
        self.timeout_s, self.max_body, self.yield_control = timeout_s, max_body, yield_control

    def start_request(self, request: Request) -> None:
        """Start the timeouts. Otherwise an endless body or an unread response would block its connection forever."""
        client = request.unreader.sock
        if not isinstance(client, _TimedSocket):
            client = request.unreader.sock = _TimedSocket(client, self)
        client.start_request(request)

    def finish_request(self, request: Request) -> None:
        """End the timeouts, and yield: a client that sends requests without a pause would block other connections."""
        request.unreader.sock.finish_request()
        self.yield_control()


class _TimedSocket:
    """A client's socket that limits the time for a body, and yields to other connections after each read.

    Only reading and sending are timed, so the work of the service in between is never interrupted.
    """

    def __init__(self, sock: socket.socket, timeouts: ClientTimeouts) -> None:
        self._socket, self._timeouts = sock, timeouts
        self._request: Request | None = None  # whose body is read; None between requests, which gunicorn times
        self._seconds_left = 0.0  # to wait for the body
        self._expects_continue = False  # whether the client waits for "100 Continue" before it sends the body
        self._creditable_bytes = (
            0  # that can still extend the deadline; capped, or empty chunks could extend it forever
        )

    def start_request(self, request: Request) -> None:
        """Time the reading of a body from now on. Sending is timed by the timeout of the socket."""
        self._request, self._seconds_left, self._creditable_bytes = (
            request,
            self._timeouts.timeout_s,
            self._timeouts.max_body,
        )
        self._socket.settimeout(self._timeouts.timeout_s)
        # gunicorn would send "100 Continue" now. It is sent when the body is read, so that a request that is rejected
        # by its headers is not uploaded. Until then the client may send the body or not, so the connection cannot be
        # used for another request.
        self._expects_continue = request._expected_100_continue  # noqa: SLF001 - pyproject.toml bounds gunicorn's version
        if self._expects_continue:
            request._expected_100_continue = False  # noqa: SLF001 - as above
            request.force_close()

    def finish_request(self) -> None:
        """Stop the timeouts: the response is complete."""
        self._request = None
        self._socket.settimeout(None)

    def recv(self, size: int) -> bytes:
        """Receive bytes. Raises TimeoutError if the client is too slow; the connection ends after that response."""
        request, size = self._request, min(size, _MAX_RECV)
        if self._expects_continue and request is not None:
            self._expects_continue = request.must_close = False
            self._socket.sendall(_CONTINUE)
        try:
            data = self._socket.recv(size) if request is None else self._recv_in_time(size)
        except TimeoutError:
            if request is not None:
                request.force_close()
            raise
        # A socket that always has bytes ready would otherwise block other connections and all timers.
        self._timeouts.yield_control()
        return data

    def _recv_in_time(self, size: int) -> bytes:
        if self._seconds_left <= 0:
            raise TimeoutError
        started_at = time.monotonic()
        self._socket.settimeout(self._seconds_left)
        try:
            data = self._socket.recv(size)
        finally:
            self._socket.settimeout(self._timeouts.timeout_s)
        credited = min(len(data), self._creditable_bytes)
        self._creditable_bytes -= credited
        self._seconds_left += credited / _MIN_BYTES_PER_SECOND - (time.monotonic() - started_at)
        return data

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all other attributes of a socket
        return getattr(self._socket, name)
