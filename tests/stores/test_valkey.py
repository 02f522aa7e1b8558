"""Test the Valkey store on one server: the contract, round trips, concurrent writes, the script, expiry."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from cartsvc.errors import OutcomeUnknown
from cartsvc.stores import open_store
from cartsvc.stores.urls import parse_store_url
from cartsvc.stores.valkey import ValkeyStore
from tests.support.clock import FakeClock, real_now
from tests.support.proxy import Fate
from tests.support.records import DAY, a_record, adding, at_once, put, putting, remove
from tests.support.server_store import (
    AMPLE,
    IN_A_URL,
    THREADS,
    TIME,
    lose_always,
    quantity,
)
from tests.support.store_child import Child
from tests.support.store_contract import StoreContract
from tests.support.valkey_store import WRITE, configured, know_the_scripts, opened, url_of
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from redis import Redis

    from cartsvc.carts.record import Record
    from tests.support.proxy import Proxy
    from tests.support.valkeys import Valkey


class TestValkeyStore(StoreContract):
    """The contract, held by the Valkey store."""

    THREADS = THREADS
    ADDS = 24
    PART = 4

    @pytest.fixture
    def clock(self, clock: FakeClock) -> FakeClock:
        """The clock the store is opened with."""
        return clock

    @pytest.fixture
    def store(self, store: ValkeyStore) -> ValkeyStore:
        """The store under test."""
        return store


def test_the_url_opens_it(server: Valkey) -> None:
    """With both schemes."""
    for scheme in ("valkey", "redis"):
        config = parse_store_url(f"{scheme}://127.0.0.1:{server.port}/3")
        store = open_store(config, clock=real_now, memory_limit=0, max_readers=0, timeout=AMPLE)
        assert isinstance(store, ValkeyStore)
        put(store, scheme, a_record(real_now))
        store.close()
        with server.client(db=3) as client:
            assert client.exists(f"cart:{scheme}") == 1


# ---- what it costs ----


def test_a_get_is_one_round_trip(between: Proxy) -> None:
    """Whether there is a record or not; a new connection sends nothing first."""
    with opened(url_of(between)) as store:
        store.get("u")
        assert between.names() == ["GET"]
        put(store, "u", a_record(real_now))
        between.names()
        store.get("u")
        assert between.names() == ["GET"]


def test_an_update_is_two_round_trips(between: Proxy) -> None:
    """One when nothing is to be written."""
    with opened(url_of(between)) as store:
        know_the_scripts(store)
        between.names()
        put(store, "u", a_record(real_now))
        assert between.names() == ["GET", WRITE]
        store.update("u", adding(real_now))
        assert between.names() == ["GET", WRITE]
        store.update("u", lambda record: (record, None))
        assert between.names() == ["GET"]
        remove(store, "u")
        assert between.names() == ["GET", WRITE]
        remove(store, "u")
        assert between.names() == ["GET"]
        store.ping()
        assert between.names() == [WRITE]
        assert between.connections == 1


def test_lost_compare_costs_one_round_trip(between: Proxy, server: Valkey) -> None:
    """The script returns the stored record; the change is made again on it, also when it has been deleted since."""
    with opened(url_of(between)) as store, opened(server.url) as other:
        rivals = [lambda: other.update("u", adding(real_now)), lambda: remove(other, "u"), lambda: None]

        def change(record: Record | None) -> tuple[Record, int]:
            rivals.pop(0)()
            written: tuple[Record, int] = adding(real_now)(record)
            return written

        know_the_scripts(store)
        between.names()
        assert store.update("u", change) == 1
        assert between.names() == ["GET", WRITE, WRITE, WRITE]
        assert quantity(other) == 1


def test_threads_of_one_process_lose_no_compare(store: ValkeyStore, admin: Redis) -> None:
    """Threads take turns: on one cart there are as many compares as adds."""
    store.ping()
    admin.config_resetstat()

    def work(_: int) -> None:
        for _ in range(20):
            store.update("u", adding(real_now, spins=2000))

    at_once(THREADS, work)
    assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] == THREADS * 20
    assert quantity(store) == THREADS * 20


# ---- several at once ----


def test_no_add_of_several_stores_is_lost(server: Valkey, admin: Redis) -> None:
    """Independent stores lose compares, but no add."""
    with ExitStack() as stack:
        stores = [stack.enter_context(opened(server.url)) for _ in range(4)]
        stores[0].ping()
        admin.config_resetstat()

        def work(number: int) -> None:
            for _ in range(20):
                stores[number % 4].update("u", adding(real_now, spins=2000))

        at_once(THREADS, work)
        assert quantity(stores[0]) == THREADS * 20
    assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] > THREADS * 20, "no compare was lost"


def test_no_add_of_several_processes_is_lost(server: Valkey, store: ValkeyStore) -> None:
    """Threads and gevent's greenlets, started at once on one cart: an exact total."""
    with (
        Child(server.url, workers=4, adds=25, carts=1) as one,
        Child(server.url, greenlets=True, workers=50, adds=4, carts=1) as other,
    ):
        for child in (one, other):
            child.wait()
        for child in (one, other):
            child.begin()
        outcomes = [child.result() for child in (one, other)]
    assert [each["added"] for each in outcomes] == [100, 200]
    assert quantity(store, "u0") == 300


