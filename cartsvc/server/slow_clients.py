"""Clients that are slow: how long gunicorn's workers wait for a body, and when they ask for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from gunicorn.http import Request

# bytes; so many more give a body one more second: a large one may take longer, no other may
_MIN_BYTES_PER_SECOND = 32 * 2**10
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MAX_RECV = 4 * 2**10  # bytes; gunicorn takes a body apart bit by bit and copies the rest of what it has read each time


class ClientTimeouts:
    """What is the same for all clients of a server.

    `patience` (seconds) is how long a client may take over a body of no size, and again over an answer; `max_body`
    (bytes) is what a body may have; `yield_control` lets other connections have a turn, where they need to be let.
    """

    def __init__(self, *, timeout_s: float, max_body: int, yield_control: Callable[[], object]) -> None:
        self.timeout_s, self.max_body, self.yield_control = timeout_s, max_body, yield_control

    def start_request(self, request: Request) -> None:
        """Keep the time: a body that never ends, or an answer nobody takes, would hold its connection for ever."""
        client = request.unreader.sock
        if not isinstance(client, _TimedSocket):
            client = request.unreader.sock = _TimedSocket(client, self)
        client.start_request(request)

    def finish_request(self, request: Request) -> None:
        """The request is answered; a client whose next one is there already would go on for ever: others come first."""
        request.unreader.sock.finish_request()
        self.yield_control()


class _TimedSocket:
    """The socket that a worker reads requests from: it waits for a body, but not for ever, and lets others have a turn.

    Only the reading is timed: whatever the service does meanwhile is not cut off in the middle.
    """

    def __init__(self, sock: socket.socket, timeouts: ClientTimeouts) -> None:
        self._socket, self._timeouts = sock, timeouts
        self._request: Request | None = None  # whose body is read; None between requests, where gunicorn keeps the time
        self._seconds_left = 0.0  # seconds to wait for the body
        self._asks = False  # whether the client waits for "100 Continue" before it sends the body
        self._creditable_bytes = 0  # bytes that still give more of them: without that, chunks of nothing would for ever

    def start_request(self, request: Request) -> None:
        """From here on it is a body that is read. Sending is timed too, by the socket."""
        self._request, self._seconds_left, self._creditable_bytes = (
            request,
            self._timeouts.timeout_s,
            self._timeouts.max_body,
        )
        self._socket.settimeout(self._timeouts.timeout_s)
        # gunicorn would send "100 Continue" now. It is sent when the body is read, so that a request that is refused by
        # its headers costs no upload. Without it the body may come or not, so no other request can use the connection.
        self._asks = request._expected_100_continue  # noqa: SLF001 - pyproject.toml bounds gunicorn's version
        if self._asks:
            request._expected_100_continue = False  # noqa: SLF001 - as above
            request.force_close()

    def finish_request(self) -> None:
        """The request is answered."""
        self._request = None
        self._socket.settimeout(None)

    def recv(self, size: int) -> bytes:
        """Some bytes. Raises TimeoutError when the client's time is over; then the connection ends with the answer."""
        request, size = self._request, min(size, _MAX_RECV)
        if self._asks and request is not None:
            self._asks = request.must_close = False
            self._socket.sendall(_CONTINUE)
        try:
            data = self._socket.recv(size) if request is None else self._recv_in_time(size)
        except TimeoutError:
            if request is not None:
                request.force_close()
            raise
        # bytes that are always there already would keep all others, and every timer, waiting
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

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else gunicorn asks of a socket
        return getattr(self._socket, name)
