"""A limited number of connections to PostgreSQL, for which an operation waits until its deadline."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cartsvc.stores.operation import current_operation, seconds_left
from cartsvc.stores.postgresql_connection import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.stores.postgresql_connection import Connection


class Pool:
    """At most ``size`` connections. Raises TimeoutError when none is free in time.

    A connection whose write has no response at the deadline is set aside: it stays open and counted until the server
    has finished, because the server keeps working on it in any case. So the writes that wait for a missing standby
    never use up the server's connections. When half of the connections are set aside, further writes are rejected
    before they are sent, and reads continue.
    """

    def __init__(self, connect: Callable[[], Connection], size: int) -> None:
        self._connect = connect
        self._slots = threading.BoundedSemaphore(size)
        self._max_aside = size // 2
        self._idle: list[Connection] = []
        self._aside: list[Connection] = []
        self._lock = threading.Lock()

    @contextmanager
    def connection(self, *, write: bool) -> Iterator[Connection]:
        """Lend an open connection. An error that is no response of the server ends the connection."""
        self._release_finished()
        if write and len(self._aside) >= self._max_aside:
            raise TimeoutError(f"{len(self._aside)} earlier writes still wait for the server")
        if not self._slots.acquire(timeout=seconds_left()):
            raise TimeoutError("no connection is free")
        connection = None
        try:
            connection = self._usable()
            yield connection
        except BaseException as error:
            if connection is None:
                self._slots.release()
            elif isinstance(error, ServerError) and connection.is_usable():
                self._give_back(connection)
            elif not self._set_aside(connection, error):
                connection.close()
                self._slots.release()
                self.close_idle()  # those to a silent server would cost as many requests their time
            raise
        self._give_back(connection)

    def close_idle(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for each in idle:
            each.close()

    def close(self) -> None:
        """Close all connections but those in use."""
        self.close_idle()
        with self._lock:
            aside, self._aside = self._aside, []
        for each in aside:
            each.close()
            self._slots.release()

    def _usable(self) -> Connection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            if connection.is_usable():
                return connection
            connection.close()

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            self._idle.append(connection)
        self._slots.release()

    def _set_aside(self, connection: Connection, error: BaseException) -> bool:
        """Keep the connection and its place if the server still works on its write."""
        operation = current_operation.get()
        if not isinstance(error, TimeoutError) or operation is None or not operation.in_doubt:
            return False
        with self._lock:
            self._aside.append(connection)
        return True

    def _release_finished(self) -> None:
        """Close the connections set aside whose server has finished."""
        if not self._aside:
            return
        with self._lock:
            finished = [each for each in self._aside if not each.is_waiting()]
            self._aside = [each for each in self._aside if each not in finished]
        for each in finished:
            each.close()
            self._slots.release()
