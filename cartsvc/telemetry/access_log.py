"""Log requests: all of them, or those that failed or were slow. A line contains no user id, no path and no token."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cartsvc.telemetry.requests import RequestInfo

_EVENT = "http.server.request"
_MS_PER_S = 1000
_log = logging.getLogger(__name__)


# What a formatter may use of a record, and a line of a request does not contain.
_UNUSED: dict[str, Any] = dict.fromkeys(("exc_info", "exc_text", "stack_info", "thread", "threadName", "processName"))
_UNUSED |= {"msg": _EVENT, "args": (), "msecs": 0.0, "relativeCreated": 0.0, "taskName": None}
_UNUSED |= {"pathname": __file__, "filename": "access_log.py", "module": "access_log", "funcName": "end", "lineno": 0}


class _RequestRecord(logging.LogRecord):
    """A record that does not look for its file, thread and process name, which takes longer than to make its line."""

    def __init__(self, level: int, fields: dict[str, Any]) -> None:
        self.__dict__.update(_UNUSED)
        self.name, self.levelno, self.levelname = __name__, level, logging.getLevelName(level)
        self.created, self.process = time.time(), os.getpid()
        self.fields = fields


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
    _log.handle(_RequestRecord(level, fields))