def test_update_that_always_loses_ends_in_time(server: Valkey, admin: Redis) -> None:
    """Another store is always faster: the update is tried with pauses until its time is over, and changes nothing."""
    with opened(server.url, timeout=TIME) as store, opened(server.url) as other:
        lose_always(store, other)
    assert admin.dbsize() == 1


# ---- the script ----


def test_scripts_are_sent_again_after_a_flush(between: Proxy, admin: Redis) -> None:
    """By hash first; the text of each once."""
    with opened(url_of(between)) as store:
        for _ in range(2):
            admin.script_flush()
            for user_id in "ab":
                put(store, user_id, a_record(real_now))
                remove(store, user_id)
            again, known = ["GET", WRITE, "EVAL"], ["GET", WRITE]
            assert between.names() == [*again, *again, *known, *known]


def test_eval_is_not_repeated_either(between: Proxy) -> None:
    """A lost response leaves the write in doubt here too."""
    between.once("EVAL", Fate.CUT_AFTER)
    with opened(url_of(between)) as store:
        with pytest.raises(OutcomeUnknown):
            store.update("u", adding(real_now))
        assert between.names() == ["GET", WRITE, "EVAL"]
        assert quantity(store) == 1


# ---- advice ----


def test_warnings_about_servers_that_may_lose_carts(server: Valkey, admin: Redis) -> None:
    """For a server that evicts keys, and for one without a file; none for a server that does neither."""
    with opened(server.url) as store:
        with configured(admin, maxmemory_policy="noeviction"):
            (warning,) = store.startup_warnings()
            assert "appendonly" in warning
        with configured(admin, maxmemory_policy="allkeys-lru"):
            evicts, forgets = store.startup_warnings()
            assert "noeviction" in evicts
            assert forgets == warning
    with valkey("--appendonly", "yes") as durable, opened(durable.url) as store:
        assert store.startup_warnings() == []


def test_warnings_of_an_unavailable_server(locked: Valkey) -> None:
    """An unavailable server, or one that denies INFO, gives a warning and does not prevent the start."""
    with valkey() as gone, opened(gone.url, timeout=TIME) as store:
        gone.kill()
        assert "cannot be read" in store.startup_warnings()[0]
        assert "refused" in store.startup_warnings()[0]
    with opened(f"valkey://shop:{IN_A_URL}@127.0.0.1:{locked.port}") as store:
        (warning,) = store.startup_warnings()
        assert "cannot be read" in warning
        assert "no permissions to run the 'info' command" in warning


# ---- time ----


def test_server_expires_records_a_day_later(store: ValkeyStore, admin: Redis, clock: FakeClock) -> None:
    """Only to free memory: the service's clock decides whether a record has expired."""
    record = put(store, "u", a_record(clock, lives=5 * DAY))
    assert admin.pexpiretime("cart:u") == record.expires_at + DAY
    later = put(store, "u", a_record(clock, lives=9 * DAY))
    assert admin.pexpiretime("cart:u") == later.expires_at + DAY
    clock.advance(9 * DAY)
    assert store.get("u") is None
    assert admin.exists("cart:u") == 1


def test_fast_clock_removes_nothing(store: ValkeyStore, server: Valkey, clock: FakeClock) -> None:
    """A service that is a year ahead reads and lists nothing, and removes nothing."""
    record = put(store, "u", a_record(clock, lives=5 * DAY))
    with opened(server.url, FakeClock(clock() + 365 * DAY)) as fast:
        assert fast.get("u") is None
        assert list(fast.scan()) == []
        assert fast.purge_expired() == 0
        assert fast.update("u", lambda there: (there, there)) is None
        fast.update("other", putting(a_record(clock, lives=400 * DAY)))
    assert store.get("u") == record
