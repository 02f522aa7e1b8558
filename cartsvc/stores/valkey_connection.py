"""Connections to Valkey that keep to the deadline of an operation, and record whether one of its writes is in doubt.

redis-py has a timeout per socket call but none per request; it raises the same error for a command that was not sent
and for one whose response was lost; and it sends commands again. Here an operation has one deadline, and a command is
sent once.

pyproject.toml bounds the version of redis-py, because this module uses parts of it that are not public:
``redis._parsers._HiredisParser`` with its ``_sock`` and ``_reader``, and ``_sock``, ``_parser`` and ``_connect()`` of
``Connection``. It also overrides ``ConnectionPool.reset()`` and the properties ``socket_timeout`` and
``socket_connect_timeout`` of ``Connection``, which redis-py reads before each socket call.
"""

from __future__ import annotations

import ssl
import threading
from typing import Any

from redis import Redis
from redis._parsers import _HiredisParser
from redis.connection import Connection, ConnectionPool
from redis.exceptions import RedisError, ResponseError

from cartsvc.stores.operation import seconds_left, set_in_doubt

# ruff: noqa: ANN401 - redis-py has no narrower types

_WRITE_COMMANDS = frozenset({"EVALSHA", "EVAL", "DEL"})


class Server(Redis):
    """A client of one server that sends each command once. It raises the errors of redis-py, and TimeoutError."""

    def execute_command(self, *command: Any, asking: bool = False, **options: Any) -> Any:
        """Send the command and return the response. ``asking``: it is for a slot that is being moved to this server."""
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
        """Close its connections. redis-py does not close those of a pool that was passed to it."""
        self.connection_pool.disconnect()


class TimedPool(ConnectionPool):
    """A limited number of connections to one server. When all are in use, an operation waits until its deadline."""

    def reset(self) -> None:
        """Start without connections."""
        self._slots = threading.BoundedSemaphore(self.max_connections)
        self._idle: list[TimedConnection] = []
        super().reset()

    def get_connection(self, *_arguments: Any, **_options: Any) -> TimedConnection:
        """Return an open connection."""
        if not self._slots.acquire(timeout=seconds_left()):
            raise TimeoutError("no connection is free")
        try:
            return self._open()
        except BaseException:
            self._slots.release()
            raise

    def _open(self) -> TimedConnection:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.connection_class(**self.connection_kwargs)
        if not connection.is_usable():
            connection.disconnect()
            connection.connect()
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        if connection.is_connected:
            self._idle.append(connection)
        self._slots.release()

    def disconnect(self, inuse_connections: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - redis-py's
        """Close the idle connections. Those in use would lose their responses."""
        idle, self._idle = self._idle, []
        for each in idle:
            each.disconnect()


class _TimedParser(_HiredisParser):
    def read_from_socket(self, *arguments: Any, **options: Any) -> Any:
        """Read within the remaining time. A timeout per read would never end if a server sends byte by byte."""
        self._sock.settimeout(seconds_left())
        return super().read_from_socket(*arguments, **options)

    def has_data(self) -> bool:
        """Return whether bytes were read that belong to no response yet."""
        return bool(self._reader.has_data())


class TimedConnection(Connection):
    """A connection over TCP."""

    _sock: Any  # a socket
    _parser: _TimedParser

    def __init__(self, **options: Any) -> None:
        super().__init__(parser_class=_TimedParser, **options)

    @property
    def socket_timeout(self) -> float:
        """Return the seconds for the next socket call."""
        return seconds_left()

    @socket_timeout.setter
    def socket_timeout(self, value: object) -> None:
        """Ignore the value that redis-py sets once for all requests."""

    @property
    def socket_connect_timeout(self) -> float:
        """Return half of the remaining seconds, so that the next address of a name is tried if the first is silent."""
        return seconds_left() / 2

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: object) -> None:
        """Ignore the value, as above."""

    def is_usable(self) -> bool:
        """Return whether the connection is open, also on the server's side, and has no old response."""
        return self.is_connected and not self._is_stale()

    def send_command(self, *command: Any, **options: Any) -> None:
        """Send a command within the remaining time. Until all of it is sent, the server does nothing."""
        self._sock.settimeout(seconds_left())
        super().send_command(*command, **options)
        if command[0] in _WRITE_COMMANDS:
            set_in_doubt(in_doubt=True)

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read the response within the remaining time."""
        try:
            result = super().read_response(*arguments, **options)
        except RedisError as error:
            if isinstance(error, ResponseError) or error.status_code is not None:  # the server has rejected the command
                set_in_doubt(in_doubt=False)
            raise
        set_in_doubt(in_doubt=False)
        return result

    def _is_stale(self) -> bool:
        # redis-py's own check polls, which under gevent takes as long as a command. It also counts a record of the TLS
        # protocol, such as a session ticket, as a response.
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
    """A connection over TLS. ``context`` is made once, because making one takes longer than a request."""

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
