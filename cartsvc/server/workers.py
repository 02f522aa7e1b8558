"""gunicorn's workers for cartsvc: how a worker stops, and how it reports malformed requests.

gunicorn.conf.py names these classes. They extend gunicorn 27: pyproject.toml bounds its version, because
``_cap_keepalive``, ``_DEFER``, ``_omits_body`` and the lists of idle connections are not a public interface.
"""

from __future__ import annotations

import functools
import math
import re
import time
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from gunicorn.http.errors import InvalidHeader, ParseException
from gunicorn.workers import base, ggevent, gthread

from cartsvc.server.drain import is_draining

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from types import FrameType
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from gunicorn.http import Request
    from gunicorn.http.wsgi import Response
    from gunicorn.workers.gthread import TConn

# How long a stopping worker keeps connections without a request. A client may already be sending its next request, and
# gets its response with "Connection: close"; 2 seconds are many round trips. More would only delay the stop: with one
# replica, every second of it is an outage.
IDLE_GRACE_S = 2.0


class _Worker(base.Worker):
    """The parts that both worker classes share: what a response announces of its connection, and malformed requests."""

    wsgi: WSGIApplication

    def load_wsgi(self) -> None:
        """Load the application, and announce in the headers of its responses how long the connection stays open.

        A server that drains closes each connection after its next response, so that clients move to other servers, and
        leaves ``cartsvc.draining`` in the environment for the application.

        ``Keep-Alive: timeout=N`` lets clients close an idle connection before the service does, so that they send no
        request into a closed one. The application cannot do this: gunicorn drops hop-by-hop headers, and it alone
        decides about the connection. It decides before the application reads the body, so a stop that begins while
        the request runs is added here.
        """
        super().load_wsgi()
        app = self.wsgi
        keep_alive = ("Keep-Alive", f"timeout={self.cfg.keepalive}")

        def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            response: Response = start_response.__self__  # type: ignore[attr-defined]  # gunicorn's Response has it
            drains = is_draining()
            if drains:
                environ["cartsvc.draining"] = True

            def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:  # noqa: ANN401 - as WSGI has it
                write = start_response(status, headers, exc_info)
                if drains or not self.alive:
                    response.force_close()
                elif not response.should_close():
                    response.headers.append(keep_alive)
                return write

            body = app(environ, start)
            # Only if the body is certain to follow the headers: the response to a HEAD request has none.
            if isinstance(body, list) and len(body) == 1 and response.response_length and not response._omits_body:  # noqa: SLF001
                response.sock = _OneSend(response.sock)
            return body

        self.wsgi = serve

    def handle_error(self, req: Request | None, client: object, addr: object, exc: BaseException) -> None:
        """Respond to and log an error; of a malformed request only its kind, because its text may contain a token."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        try:  # raised because gunicorn logs some kinds with their traceback
            raise _redacted(type(exc)) from None  # type: ignore[arg-type]  # mypy takes classes for unhashable
        except ParseException as redacted:
            if isinstance(exc, InvalidHeader):
                req = req or exc.req  # for the access log
            super().handle_error(req, client, addr, redacted)


class _OneSend:
    """A socket for the headers of a response and its body of one part, which sends both at once.

    gunicorn sends them separately, and a system call takes a fifth of a request's time.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._headers: bytes | None = None

    def sendall(self, data: bytes) -> None:
        """Keep the headers, which are sent first; send the body with them."""
        if self._headers is None:
            self._headers = data
        else:
            self._socket.sendall(self._headers + data)


