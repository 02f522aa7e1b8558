"""Test the PostgreSQL store on servers that reject, are full, restart or were replaced."""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from cartsvc.errors import OutcomeUnknown, StoreError, StoreFull
from cartsvc.stores.postgresql import PostgresqlStore
from cartsvc.stores.postgresql_connection import ServerError
from cartsvc.stores.urls import PostgresqlConfig
from cartsvc.telemetry.logging import LoggedStore
from tests.support.clock import real_now
from tests.support.postgresql_store import TABLE, opened, warm_up
from tests.support.postgresqls import postgresql
from tests.support.records import a_record, adding, at_once, put, remove
from tests.support.server_store import (
    AMPLE,
    SECONDS,
    THREADS,
    TIME,
    end_twice,
    kind_of,
    quantity,
)
from tests.support.services import FakeSeconds
from tests.support.valkeys import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.postgresqls import Postgresql

OURS = "FROM pg_stat_activity WHERE application_name = 'cartsvc'"


# ---- a server that cannot ----


@contextmanager
def read_only(server: Postgresql) -> Iterator[None]:
    """Let new sessions of the database only read, and end the others."""
    server.ask("ALTER DATABASE shop SET default_transaction_read_only = on")
    server.ask(f"SELECT pg_terminate_backend(pid, 5000) {OURS}")
    yield
    server.ask("ALTER DATABASE shop RESET default_transaction_read_only")


@contextmanager
def crowded(server: Postgresql) -> Iterator[None]:
    """Let no more clients connect."""
    server.ask("ALTER DATABASE shop ALLOW_CONNECTIONS false")
    server.ask(f"SELECT pg_terminate_backend(pid, 5000) {OURS}")
    yield
    server.ask("ALTER DATABASE shop ALLOW_CONNECTIONS true")


@contextmanager
def forbidden(server: Postgresql) -> Iterator[None]:
    """Reject all statements that change the table."""
    server.ask("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$", database="shop")
    server.ask(f"CREATE TRIGGER no BEFORE INSERT OR UPDATE OR DELETE ON {TABLE} EXECUTE FUNCTION no()", database="shop")
    yield
    server.ask("DROP FUNCTION no CASCADE", database="shop")


# State, words in the error's cause, and whether records can still be read.
STATES: dict[str, tuple[Callable[[Postgresql], Any], str, bool]] = {
    "read-only": (read_only, "read-only transaction", True),
    "no connections": (crowded, "not currently accepting connections", False),
    "rejecting": (forbidden, "no", True),
}


@pytest.mark.parametrize(("state", "expected", "readable"), STATES.values(), ids=STATES)
def test_server_that_rejects_is_unavailable(
    pg: Postgresql, pg_url: str, state: Callable[[Postgresql], Any], expected: str, *, readable: bool
) -> None:
    """Writes and pings raise StoreError and change nothing; afterwards the same store works as before."""
    with opened(pg_url, timeout=AMPLE) as store:
        before = put(store, "u", a_record(real_now))
        with state(pg):
            for call in (store.ping, lambda: store.update("u", adding(real_now)), lambda: remove(store, "u")):
                with pytest.raises(StoreError) as caught:
                    call()
                assert type(caught.value) is StoreError
                assert caught.match("Nothing was changed")
                assert expected in str(caught.value.__cause__)
            if readable:
                assert store.get("u") == before
            else:
                assert kind_of(lambda: store.get("u")) is StoreError
        assert store.get("u") == before
        store.ping()
        store.update("u", adding(real_now))


def test_server_without_connections_is_unavailable(pg: Postgresql, pg_database: str) -> None:
    """The connections that a store has continue to work."""
    pg.ask("CREATE ROLE crowd LOGIN CONNECTION LIMIT 1")
    pg.ask("GRANT ALL ON SCHEMA public TO crowd", database=pg_database)
    url = pg.url_of(pg_database, user="crowd")
    try:
        with opened(url) as first, opened(url) as second:
            put(first, "u", a_record(real_now))
            with pytest.raises(StoreError) as caught:
                second.ping()
            assert "too many connections for role" in str(caught.value.__cause__)
            first.ping()
            first.close()
            eventually(second.ping)
    finally:
        pg.ask("DROP OWNED BY crowd", database=pg_database)
        pg.ask("DROP ROLE crowd")


