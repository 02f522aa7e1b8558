"""Connections to Valkey that know how much time a request has left, and whether a write of it was sent.

redis-py has a time-out for each socket call, and none for a request; it has one error for a command that never left and
for one whose answer was lost; and it sends commands again. Here a request has one deadline, and a command is sent once.
"""

from __future__ import annotations

import ssl
import threading
import time
from contextvars import ContextVar
from typing import Any

from redis import Redis
from redis._parsers import _HiredisParser
from redis.connection import Connection, ConnectionPool
from redis.exceptions import RedisError, ResponseError

# ruff: noqa: ANN401 - redis-py says no more of what it hands on

_WRITE_COMMANDS = frozenset({"EVALSHA", "EVAL", "DEL"})


class Operation:
    """What one request does with the store: until when it may, and whether a write of it has an unknown outcome."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline  # by the monotonic clock
        self.in_doubt = False  # a write was sent, and no answer to it has come

    def remaining(self) -> float:
        """Return the seconds until the deadline, 0 when it is over."""
        return max(0.0, self._deadline - time.monotonic())


current_operation: ContextVar[Operation | None] = ContextVar("exchange", default=None)


class Server(Redis):
    """A client of one server that sends each command once. Raises redis-py's errors, and TimeoutError."""

    def execute_command(self, *command: Any, asking: bool = False, **options: Any) -> Any:
        """Send it, and wait for the answer. ``asking``: it is for a slot of a cluster that is about to come here."""
        connection = self.connection_pool.get_connection()
        try:
            if asking:
                connection.send_command("ASKING")
                connection.read_response()
            connection.send_command(*command)
            return self.parse_response(connection, command[0], **options)
        finally:
            self.connection_pool.release(connection)

    def close(self) -> None:
        """Close its connections; redis-py leaves those of a pool that was handed in."""
        self.connection_pool.disconnect()


class TimedPool(ConnectionPool):
    """Connections to one server, at most so many; when all are in use, one is waited for as long as the request may."""

    def reset(self) -> None:
        """Begin without any."""
        self._slots = threading.BoundedSemaphore(self.max_connections)
        self._idle: list[TimedConnection] = []
        super().reset()

    def get_connection(self, *_arguments: Any, **_options: Any) -> TimedConnection:
        """One that is connected."""
        if not self._slots.acquire(timeout=seconds_left()):
            raise TimeoutError("no connection is free")
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self.connection_class(**self.connection_kwargs)
            connection.refresh()
        except BaseException:
            self._slots.release()
            raise
        return connection

    def release(self, connection: Any) -> None:
        """Take it back."""
        if connection.is_connected:
            self._idle.append(connection)
        self._slots.release()

    def disconnect(self, inuse_connections: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - redis-py's
        """Close those that nobody uses just now; the others would lose their answers."""
        idle, self._idle = self._idle, []
        for each in idle:
            each.disconnect()


class _TimedParser(_HiredisParser):
    def read_from_socket(self, *arguments: Any, **options: Any) -> Any:
        """Read what is there: each time within what is left, or a server that dribbles would be waited for for ever."""
        self._sock.settimeout(seconds_left())
        return super().read_from_socket(*arguments, **options)

    def has_data(self) -> bool:
        """Whether more was read than what was asked for."""
        return bool(self._reader.has_data())


class TimedConnection(Connection):
    """A connection over TCP."""

    _sock: Any  # a socket
    _parser: _TimedParser

    def __init__(self, **options: Any) -> None:
        super().__init__(parser_class=_TimedParser, **options)

    @property
    def socket_timeout(self) -> float:
        """Seconds for what is next."""
        return seconds_left()

    @socket_timeout.setter
    def socket_timeout(self, value: object) -> None:
        """What redis-py would set once for all requests."""

    @property
    def socket_connect_timeout(self) -> float:
        """Seconds: half of what is left, so that a name's other address gets its turn when the first one is silent."""
        return seconds_left() / 2

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: object) -> None:
        """As above."""

    def refresh(self) -> None:
        """Connect, and anew if it was closed meanwhile or holds an answer that nobody has waited for."""
        if not self.is_connected or self._is_stale():
            self.disconnect()
            self.connect()

    def send_command(self, *command: Any, **options: Any) -> None:
        """Send it within the time that is left; while not all of it was sent, the server has done nothing."""
        self._sock.settimeout(seconds_left())
        super().send_command(*command, **options)
        if command[0] in _WRITE_COMMANDS:
            _set_in_doubt(in_doubt=True)

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read the answer within the time that is left."""
        try:
            result = super().read_response(*arguments, **options)
        except RedisError as error:
            if isinstance(error, ResponseError) or error.status_code is not None:  # the server has said so: it refuses
                _set_in_doubt(in_doubt=False)
            raise
        _set_in_doubt(in_doubt=False)
        return result

    def _is_stale(self) -> bool:
        # redis-py's own look polls: under gevent that takes as long as a command. And it takes all that TLS sends
        # unasked for an answer.
        if self._parser.has_data():
            return True
        self._sock.settimeout(0)
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            pass
        return True


class TimedTLSConnection(TimedConnection):
    """A connection over TLS. ``context`` is made once: it takes longer than a request."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._context = context

    def _connect(self) -> ssl.SSLSocket:
        sock = super()._connect()
        try:
            return self._context.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise


def seconds_left() -> float:
    """Return the seconds that this request has, more than 0. Raises TimeoutError when its deadline is over."""
    operation = current_operation.get()
    seconds = operation.remaining() if operation is not None else 0.0
    if not seconds:
        raise TimeoutError("no time is left for this request")
    return seconds


def _set_in_doubt(*, in_doubt: bool) -> None:
    operation = current_operation.get()
    if operation is not None:
        operation.in_doubt = in_doubt
