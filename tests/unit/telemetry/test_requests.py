"""The middleware that gives each request an id and passes it to the observers."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from cartsvc.telemetry.requests import RequestInfo, RequestTelemetry, current_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

VALID = ["a", "A-Za.z_0", "0" * 64, "."]
INVALID = ["", " ", "0" * 65, "a b", "a\n", "é", "a/b", "a,b", "a;b", '{"a": 1}', "\x00", "a" * 100_000, "urn:x"]


class Recorder:
    """Keeps what it observes."""

    def __init__(self) -> None:
        self.began = 0
        self.ended: list[RequestInfo] = []

    def begin(self, _info: RequestInfo) -> None:
        """Count it."""
        self.began += 1

    def end(self, info: RequestInfo) -> None:
        """Keep it."""
        self.ended.append(info)


class Called:
    """What one call of the middleware did."""

    def __init__(
        self, app: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]], environ: dict[str, Any]
    ) -> None:
        self.observer = Recorder()
        ticks = count(start=1, step=2)
        self.middleware = RequestTelemetry(
            app, new_id=lambda: "made", monotonic=lambda: float(next(ticks)), observers=[self.observer]
        )
        self.status, self.headers = "", [("", "")]
        self.body = list(self.middleware(environ, self._start))

    def _start(self, status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        self.status, self.headers = status, headers


def _app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("201 CREATED", [("ETag", '"x"')])
    info = current_request.get()
    assert info is not None
    info.store_seconds += 0.5
    return [environ["HTTP_X_REQUEST_ID"].encode(), info.request_id.encode()]


@pytest.mark.parametrize("sent", VALID)
def test_a_valid_id_is_taken(sent: str) -> None:
    """The application, the observers and the response have it."""
    called = Called(_app, {"HTTP_X_REQUEST_ID": sent})
    assert called.headers == [("ETag", '"x"'), ("X-Request-ID", sent)]
    assert called.body == [sent.encode()] * 2
    assert [info.request_id for info in called.observer.ended] == [sent]


@pytest.mark.parametrize("sent", INVALID, ids=range(len(INVALID)))
def test_another_id_is_replaced(sent: str) -> None:
    """Nothing of it is left, so it cannot forge a log line or a header."""
    called = Called(_app, {"HTTP_X_REQUEST_ID": sent})
    assert called.headers == [("ETag", '"x"'), ("X-Request-ID", "made")]
    assert called.body == [b"made", b"made"]


def test_an_observer_sees_how_a_request_ended() -> None:
    """Status, headers, time, and the time of the store; after it no request is the current one."""
    called = Called(_app, {})
    (info,) = called.observer.ended
    assert (called.observer.began, info.status, info.seconds, info.store_seconds) == (1, "201 CREATED", 2.0, 0.5)
    assert info.headers == called.headers
    assert current_request.get() is None


def test_an_error_that_leaves_the_application_is_observed() -> None:
    """Gunicorn responds with 500 then."""

    def fails(_environ: WSGIEnvironment, _start: StartResponse) -> list[bytes]:
        raise KeyboardInterrupt

    seen: list[RequestInfo] = []
    observer = Recorder()
    observer.ended = seen
    middleware = RequestTelemetry(fails, new_id=lambda: "made", monotonic=lambda: 0.0, observers=[observer])
    with pytest.raises(KeyboardInterrupt):
        middleware({}, lambda *_: lambda _: None)
    assert [info.status for info in seen] == ["500 Internal Server Error"]
    assert current_request.get() is None
