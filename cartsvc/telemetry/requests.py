"""Identify each request, and pass on when it begins and how it ends: one WSGI middleware."""

from __future__ import annotations

import re
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from opentelemetry.trace import Span

_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")  # in a rule of the application
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FAILED = "500 Internal Server Error"  # what gunicorn responds if the application raises


class RequestInfo:
    """What is known of one request. Times are in seconds."""

    __slots__ = ("headers", "request_id", "seconds", "span", "status", "store_seconds", "wsgi")

    def __init__(self, environ: WSGIEnvironment, request_id: str) -> None:
        self.wsgi = environ
        self.request_id = request_id
        self.status = _FAILED
        self.headers: Sequence[tuple[str, str]] = ()  # of the response
        self.seconds = 0.0
        self.span: Span | None = None  # None without tracing
        self.store_seconds = 0.0

    @property
    def method(self) -> str:
        """The method; ``_OTHER`` if HTTP does not define it, because a client may send any text as its method."""
        method: str = self.wsgi["REQUEST_METHOD"]
        return method if method in _METHODS else "_OTHER"

    @property
    def rule(self) -> str:
        """The rule of the application that has matched; empty if there is none."""
        rule: str = self.wsgi.get("cartsvc.route", "")
        return rule

    @property
    def route(self) -> str:
        """The path of the operation as /openapi.json has it, for example ``/cart/{user_id}``; empty if there is none.

        The application leaves the rule that has matched in the environment.
        """
        return _template(self.rule)

    @property
    def status_code(self) -> int:
        """The status of the response as a number."""
        return int(self.status[:3])

    @property
    def problem(self) -> str | None:
        """The slug of the problem in the response; None if it is none."""
        return self.wsgi.get("cartsvc.problem")

    @property
    def traceparent(self) -> re.Match[str] | None:
        """The trace, span and flags that the client has sent (W3C Trace Context), in hexadecimal; None if invalid."""
        sent = self.wsgi.get("HTTP_TRACEPARENT")
        return None if sent is None else _TRACEPARENT.fullmatch(sent)

    @property
    def trace_id(self) -> str | None:
        """The trace of the request: 32 hexadecimal digits; None without tracing and a valid ``traceparent``."""
        if self.span is not None:
            return f"{self.span.get_span_context().trace_id:032x}"
        found = self.traceparent
        return None if found is None else found[1]


@lru_cache(maxsize=64)
def _template(rule: str) -> str:
    return _PARAMETER.sub(r"{\1}", rule)


class Observer(Protocol):
    """What the middleware calls at the begin and at the end of each request."""

    def begin(self, info: RequestInfo) -> None:
        """Observe a request that begins."""

    def end(self, info: RequestInfo) -> None:
        """Observe a request whose response is complete, and not yet sent."""


# The request that runs in this coroutine or thread.
current_request: ContextVar[RequestInfo | None] = ContextVar("current_request", default=None)


class RequestTelemetry:
    """Give each request an id, which the response contains too, and pass each request to the observers.

    A client's ``X-Request-ID`` is its id if it has 1 to 64 letters, digits, dots, hyphens and underscores; otherwise
    ``new_id`` makes one, and the application finds it in that header. ``monotonic`` returns seconds. A request is
    observed before its response is sent, so a response that a client has received was always observed.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        new_id: Callable[[], str],
        monotonic: Callable[[], float],
        observers: Sequence[Observer] = (),
    ) -> None:
        self._app = app
        self._new_id = new_id
        self._monotonic = monotonic
        self._observers = observers

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        if not _ID.fullmatch(request_id):
            request_id = environ["HTTP_X_REQUEST_ID"] = self._new_id()
        info = RequestInfo(environ, request_id)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:  # noqa: ANN401 - as WSGI has it
            info.status = status
            info.headers = headers = [*headers, ("X-Request-ID", request_id)]
            return start_response(status, headers, exc_info)

        current_request.set(info)
        began = self._monotonic()
        for observer in self._observers:
            observer.begin(info)
        try:
            return self._app(environ, start)
        finally:
            info.seconds = self._monotonic() - began
            for observer in self._observers:
                observer.end(info)
            current_request.set(None)
