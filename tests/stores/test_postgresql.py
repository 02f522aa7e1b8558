"""Test the PostgreSQL store: the contract, round trips, concurrent writes, the table, expiry, advice."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from cartsvc.errors import StoreError, StoreUnusable
from cartsvc.stores import open_store
from cartsvc.stores.postgresql import PostgresqlStore
from cartsvc.stores.urls import parse_store_url
from tests.support.clock import FakeClock, real_now
from tests.support.postgresql_store import TABLE, opened, url_of, warm_up
from tests.support.postgresqls import postgresql
from tests.support.records import DAY, a_record, adding, at_once, put, putting, remove
from tests.support.server_store import (
    AMPLE,
    THREADS,
    TIME,
    lose_always,
    quantity,
)
from tests.support.store_child import Child
from tests.support.store_contract import StoreContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cartsvc.carts.record import Record
    from tests.support.postgresqls import Postgresql
    from tests.support.proxy import Proxy


class TestPostgresqlStore(StoreContract):
    """The contract, held by the PostgreSQL store."""

    THREADS = THREADS
    ADDS = 24
    PART = 4

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The clock the store is opened with."""
        return FakeClock(real_now())

    @pytest.fixture
    def store(self, pg_url: str, clock: FakeClock) -> Iterator[PostgresqlStore]:
        """The store under test."""
        with opened(pg_url, clock) as store:
            yield store


def test_the_url_opens_it(pg_url: str, pg: Postgresql, pg_database: str) -> None:
    """With both schemes."""
    for scheme in ("postgresql", "postgres"):
        config = parse_store_url(pg_url.replace("postgresql:", f"{scheme}:"))
        store = open_store(config, clock=real_now, memory_limit=0, max_readers=0, timeout=AMPLE)
        assert isinstance(store, PostgresqlStore)
        put(store, scheme, a_record(real_now))
        store.close()
        rows = pg.ask(f"SELECT 1 FROM {TABLE} WHERE user_id = '{scheme}'", database=pg_database)
        assert rows == [(1,)]


# ---- what it costs ----


def test_a_get_is_one_round_trip(pg_between: Proxy, pg_database: str) -> None:
    """Whether there is a record or not; a statement that is used often is prepared once per connection."""
    with opened(url_of(pg_between, pg_database)) as store:
        for _ in range(4):
            store.get("u")
        assert pg_between.names() == ["SELECT"] * 4
        store.get("u")
        assert pg_between.names() == ["PREPARE", "SELECT"]
        put(store, "u", a_record(real_now))
        pg_between.names()
        store.get("u")
        assert pg_between.names() == ["SELECT"]


def test_an_update_is_two_round_trips(pg_between: Proxy, pg_database: str) -> None:
    """To create, to change and to remove; an update that writes nothing is confirmed, unless nothing was stored."""
    with opened(url_of(pg_between, pg_database)) as store:
        warm_up(store)
        store._writes = count(1)  # noqa: SLF001 - because every sixteenth write clears expired rows
        pg_between.names()
        put(store, "u", a_record(real_now))
        assert pg_between.names() == ["SELECT", "INSERT"]
        store.update("u", adding(real_now))
        assert pg_between.names() == ["SELECT", "UPDATE"]
        remove(store, "u")
        assert pg_between.names() == ["SELECT", "DELETE"]
        remove(store, "u")
        assert pg_between.names() == ["SELECT"]
        store.ping()
        assert pg_between.names() == ["PING"]
        put(store, "u", a_record(real_now))
        pg_between.names()
        store.update("u", lambda record: (record, None))
        assert pg_between.names() == ["SELECT", "CONFIRM"]
        assert pg_between.connections == 1


def test_lost_compare_costs_two_round_trips(pg_between: Proxy, pg_url: str, pg_database: str) -> None:
    """The record is read again, and the change is made on it, also when it has been deleted since."""
    with opened(url_of(pg_between, pg_database)) as store, opened(pg_url) as other:
        rivals = [lambda: other.update("u", adding(real_now)), lambda: remove(other, "u"), lambda: None]

        def change(record: Record | None) -> tuple[Record, int]:
            rivals.pop(0)()
            written: tuple[Record, int] = adding(real_now)(record)
            return written

        assert store.update("u", change) == 1
        assert pg_between.names() == ["SELECT", "INSERT", "SELECT", "UPDATE", "SELECT", "INSERT"]
        assert quantity(other) == 1