def test_standby_is_readable_at_most() -> None:
    """It rejects writes; while it starts, or when it is no hot standby, it rejects everything."""
    with postgresql() as primary:
        with opened(primary.url) as store:
            before = put(store, "u", a_record(real_now))
        with postgresql(primary=primary) as standby, opened(standby.url) as store:
            eventually(lambda: standby.wait_until(lambda _: store.get("u") == before))
            assert kind_of(lambda: store.update("u", adding(real_now))) is StoreError
            assert kind_of(store.ping) is StoreError
            standby.stop()
            standby.launch(hot_standby="off")
            words = ""
            deadline = time.monotonic() + SECONDS
            while "Hot standby mode is disabled" not in words and "not accepting connections" not in words:
                assert time.monotonic() < deadline, words
                with pytest.raises(StoreError) as caught:
                    store.get("u")
                words = str(caught.value.__cause__)


@pytest.mark.parametrize("name", ["INSERT", "UPDATE"])
def test_full_disk_is_a_full_store(pg: Postgresql, pg_url: str, pg_database: str, name: str) -> None:
    """The code of a full disk; what is stored can be read and removed."""
    with opened(pg_url) as store:
        before = put(store, "u", a_record(real_now))
        body = "BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END"
        pg.ask(f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $${body}$$", database=pg_database)
        pg.ask(f"CREATE TRIGGER full_disk BEFORE {name} ON {TABLE} EXECUTE FUNCTION full_disk()", database=pg_database)
        user_id = "new" if name == "INSERT" else "u"
        with pytest.raises(StoreFull) as caught:
            store.update(user_id, adding(real_now))
        assert "could not extend file" in str(caught.value.__cause__)
        assert dict(store.scan()) == {"u": before}
        assert kind_of(store.ping) is StoreFull
        remove(store, "u")
        pg.ask("DROP FUNCTION full_disk CASCADE", database=pg_database)
        put(store, "newer", a_record(real_now))
        store.ping()


def test_small_disk_fills_up() -> None:
    """A write without room changes nothing; records can be read and deleted, and after a vacuum there is room again."""
    with postgresql() as server:
        server.stop()
        directory = server.small_disk()
        server.start()
        server.ask(f"CREATE TABLESPACE small LOCATION '{directory}'")
        server.ask("ALTER DATABASE postgres SET default_tablespace = small")
        with opened(server.url) as store:
            put(store, "u0", a_record(real_now))
            server.ask(f"VACUUM {TABLE}")  # makes the maps that a later one needs
            note = random.Random(1).randbytes(2000).hex()  # noqa: S311 - the server would compress a repeated letter
            for number in count():
                record = a_record(real_now, note=note)
                outcome = kind_of(lambda: put(store, f"u{number}", record))  # noqa: B023 - called at once
                if outcome is not None:
                    break
            assert outcome is StoreFull
            stored = dict(store.scan())
            assert set(stored) == {f"u{each}" for each in range(number)}
            for user_id, found in stored.items():
                assert store.delete(user_id) == found
            server.ask(f"VACUUM {TABLE}")
            put(store, "u", record)


# ---- interruptions ----


@contextmanager
def waiting(server: Postgresql, store: PostgresqlStore) -> Iterator[list[type[Exception] | None]]:
    """Let a write of the store wait on the server until the block ends; yield a list for what it raises."""
    raised: list[type[Exception] | None] = []
    with server.client("shop") as client:
        client.execute(f"BEGIN; LOCK TABLE {TABLE} IN SHARE MODE".encode())
        thread = threading.Thread(target=lambda: raised.append(kind_of(lambda: store.update("u", adding(real_now)))))
        thread.start()
        waits = f"SELECT 1 {OURS} AND wait_event_type = 'Lock'".encode()
        server.wait_until(lambda admin: admin.execute(waits).fetchone())
        yield raised
        thread.join(SECONDS)


@pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
def test_interrupted_write_has_changed_nothing(pg: Postgresql, pg_url: str, function: str) -> None:
    """A statement that an administrator ends before its commit is rolled back, and so there is no doubt."""
    with opened(pg_url) as store:
        warm_up(store)
        with waiting(pg, store) as raised:
            pg.ask(f"SELECT {function}(pid) {OURS} AND wait_event_type = 'Lock'")
        assert raised == [StoreError]
        assert quantity(store) == 0
        assert store.update("u", adding(real_now)) == 1


def test_terminated_connections_fail_no_request(pg: Postgresql, pg_url: str) -> None:
    """Those that are idle are replaced."""
    with opened(pg_url) as store:
        at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
        pg.ask(f"SELECT pg_terminate_backend(pid, 5000) {OURS}")
        at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
        assert [quantity(store, f"u{number}") for number in range(THREADS)] == [2] * THREADS


def test_killed_server_is_unavailable_until_restarted() -> None:
    """No acknowledged write is lost; old connections fail no request."""
    with postgresql() as server, opened(server.url, timeout=TIME) as store:
        end_twice(server, store)


def test_write_cut_by_a_crash_is_in_doubt() -> None:
    """All connections of a crashing server end without a word; the retry finds out."""
    with postgresql() as server:
        server.empty_database()
        with opened(server.url_of("shop")) as store:
            store.set_up()
            with waiting(server, store) as raised:
                server.kill()
            assert raised == [OutcomeUnknown]
            server.start()
            assert eventually(lambda: quantity(store)) == 0


def test_host_without_an_address_is_unavailable() -> None:
    """A name without an address; and names that a URL rejects: with an empty part, or one that is too long."""
    for host in ("a..b", "x" * 64, "nowhere.invalid"):
        store = PostgresqlStore(PostgresqlConfig(((host, 5432),), "shop"), clock=real_now, timeout=AMPLE)
        assert kind_of(store.ping) is StoreError
        store.close()


def test_errors_have_a_code(pg: Postgresql, pg_url: str) -> None:
    """It begins the words in the log and on the command line."""
    with opened(pg_url) as store:
        store.set_up()
        with forbidden(pg), pytest.raises(StoreError) as caught:
            store.ping()
        assert isinstance(caught.value.__cause__, ServerError)
        assert (caught.value.__cause__.status_code, str(caught.value.__cause__)) == ("P0001", "no")


# ---- the log ----


def test_failures_are_two_lines(pg: Postgresql, pg_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """One with the code and the server's words, and one when it is over; a ping does not prove that inserts work."""
    pg.ask("CREATE ROLE clerk LOGIN")
    seconds = FakeSeconds()
    try:
        with opened(pg_url) as owner, opened(pg.url_of("shop", user="clerk")) as plain:
            owner.set_up()
            pg.ask(f"GRANT SELECT, UPDATE, DELETE ON {TABLE} TO clerk", database="shop")
            store = LoggedStore(plain, monotonic=seconds)
            for _ in range(2):
                assert kind_of(lambda: store.update("alice", adding(real_now))) is StoreError
            for _ in range(2):
                store.ping()
                seconds.advance(6)
            (begun,) = [record.message for record in caplog.records]
            assert begun == f"store unavailable: 42501 permission denied for table {TABLE}"
            pg.ask(f"GRANT INSERT ON {TABLE} TO clerk", database="shop")
            for _ in range(2):
                store.update("alice", adding(real_now))
                seconds.advance(6)
            (_, over) = [record.message for record in caplog.records]
            assert over == f"over after 12.0 s, failed calls: 2: {begun}"
    finally:
        pg.ask("DROP OWNED BY clerk", database="shop")
        pg.ask("DROP ROLE clerk")