class GeventWorker(_Worker, ggevent.GeventWorker):
    """A coroutine per connection."""

    kind: ClassVar[str] = "gevent"  # in the start line

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as gunicorn's
        super().__init__(*args, **kwargs)
        self._waits: set[_RequestWait] = set()
        self._closes_at = math.inf  # by the monotonic clock: when a stopping worker closes idle connections

    def timeout_ctx(self) -> _RequestWait:
        """Return the wait for the next request of a connection."""
        seconds = min(self.cfg.keepalive, self._closes_at - time.monotonic())
        return _RequestWait(max(0.0, seconds), self._waits)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully (SIGTERM)."""
        super().handle_exit(sig, frame)
        self._closes_at = time.monotonic() + IDLE_GRACE_S
        timer = gevent.get_hub().loop.timer(IDLE_GRACE_S)
        timer.start(self._close_idle, update=True)

    def _close_idle(self) -> None:
        """End all waits. It runs in gevent's hub, as every time-out does, because it switches to other coroutines."""
        for wait in list(self._waits):
            wait.end()


class ThreadWorker(_Worker, gthread.ThreadWorker):
    """A pool of threads."""

    kind: ClassVar[str] = "gthread"  # in the start line

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as gunicorn's
        super().__init__(*args, **kwargs)
        self._closes_at = math.inf  # by the monotonic clock: when a stopping worker closes idle connections

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully (SIGTERM)."""
        self._closes_at = time.monotonic() + IDLE_GRACE_S
        super().handle_exit(sig, frame)
        self.method_queue.defer(self._cap_keepalive, self._closes_at)  # the worker may be stopping already, and slower

    def is_parent_alive(self) -> bool:
        """Return whether the server's first process runs; without it, stop as by a signal."""
        if super().is_parent_alive():
            return True
        self._closes_at = time.monotonic() + IDLE_GRACE_S
        self.alive = False
        return False

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - as gunicorn's
        """Accept connections or not. A stopping worker closes its listeners too.

        gunicorn leaves them open, so the kernel continues to accept connections, which are reset when the worker ends.
        """
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                listener.close()

    def handle(self, conn: TConn) -> object:
        """Serve a connection in a thread. A connection that sends nothing returns its thread after IDLE_GRACE_S."""
        if not conn.initialized and not conn.wait_for_data(IDLE_GRACE_S):
            return gthread._DEFER if self.alive else False  # noqa: SLF001 - gunicorn does so too, after 5 seconds
        return super().handle(conn)

    def finish_request(self, conn: TConn, fs: Future[object]) -> None:
        """Take a connection back from a thread."""
        super().finish_request(conn, fs)
        if not self.alive and self.keepalived_conns and self.keepalived_conns[-1] is conn:
            conn.timeout = min(time.monotonic() + self.cfg.keepalive, self._closes_at)

    def _cap_keepalive(self, deadline: float) -> None:  # noqa: ARG002 - gunicorn's own, which is too early for a replacement
        """Close idle connections when the grace is over.

        A worker that is replaced (``max_requests``) has no grace: it keeps them for the announced time, because
        the service continues, and a proxy that sends a request at that moment would return 502.
        """
        for conn in chain(self.keepalived_conns, self.pending_conns):
            conn.timeout = min(conn.timeout, self._closes_at)


class _RequestWait(gevent.Timeout):
    """The wait for a request: it ends in time, or when a stopping worker ends it, and raises nothing then."""

    def __init__(self, seconds: float, waits: set[_RequestWait]) -> None:
        super().__init__(seconds, False)  # noqa: FBT003 - gevent then leaves the block and raises nothing
        self._waits = waits
        self._waiting = gevent.getcurrent()

    def start(self) -> None:
        """Begin to wait."""
        super().start()
        self._waits.add(self)

    def close(self) -> None:
        """Stop waiting."""
        self._waits.discard(self)
        super().close()

    def end(self) -> None:
        """End the wait now, unless it was closed since it was found among the waits."""
        if self in self._waits:
            self._waiting.throw(self)


@functools.cache
def _redacted(kind: type[ParseException]) -> type[ParseException]:
    """Return a subclass whose text is the name of this kind: gunicorn shows the text in its response and in the log."""
    name = re.sub(r"\B(?=[A-Z])", " ", kind.__name__).lower()
    return type(kind.__name__, (kind,), {"__init__": lambda _: None, "__str__": lambda _: name})
