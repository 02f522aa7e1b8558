"""Open connections to the PostgreSQL servers of a URL, within the deadline of an operation."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.errors import OperationalError

from cartsvc.stores.operation import seconds_left
from cartsvc.stores.postgresql_connection import READ, WRITE, Connection, first_line, poll

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

    from cartsvc.stores.urls import PostgresqlConfig

_OPTIONS: dict[str, Any] = {
    "application_name": "cartsvc",
    "client_encoding": "UTF8",
    "gssencmode": "disable",  # or libpq looks for Kerberos first, which blocks
    # A timeout of the server would end the wait for the standby, and the write would stay on this server alone.
    "options": "-c statement_timeout=0",
    # A server that is silent for half a minute is unreachable, and its connections end.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,  # milliseconds
}
_Address = tuple[str, str, int]  # host name, IP address, port


class Connector:
    """The servers of a URL. A new connection begins with the address that was the last to accept one.

    Each address has an equal share of the remaining time, so that the next one is tried if the first is silent.
    """

    def __init__(self, config: PostgresqlConfig) -> None:
        self._config = config
        self._last: _Address | None = None

    def connect(self) -> Connection:
        """Open a connection. Raises ConnectionError and TimeoutError, which contain no password."""
        addresses, failures = self._addresses()
        for number, address in enumerate(addresses):
            reserve = seconds_left() * (1 - 1 / (len(addresses) - number))  # for the addresses that follow
            try:
                connection = self._open(address, reserve)
            except (OperationalError, TimeoutError) as error:
                failures.append(first_line(error))
            else:
                self._last = address
                return connection
        raise ConnectionError("; ".join(failures))

    def _addresses(self) -> tuple[list[_Address], list[str]]:
        """Return all addresses, and why names have none. libpq itself would block while it resolves a name."""
        found: list[_Address] = []
        failures = []
        for host, port in self._config.hosts:
            try:
                infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, ValueError) as error:  # ValueError: an invalid host name
                failures.append(f"{host}: {error}")
            else:
                found += [(host, str(info[4][0]), port) for info in infos]
        start = found.index(self._last) if self._last in found else 0
        return found[start:] + found[:start], failures

    def _open(self, address: _Address, reserve: float) -> Connection:
        host, ip, port = address
        config = self._config
        conninfo = make_conninfo(
            host=host,
            hostaddr=ip,
            port=port,
            dbname=config.dbname,
            user=config.username,
            password=config.password,
            target_session_attrs=config.target_session_attrs,
            sslmode=config.sslmode,
            sslrootcert=config.sslrootcert,
            sslcert=config.sslcert,
            sslkey=config.sslkey,
            **_OPTIONS,
        )
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        try:
            _finish_connecting(pgconn, reserve)
        except BaseException:
            pgconn.finish()
            raise
        return Connection(pgconn)


def _finish_connecting(pgconn: PGconn, reserve: float) -> None:
    """Return once the connection is open. Raise TimeoutError when only ``reserve`` seconds are left."""
    while pgconn.status != pq.ConnStatus.BAD:
        status = pgconn.connect_poll()
        if status == pq.PollingStatus.OK:
            return
        if status == pq.PollingStatus.FAILED:
            break
        events = READ if status == pq.PollingStatus.READING else WRITE
        if not poll(pgconn.socket, events, seconds_left() - reserve):
            raise TimeoutError("a server has not accepted a connection in time")
    raise OperationalError(pgconn.get_error_message())
