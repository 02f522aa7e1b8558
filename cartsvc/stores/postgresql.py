"""The PostgreSQL store: records in one table, shared by all machines, that survive what its server is set up for."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from cartsvc.carts import record as records
from cartsvc.carts.store import scanned
from cartsvc.errors import OutcomeUnknown, RecordUnreadable, StoreError, StoreFull, StoreUnusable, driver_words
from cartsvc.stores import postgresql_statements as sql
from cartsvc.stores.compare_and_set import CompareAndSetStore, Found
from cartsvc.stores.operation import current_operation, set_in_doubt
from cartsvc.stores.postgresql_connection import ServerError
from cartsvc.stores.postgresql_connector import Connector
from cartsvc.stores.postgresql_pool import Pool
from cartsvc.stores.urls import POOL_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg.pq.abc import PGresult

    from cartsvc.carts.record import Record
    from cartsvc.stores.urls import PostgresqlConfig

_CLEAR_EVERY = 16  # writes of this process
_FULL_S = 10  # after a write that found no room, unless a later one has found some

# SQLSTATE codes
_LOST = frozenset({"40001", "40P01"})  # serialization failure, deadlock: another statement has won
_DISK_FULL = "53100"
_READ_ONLY = "25006"
_NO_RIGHT = frozenset({"42501", "3F000"})  # insufficient privilege, no schema to create it in
_UNDEFINED_TABLE = "42P01"
_UNDEFINED_FUNCTION = "42883"
_EXISTS_ALREADY = frozenset({"23505", "42P07", "42710"})  # another process has created the table at the same time


class PostgresqlStore(CompareAndSetStore):
    """Keep each record as one row, written by compare-and-set on its tag. The table is created when it is missing.

    Each statement is a transaction. A write is sent once and never cancelled, because a commit whose wait for the
    standby is cancelled is applied without it. If its response is lost, OutcomeUnknown is raised.
    """

    def __init__(self, config: PostgresqlConfig, *, clock: Callable[[], int], timeout: float) -> None:
        super().__init__(clock=clock, timeout=timeout)
        for path in (config.sslrootcert, config.sslcert, config.sslkey):
            _check_file(path)
        self._pool = Pool(Connector(config).connect, POOL_SIZE)
        self._writes = count(1)
        self._full_until = 0.0  # by the monotonic clock

    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Read pages in the order of the keys.

        A single transaction for all would keep the server from removing the old versions of rows.
        """
        last = b""
        while True:
            with self.operation():
                page = self._execute(sql.PAGE, [last])
            if not page.ntuples:
                break
            for row in range(page.ntuples):
                last = _value(page, row, 0)
                read = partial(self._decode_live, _value(page, row, 1))
                yield from scanned(last.decode(errors="surrogateescape"), read)

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Remove the row in one round trip."""
        with self.operation():
            deleted = self._execute(sql.DELETE, [self._key(user_id)], write=True)
        if not deleted.ntuples:
            return None
        try:
            return records.decode(_value(deleted, 0, 0))
        except RecordUnreadable as error:
            return error

    def purge_expired(self) -> int:
        """Remove the rows that have expired by both clocks: the server's, and that of this process."""
        total = 0
        while True:
            with self.operation():
                removed = self._execute(sql.PURGE, [sql.timestamp(self._clock())], write=True).command_tuples
            if not removed:
                return total
            total += removed

    def ping(self) -> None:
        """Send a write that changes nothing, and wait for its commit as for that of any write.

        It needs no room. So the server counts as full for some seconds after a write that has found none.
        """
        with self.operation():
            try:
                self._confirm_by(sql.PROBE)
            except OutcomeUnknown as error:  # the ping writes nothing, so nothing is in doubt
                raise StoreError from error.__cause__
        if time.monotonic() < self._full_until:
            raise StoreFull

    def setup_script(self) -> str:
        """Return the SQL that creates the table."""
        return sql.SETUP

    def set_up(self) -> None:
        """Create the table if it is absent. Raises StoreError."""
        with self.operation(), self._errors():
            self._create_table()

    def startup_warnings(self) -> list[str]:
        """Create the table if it is absent, and return warnings about a server that may lose carts.

        Raises StoreUnusable if the user of the service has no right to create or use the table.
        """
        try:
            with self.operation():
                self._execute(sql.SELECT, [b""])
                found = self._execute(sql.SETTINGS)
        except StoreError as error:
            words = driver_words(error)
            if isinstance(error.__cause__, ServerError) and error.__cause__.status_code in _NO_RIGHT:
                raise StoreUnusable(
                    f"the table cartsvc_records cannot be created or used: {words}. Run 'flask --app wsgi carts init' "
                    "with the URL of a user that may create it, or give the SQL that 'carts init --print' writes to "
                    "the administrator of the database. The user of the service needs SELECT, INSERT, UPDATE, DELETE."
                ) from error
            return [f"the configuration of the PostgreSQL server cannot be read: {words}"]
        return sql.advice({_text(found, row, 0): _text(found, row, 1) for row in range(found.ntuples)})

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _key(self, user_id: str) -> bytes:
        return user_id.encode(errors="surrogateescape")

    def _read(self, key: bytes) -> bytes | None:
        found = self._execute(sql.SELECT, [key])
        return _value(found, 0, 0) if found.ntuples else None

    def _compare_and_set(
        self,
        key: bytes,
        data: bytes | None,
        new: Record | None,
        *,
        allow_when_full: bool,  # noqa: ARG002 - the server cannot make the difference
    ) -> Found | None:
        """Write the record in one round trip, and read it again if the compare fails."""
        tag = b"" if data is None else records.decode(data).tag.encode()
        try:
            if new is None:
                written = self._execute(sql.REMOVE, [key, tag], write=True)
            else:
                row = [key, new.tag.encode(), sql.end_of_minute(new.expires_at), records.encode(new)]
                if data is None:
                    written = self._execute(sql.INSERT, row, write=True)
                else:
                    written = self._execute(sql.UPDATE, [*row, tag], write=True)
            is_written = bool(written.command_tuples)
        except StoreError as error:
            if not isinstance(error.__cause__, ServerError) or error.__cause__.status_code not in _LOST:
                raise
            is_written = False
        if not is_written:
            return Found(self._read(key))
        if data is None:
            self._full_until = 0.0
        self._clear_expired()
        return None

    def _confirm(self) -> None:
        """Wait until the standby has all that was read, because a write whose wait was cancelled is visible here too.

        A retry with its key finds such a write, and must not succeed as long as only this server has it.
        """
        self._confirm_by(sql.CONFIRM)

    def _confirm_by(self, statement: bytes) -> None:
        try:
            self._execute(statement, write=True)
        except StoreError as error:  # CockroachDB replicates each write itself, and has no such function
            if not isinstance(error.__cause__, ServerError) or error.__cause__.status_code != _UNDEFINED_FUNCTION:
                raise

    def _clear_expired(self) -> None:
        """Remove some expired rows with every sixteenth write. The write has succeeded, whatever becomes of this."""
        if next(self._writes) % _CLEAR_EVERY == 0:
            with suppress(StoreError):
                self._execute(sql.CLEAR)

    def _create_table(self) -> None:
        try:
            with self._pool.connection(write=False) as connection:
                connection.execute_script(sql.SETUP.encode())
        except ServerError as error:
            if error.status_code not in _EXISTS_ALREADY:
                raise

    def _execute(self, statement: bytes, parameters: Sequence[bytes] = (), *, write: bool = False) -> PGresult:
        """Send one statement; again only if the server has rejected it for a reason that may be over.

        Raises StoreError.
        """
        with self._errors():
            reconnected = False
            while True:
                try:
                    return self._send(statement, parameters, write=write)
                except ServerError as error:
                    if error.status_code == _UNDEFINED_TABLE:
                        self._create_table()
                        return self._send(statement, parameters, write=write)
                    if error.status_code == _READ_ONLY and not reconnected:
                        self._pool.close_idle()  # another server may be the primary now
                        reconnected = True
                    elif write or error.status_code not in _LOST:
                        raise

    def _send(self, statement: bytes, parameters: Sequence[bytes], *, write: bool) -> PGresult:
        set_in_doubt(in_doubt=False)
        with self._pool.connection(write=write) as connection:
            return connection.execute(statement, parameters, write=write)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (ServerError, OSError) as error:
            operation = current_operation.get()
            if operation is not None and operation.in_doubt:
                raise OutcomeUnknown from error
            if isinstance(error, ServerError) and error.status_code == _DISK_FULL:
                self._full_until = time.monotonic() + _FULL_S
                raise StoreFull from error
            raise StoreError from error


def _check_file(path: str | None) -> None:
    try:
        if path is not None:
            Path(path).read_bytes()
    except OSError as error:
        raise StoreUnusable(f"the certificates in {path} cannot be used: {error.strerror}") from error


def _value(result: PGresult, row: int, column: int) -> bytes:
    return result.get_value(row, column) or b""


def _text(result: PGresult, row: int, column: int) -> str:
    return _value(result, row, column).decode()
