"""The Flask application and its response: every override of Flask, each with what it saves.

The share is of a GET's time in process; docs/decisions/0006 has the figures, and how they were measured. An override
that saves less than 3 %, or disables what Flask promises, is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Response, request
from flask.sessions import NullSession, SessionInterface, SessionMixin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from flask import Request
    from flask.typing import ResponseReturnValue
    from werkzeug.routing import MapAdapter


class NoSessions(SessionInterface):
    """No sessions, because Flask would read and save one in each request. Saves 4 %."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - Flask's signature
        """Return the same empty session for all requests."""
        return self._none

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Do nothing: Flask saves no null session."""


class FlaskApp(Flask):
    """Flask without sessions, and without a lookup of the host, which no route depends on."""

    session_interface = NoSessions()

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return the adapter that matches the path, without parsing the Host header. Saves 17 %.

        Flask's own method runs if TRUSTED_HOSTS is set, and for a WebSocket, which no route accepts. With the shortcut,
        ``url_for(..., _external=True)`` would lack the host; no code here builds such URLs.
        """
        if request is None or self.config["TRUSTED_HOSTS"] is not None or "HTTP_UPGRADE" in request.environ:
            return super().create_url_adapter(request)
        return self.url_map.bind("", request.root_path, None, request.scheme, request.method, request.path)

    def preprocess_request(self) -> ResponseReturnValue | None:
        """Leave the rule that has matched in the WSGI environment, for the log and the metrics around the app."""
        matched_request = current_request()
        rule = matched_request.url_rule
        matched_request.environ["cartsvc.route"] = "" if rule is None else rule.rule
        return super().preprocess_request()

    def log_exception(self, exc_info: Any) -> None:  # noqa: ANN401 - as Flask's
        """Log an exception without the path of the request, which contains a user id."""
        self.logger.error("internal error", exc_info=exc_info)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: none is a coroutine function, which Flask would find out at each call. Saves 5 %."""
        return func


class PrebuiltResponse(Response):
    """A response that is sent as it is. Saves 18 %.

    werkzeug would copy and correct the headers and wrap the body. JSON with its length needs neither.
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Send the response; to a HEAD request without the body."""
        start_response(self.status, self.headers.to_wsgi_list())
        return () if environ["REQUEST_METHOD"] == "HEAD" else cast("list[bytes]", self.response)


def current_request() -> Request:
    """Return the request itself, because each lookup through Flask's proxy takes 0.5 µs. Saves 6 %."""
    itself: Request = cast("Any", request)._get_current_object()  # noqa: SLF001 - werkzeug documents it for this
    return itself
