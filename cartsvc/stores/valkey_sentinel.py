"""Connections to the primary that Sentinel names; each new connection asks again, so they follow a failover."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from cartsvc.stores.operation import Operation, current_operation, seconds_left
from cartsvc.stores.valkey_connection import TimedConnection, TimedPool

if TYPE_CHECKING:
    from collections.abc import Callable

Address = tuple[str, int]


class Sentinels:
    """The sentinels of a service. The one that responded last is queried first.

    ``connect`` makes a connection to the sentinel at an address. Each sentinel has an equal share of half of the
    remaining time, so that others are queried if it is silent, and the primary gets the other half.
    """

    def __init__(self, hosts: tuple[Address, ...], service: str, connect: Callable[[Address], TimedConnection]) -> None:
        self._hosts = hosts
        self._service = service
        self._connect = connect
        self._first = 0

    def find_primary(self) -> Address:
        """Return the address of the primary. Raises ConnectionError if no sentinel names one."""
        failures = []
        share = seconds_left() / 2 / len(self._hosts)
        for turn in range(len(self._hosts)):
            number = (self._first + turn) % len(self._hosts)
            token = current_operation.set(Operation(time.monotonic() + share))
            try:
                found = self._query(self._hosts[number])
            except (RedisError, OSError) as error:
                failures.append(str(error) or type(error).__name__)
            else:
                if found is not None:
                    self._first = number
                    return found
                failures.append(f"a sentinel knows no service {self._service}")
            finally:
                current_operation.reset(token)
        raise ConnectionError("; ".join(failures))

    def _query(self, sentinel: Address) -> Address | None:
        connection = self._connect(sentinel)
        try:
            connection.connect()
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            found: list[bytes] | None = connection.read_response()
        finally:
            connection.disconnect()
        return None if found is None else (found[0].decode(), int(found[1]))


class SentinelPool(TimedPool):
    """A pool whose new connections lead to the current primary; those to a former one are closed, not reopened."""

    def __init__(self, sentinels: Sentinels, **options: Any) -> None:  # noqa: ANN401 - redis-py's own
        self._sentinels = sentinels
        super().__init__(**options)

    def _open(self) -> TimedConnection:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread has taken the last one
                break
            if connection.is_usable():
                return connection
            connection.disconnect()
        host, port = self._sentinels.find_primary()
        opened: TimedConnection = self.connection_class(**self.connection_kwargs | {"host": host, "port": port})
        opened.connect()
        return opened