def test_threads_of_one_process_lose_no_compare(pg_between: Proxy, pg_database: str) -> None:
    """Threads take turns: on one cart there are as many compares as adds."""
    with opened(url_of(pg_between, pg_database)) as store:

        def work(_: int) -> None:
            for _ in range(20):
                store.update("u", adding(real_now, spins=2000))

        at_once(THREADS, work)
        names = pg_between.names()
        assert (names.count("INSERT"), names.count("UPDATE")) == (1, THREADS * 20 - 1)
        assert quantity(store) == THREADS * 20


# ---- several at once ----


def test_no_add_of_several_stores_is_lost(pg_between: Proxy, pg_database: str) -> None:
    """Independent stores lose compares, but no add."""
    with ExitStack() as stack:
        stores = [stack.enter_context(opened(url_of(pg_between, pg_database))) for _ in range(4)]

        def work(number: int) -> None:
            for _ in range(20):
                stores[number % 4].update("u", adding(real_now, spins=2000))

        at_once(THREADS, work)
        assert quantity(stores[0]) == THREADS * 20
    assert pg_between.names().count("UPDATE") > THREADS * 20, "no compare was lost"


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_serialization_failure_is_a_lost_compare(pg: Postgresql, pg_url: str, pg_database: str, isolation: str) -> None:
    """A server with another isolation level reports lost compares as errors; no add is lost."""
    pg.ask(f"ALTER DATABASE {pg_database} SET default_transaction_isolation = '{isolation}'")
    with ExitStack() as stack:
        stores = [stack.enter_context(opened(pg_url)) for _ in range(4)]
        at_once(THREADS, lambda number: [stores[number % 4].update("u", adding(real_now)) for _ in range(10)])
        assert quantity(stores[0]) == THREADS * 10


def test_no_add_of_several_processes_is_lost(pg_url: str) -> None:
    """Threads and gevent's greenlets, started at once on one cart: an exact total."""
    with (
        opened(pg_url) as store,
        Child(pg_url, workers=4, adds=25, carts=1) as one,
        Child(pg_url, greenlets=True, workers=50, adds=4, carts=1) as other,
    ):
        for child in (one, other):
            child.wait()
        for child in (one, other):
            child.begin()
        outcomes = [child.result() for child in (one, other)]
        assert [each["added"] for each in outcomes] == [100, 200]
        assert quantity(store, "u0") == 300


def test_update_that_always_loses_ends_in_time(pg: Postgresql, pg_url: str, pg_database: str) -> None:
    """Another store is always faster: the update is tried with pauses until its time is over, and changes nothing."""
    with opened(pg_url, timeout=TIME) as store, opened(pg_url) as other:
        store.set_up()
        lose_always(store, other)
    assert pg.ask(f"SELECT count(*) FROM {TABLE}", database=pg_database) == [(1,)]


# ---- the table ----


def test_stores_that_start_at_once_create_it_once(pg: Postgresql) -> None:
    """Whichever is first: none of them fails."""
    for _ in range(3):
        url = pg.url_of(pg.empty_database())
        with ExitStack() as stack:
            stores = [stack.enter_context(opened(url)) for _ in range(THREADS)]
            at_once(THREADS, lambda number: stores[number].update("u", adding(real_now)))  # noqa: B023 - called at once
            assert quantity(stores[0]) == THREADS


@pytest.fixture
def shop(pg: Postgresql, pg_database: str) -> Iterator[str]:
    """Return the URL of a user without the right to create tables."""
    pg.ask("CREATE ROLE shop LOGIN")
    yield pg.url_of(pg_database, user="shop")
    pg.ask("DROP OWNED BY shop", database=pg_database)
    pg.ask("DROP ROLE shop")


