"""Log requests: all of them, or those that failed or were slow. A line contains no user id, no path and no token."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cartsvc.telemetry.requests import RequestInfo

_EVENT = "http.server.request"
_MS_PER_S = 1000
_log = logging.getLogger(__name__)


class AccessLog:
    """Log requests that end with a status of 5xx or take ``slow_s`` seconds as warnings, and ``all`` others as well."""

    def __init__(self, *, slow_s: float, all_requests: bool) -> None:
        self._slow_s = slow_s
        self._all = all_requests

    def begin(self, info: RequestInfo) -> None:
        """Do nothing."""

    def end(self, info: RequestInfo) -> None:
        """Log the request."""
        if info.status[0] == "5" or info.seconds >= self._slow_s:
            _write(logging.WARNING, info)
        elif self._all:
            _write(logging.INFO, info)


def _write(level: int, info: RequestInfo) -> None:
    if not _log.isEnabledFor(level):
        return
    fields = {
        "http.request.method": info.method,
        "http.route": info.route,
        "http.response.status_code": info.status_code,
        "duration_ms": round(info.seconds * _MS_PER_S, 3),
        "request_id": info.request_id,
        "trace_id": info.trace_id,
        "problem": info.problem,
        "store_ms": round(info.store_seconds * _MS_PER_S, 3),
    }
    # Without a search for the caller, which is always this line.
    _log.handle(_log.makeRecord(_log.name, level, __file__, 0, _EVENT, (), None, extra={"fields": fields}))
