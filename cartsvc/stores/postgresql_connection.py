"""A connection to PostgreSQL that keeps to the deadline of an operation, and records whether its write is in doubt.

It uses ``psycopg.pq``, psycopg's documented wrapper of libpq, instead of psycopg's cursors, for three reasons. Every
wait is a ``select.poll()``, which gevent replaces, with the time that the request has left. A response ends with
ReadyForQuery only: in the extended protocol the server sends CommandComplete before it commits, so that proves nothing.
And a warning during a commit is seen: it is the only sign of a wait for the standby that was cancelled.
"""

from __future__ import annotations

import math
import os
import select
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from psycopg import pq
from psycopg.errors import OperationalError

from cartsvc.stores.operation import seconds_left, set_in_doubt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGconn, PGresult


READ, WRITE = select.POLLIN, select.POLLOUT
_BINARY = pq.Format.BINARY
_PREPARED_USE = 5  # of a statement on a connection
_SUCCESS = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_STATEMENT_COMPLETION_UNKNOWN = "40003"  # CockroachDB's own doubt about a commit


class ServerError(Exception):
    """An error response of the server. ``status_code`` is its SQLSTATE; the text has no values of a statement."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.status_code = sqlstate


class Connection:
    """An open connection in autocommit: each statement is a transaction. It is used by one request at a time.

    Methods raise ServerError, ConnectionError if the connection is lost, and TimeoutError at the deadline.
    """

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn
        self._warning: str | None = None  # of the current statement
        self._uses: dict[bytes, int] = {}  # by statement
        self._names: dict[bytes, bytes] = {}  # of prepared statements
        pgconn.nonblocking = 1
        pgconn.notice_handler = self._notice

    def execute(self, statement: bytes, parameters: Sequence[Buffer | None] = (), *, write: bool) -> PGresult:
        """Send one statement with binary parameters, once, and return its binary result.

        From the moment that all of a write is sent until its response, the operation is in doubt.
        """
        formats = [_BINARY] * len(parameters)
        name = self._prepared(statement)
        if name is None:
            send = partial(self._pgconn.send_query_params, statement, parameters, None, formats, _BINARY)
        else:
            send = partial(self._pgconn.send_query_prepared, name, parameters, formats, _BINARY)
        result = self._round_trip(send, write=write)
        if write:
            if self._warning is not None:  # committed here, and perhaps not on the standby
                raise ConnectionError(self._warning)
            set_in_doubt(in_doubt=False)
        return result

    def _prepared(self, statement: bytes) -> bytes | None:
        """Return the name of the prepared statement; None for the first few times, which may be the only ones.

        Preparing takes a round trip, and then saves the server a third of the time of a read.
        """
        uses = self._uses[statement] = self._uses.get(statement, 0) + 1
        if uses == _PREPARED_USE:
            name = b"cartsvc_%d" % len(self._names)
            self._round_trip(partial(self._pgconn.send_prepare, name, statement), write=False)
            self._names[statement] = name
        return self._names.get(statement)

    def _round_trip(self, send: Callable[[], None], *, write: bool) -> PGresult:
        self._warning = None
        results: list[PGresult] = []
        lost: OperationalError | None = None
        try:
            send()
            while self._pgconn.flush():
                self._wait(READ | WRITE)
                self._pgconn.consume_input()
            if write:
                set_in_doubt(in_doubt=True)
            self._read_results(results)
        except OperationalError as error:  # after the reason, where the server has sent one
            lost = error
        return _checked(results, lost, write=write)

    def execute_script(self, script: bytes) -> None:
        """Execute several statements in one transaction."""
        self._round_trip(partial(self._pgconn.send_query, script), write=False)

    def is_usable(self) -> bool:
        """Return whether the connection is open and has no old response, without waiting."""
        self._warning = None
        try:
            self._pgconn.consume_input()
            self._pgconn.is_busy()  # parses what was read: the server announces that it closes the connection
        except OperationalError:
            return False
        idle = self._pgconn.transaction_status == pq.TransactionStatus.IDLE
        return idle and self._warning is None and self._pgconn.status == pq.ConnStatus.OK

    def is_waiting(self) -> bool:
        """Return whether the server still works on the statement, and has sent nothing."""
        return self._pgconn.status == pq.ConnStatus.OK and not poll(self._pgconn.socket, READ, 0)

    def close(self) -> None:
        """Close the connection, so that the server gets nothing more: not the rest of a statement either."""
        if self._pgconn.status == pq.ConnStatus.OK:
            with socket.socket(fileno=os.dup(self._pgconn.socket)) as sock, suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._pgconn.finish()

    def _read_results(self, results: list[PGresult]) -> None:
        """Append all results up to ReadyForQuery."""
        while True:
            while self._pgconn.is_busy():
                self._wait(READ)
                self._pgconn.consume_input()
            result = self._pgconn.get_result()
            if result is None:
                return
            results.append(result)

    def _wait(self, events: int) -> None:
        if not poll(self._pgconn.socket, events, seconds_left()):
            raise TimeoutError("the server has not responded in time")

    def _notice(self, notice: PGresult) -> None:
        if _field(notice, pq.DiagnosticField.SEVERITY_NONLOCALIZED) in {"WARNING", "FATAL", "PANIC"}:
            self._warning = _field(notice, pq.DiagnosticField.MESSAGE_PRIMARY)


def _checked(results: list[PGresult], lost: OperationalError | None, *, write: bool) -> PGresult:
    """Return the result of a statement, or raise what has become of it; then the outcome of a write may be known.

    An error of the server means that the statement was rolled back, unless the server ends the connection with it
    after the statement had completed, when it may have committed.
    """
    completed = False
    for result in results:
        if result.status in _SUCCESS:
            completed = True
            continue
        sqlstate = _field(result, pq.DiagnosticField.SQLSTATE)
        if not sqlstate:  # libpq's own error
            raise ConnectionError(first_line(result.get_error_message()))
        rolled_back = not completed or _field(result, pq.DiagnosticField.SEVERITY_NONLOCALIZED) == "ERROR"
        if write and rolled_back and sqlstate != _STATEMENT_COMPLETION_UNKNOWN:
            set_in_doubt(in_doubt=False)
        raise ServerError(_field(result, pq.DiagnosticField.MESSAGE_PRIMARY), sqlstate)
    if lost is not None or not completed:
        raise ConnectionError(first_line(lost or "the server has closed the connection")) from lost
    return results[-1]


def poll(descriptor: int, events: int, seconds: float) -> bool:
    """Return whether one of these events occurs on the descriptor within this time."""
    poller = select.poll()
    poller.register(descriptor, events)
    return bool(poller.poll(math.ceil(max(0.0, seconds) * 1000)))


def _field(result: PGresult, field: pq.DiagnosticField) -> str:
    return (result.error_field(field) or b"").decode(errors="replace")


def first_line(error: object) -> str:
    """Return the first line of a message; libpq continues with advice for people at a terminal."""
    return str(error).strip().partition("\n")[0]