def test_user_without_rights_is_told_what_to_do(shop: str, pg: Postgresql, pg_url: str, pg_database: str) -> None:
    """The start fails; the SQL of the store, executed by an owner, is what is missing, and so are four rights."""
    with opened(shop) as store:
        with pytest.raises(
            StoreUnusable, match=r"permission denied for schema public\. Run 'flask --app wsgi carts init'"
        ):
            store.startup_warnings()
        with pytest.raises(StoreError):
            store.set_up()
        pg.ask("REVOKE USAGE ON SCHEMA public FROM PUBLIC", database=pg_database)
        with pytest.raises(StoreUnusable, match="no schema has been selected to create in"):
            store.startup_warnings()
        pg.ask("GRANT USAGE ON SCHEMA public TO PUBLIC", database=pg_database)
        pg.ask(store.setup_script(), database=pg_database)
        with pytest.raises(StoreUnusable, match="permission denied for table"):
            store.startup_warnings()
        pg.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO shop", database=pg_database)
        store.startup_warnings()
        store.ping()
        store.update("u", adding(real_now))
        store.update("u", lambda record: (record, None))
        assert store.purge_expired() == 0
        remove(store, "u")
    with opened(pg_url) as owner:
        owner.set_up()
        assert list(owner.scan()) == []


def test_table_that_disappears_is_created_again(pg: Postgresql, pg_url: str, pg_database: str) -> None:
    """The carts are lost with it, and the store goes on."""
    with opened(pg_url) as store:
        warm_up(store)
        pg.ask(f"DROP TABLE {TABLE}", database=pg_database)
        assert store.get("u") is None
        pg.ask(f"DROP TABLE {TABLE}", database=pg_database)
        assert store.update("u", adding(real_now)) == 1


def test_frequent_writes_leave_the_indexes_alone(pg: Postgresql, pg_url: str, pg_database: str) -> None:
    """Nearly all updates of some busy carts are HOT, and the table stays as small as they are."""
    with opened(pg_url) as store:
        for number in range(200):
            put(store, f"idle-{number}", a_record(real_now, note="x" * 600))
        for _ in range(100):
            for number in range(10):
                put(store, f"busy-{number}", a_record(real_now, note="x" * 600))
    with pg.client(pg_database) as client:
        client.execute("SELECT pg_stat_force_next_flush()")
        query = b"SELECT n_tup_upd, n_tup_hot_upd, pg_relation_size(relid) FROM pg_stat_user_tables"
        updated, hot, size = client.execute(query).fetchone() or (0, 0, 0)
    assert updated == 990
    assert hot > 0.9 * updated
    assert size < 500_000


# ---- time ----


def expire(pg: Postgresql, database: str, days: int) -> None:
    """Let all records have expired so many days ago, by the server's clock."""
    pg.ask(f"UPDATE {TABLE} SET expires_at = now() - interval '{days} days 1 minute'", database=database)


def test_expired_rows_go_with_writes_a_day_later(pg: Postgresql, pg_url: str, pg_database: str) -> None:
    """64 with every sixteenth write, and none of those that ended less than a day ago by the server's clock."""
    with opened(pg_url) as store:
        for days, number in ((0, 5), (1, 100)):
            for each in range(number):
                put(store, f"expired-{days}-{each}", a_record(real_now))
            pg.ask(
                f"UPDATE {TABLE} SET expires_at = now() - interval '{days} days 1 minute' "
                f"WHERE convert_from(user_id, 'UTF8') LIKE 'expired-{days}-%'",
                database=pg_database,
            )
        left = []
        store._writes = count(1)  # noqa: SLF001 - the sixteenth is counted from here
        for turn in range(48):
            put(store, f"u{turn}", a_record(real_now))
            (rows,) = pg.ask(f"SELECT count(*) FROM {TABLE} WHERE expires_at < now()", database=pg_database)
            left.append(rows[0])
        assert left == [105] * 15 + [41] * 16 + [5] * 17


