"""Format log records: one JSON object per line, or text for a terminal. Of a request, only what is safe to keep."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from structlog.stdlib import ProcessorFormatter

from cartsvc.telemetry.requests import current_request

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

    from structlog.typing import EventDict

# In ASCII, because some readers end a line at U+2028. The standard library takes five times as long as msgspec.
_encode = msgspec.json.Encoder().encode
_encode_in_ascii = json.JSONEncoder(separators=(",", ":")).encode
_WITH_URI = "Error handling request"  # gunicorn adds the URI, which contains a user id


def log_formatter(kind: str) -> logging.Formatter:
    """Return a formatter (``json`` or ``text``) for all lines of a server, gunicorn's included."""
    return _Formatter(_to_json if kind == "json" else _to_text)


class _Formatter(ProcessorFormatter):
    """structlog's formatter. The lines of requests, whose records have ``fields``, are made without its copies."""

    def __init__(self, render: Callable[[dict[str, Any]], str]) -> None:
        super().__init__(processors=[_members, lambda _logger, _name, members: render(dict(members))])
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        return super().format(record) if fields is None else self._render(_line(record, record.msg, fields))


def _members(_logger: object, _name: str, event_dict: EventDict) -> EventDict:
    """Return the members of a line that is not about a request that has ended."""
    record: logging.LogRecord = event_dict["_record"]
    event, info = event_dict["event"], current_request.get()
    if event.startswith(_WITH_URI):
        event = _WITH_URI
    if exc_info := event_dict.get("exc_info"):
        # In a request, the message of an exception may contain anything that the client has sent.
        lines = traceback.format_exception(*exc_info) if info is None else _without_messages(exc_info[1])
        event = f"{event}\n{''.join(lines)}".rstrip("\n")
    return _line(record, event, {} if info is None else {"request_id": info.request_id, "trace_id": info.trace_id})


def _line(record: logging.LogRecord, event: str, others: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a line in their order."""
    return {
        "timestamp": f"{_second(int(record.created))}.{int(record.created % 1 * 1000):03}+00:00",
        "severity": record.levelname,
        "event": event,
        **others,
        "worker_pid": record.process,
    }


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    """Return a second since the epoch, as RFC 3339 has it, without its offset. Most lines are of the same second."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _to_json(members: dict[str, Any]) -> str:
    try:
        encoded = _encode(members)
    except UnicodeEncodeError:  # a surrogate
        return _encode_in_ascii(members)
    return encoded.decode() if encoded.isascii() else _encode_in_ascii(members)


def _to_text(members: dict[str, Any]) -> str:
    at = datetime.fromisoformat(members.pop("timestamp")).strftime("%Y-%m-%d %H:%M:%S %z")
    severity, event, pid = (members.pop(name) for name in ("severity", "event", "worker_pid"))
    others = "".join(f" {name}={value}" for name, value in members.items() if value is not None)
    return f"[{at}] [{pid}] [{severity}] {event}{others}"


def _without_messages(error: BaseException | None) -> Iterator[str]:
    """Yield a traceback that ends each exception with its class alone."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for each in reversed(chain):
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(each.__traceback__)
        yield f"{type(each).__qualname__}\n"