def test_write_succeeds_although_clearing_fails(pg: Postgresql, pg_url: str, pg_database: str) -> None:
    """Because the write has been applied."""
    with opened(pg_url) as store:
        put(store, "old", a_record(real_now))
        expire(pg, pg_database, 2)
        pg.ask(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$",
            database=pg_database,
        )
        pg.ask(f"CREATE TRIGGER fail BEFORE DELETE ON {TABLE} EXECUTE FUNCTION fail()", database=pg_database)
        store._writes = count(16)  # noqa: SLF001 - this one clears
        put(store, "u", a_record(real_now))
        assert store.get("u") is not None


def test_purge_takes_what_has_expired_by_both_clocks(pg: Postgresql, pg_url: str, pg_database: str) -> None:
    """All of it, in parts; a clock that is fast or slow removes nothing that is valid by the other."""
    with opened(pg_url) as store:
        for number in range(1200):
            put(store, f"u{number}", a_record(real_now))
        assert store.purge_expired() == 0
        with opened(pg_url, FakeClock(real_now() + 365 * DAY)) as fast:
            assert list(fast.scan()) == []
            assert fast.purge_expired() == 0
            assert fast.get("u0") is None
            fast.update("other", putting(a_record(lambda: real_now() + 365 * DAY)))
        expire(pg, pg_database, 0)
        with opened(pg_url, FakeClock(real_now() - 365 * DAY)) as slow:
            assert slow.purge_expired() == 0
        assert store.purge_expired() == 1201
        assert list(store.scan()) == []


@pytest.mark.parametrize("lives", [-(10**15), 10**15])
def test_times_of_any_size_are_stored(pg_url: str, lives: int) -> None:
    """An import may contain times before 1970, and later ones than a server can store."""
    with opened(pg_url) as store:
        record = put(store, "u", a_record(real_now, lives=lives))
        assert store.get("u") == (record if lives > 0 else None)
        assert store.purge_expired() == int(lives < 0)


def test_a_scan_takes_little_memory(pg_between: Proxy, pg_database: str) -> None:
    """It reads pages of 64 records, each in a transaction of its own."""
    with opened(url_of(pg_between, pg_database)) as store:
        for number in range(130):
            put(store, f"u{number}", a_record(real_now))
        pg_between.names()
        assert len(list(store.scan())) == 130
        assert [name for name in pg_between.names() if name != "PREPARE"] == ["PAGE"] * 4


# ---- advice ----


def advice(server: Postgresql, url: str, **settings: str) -> list[str]:
    """Return the warnings about a server with these settings."""
    for name, value in settings.items():
        server.ask(f"ALTER SYSTEM SET {name} = '{value}'")
    server.ask("SELECT pg_reload_conf()")
    try:
        with opened(url) as store:
            for name, value in settings.items():
                server.wait_until(lambda client: setting(client, name) == value)  # noqa: B023 - called at once
            return store.startup_warnings()
    finally:
        for name in settings:
            server.ask(f"ALTER SYSTEM RESET {name}")
        server.ask("SELECT pg_reload_conf()")


def setting(client: Any, name: str) -> str:
    """Return this setting of the server."""
    value: str = client.execute(f"SHOW {name}").fetchone()[0]
    return value


def test_warnings_about_servers_that_may_lose_carts() -> None:
    """Each for what it concerns; none for a server that flushes and has a synchronous standby."""
    with postgresql(fsync="on") as server:
        url = server.url
        with opened(url) as store:
            store.set_up()
        standby, off = {"synchronous_standby_names": "a"}, {"synchronous_commit": "off"}
        assert advice(server, url, synchronous_commit="off", **standby) != []
        (alone,) = advice(server, url)
        assert "no synchronous standby" in alone
        assert advice(server, url, synchronous_commit="remote_write", **standby) == []
        (lazy, _) = advice(server, url, **off)
        assert "synchronous_commit is off" in lazy
        (local,) = advice(server, url, synchronous_commit="local", **standby)
        assert "synchronous_commit is local" in local
        (torn, _) = advice(server, url, full_page_writes="off")
        assert "fsync and full_page_writes" in torn
        server.stop()
        with opened(url, timeout=TIME) as store:
            (warning,) = store.startup_warnings()
            assert "cannot be read" in warning
            assert "refused" in warning
