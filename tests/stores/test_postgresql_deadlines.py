"""Test that each request of the PostgreSQL store ends in time, and what is known when a response is lost."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest

from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.validation import NewItem
from cartsvc.errors import OutcomeUnknown, StoreError
from cartsvc.stores import postgresql as module
from tests.support.postgresql_store import TABLE, opened, url_of
from tests.support.proxy import Fate
from tests.support.server_store import (
    CALLS,
    LOST,
    MARGIN,
    SECONDS,
    THREADS,
    TIME,
    all_fail_in_time,
    kind_of,
    quantity,
    real_now,
)
from tests.support.services import make_service
from tests.support.store_child import Child
from tests.support.store_contract import a_record, adding, at_once, put
from tests.support.valkeys import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cartsvc.carts.record import Record
    from tests.support.postgresqls import Postgresql
    from tests.support.proxy import Proxy

WRITES = ("INSERT", "UPDATE", "DELETE")


@contextmanager
def paused(server: Postgresql) -> Iterator[None]:
    """Pause the server until the block ends."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def locked(server: Postgresql, database: str) -> Iterator[None]:
    """Let all writes wait for a lock until the block ends; reads continue."""
    with server.client(database) as client, client.transaction():
        client.execute(f"LOCK TABLE {TABLE} IN SHARE MODE".encode())
        yield


# ---- one deadline ----


@pytest.mark.parametrize("warm", [True, False], ids=["connected", "new"])
@pytest.mark.parametrize("carts", [1, THREADS])
def test_threads_on_a_paused_server_return_in_time(pg: Postgresql, pg_url: str, carts: int, *, warm: bool) -> None:
    """Within the time of one request, whether they wait for a turn, a connection, or the server."""
    with opened(pg_url, timeout=TIME) as store:
        store.set_up()
        if warm:
            at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
        else:
            store.close()
        with paused(pg):
            assert all_fail_in_time(lambda n: store.update(f"u{n % carts}", adding(real_now))) == [StoreError] * THREADS
        assert eventually(lambda: store.update("u", adding(real_now))) == 1
        assert quantity(store, "u0") == int(warm), "a write that was never sent is not applied later"


def test_waiting_for_a_turn_ends_in_time(pg_url: str) -> None:
    """The call that has the turn may have begun later, with more time."""
    inside, over = threading.Event(), threading.Event()

    def hold(record: Record | None) -> tuple[Record | None, None]:
        inside.set()
        assert over.wait(SECONDS)
        return record, None

    with opened(pg_url, timeout=TIME) as store:
        holder = threading.Thread(target=store.update, args=("u", hold))
        holder.start()
        try:
            assert inside.wait(SECONDS)
            began = time.monotonic()
            assert kind_of(lambda: store.update("u", adding(real_now))) is StoreError
            assert time.monotonic() - began < TIME + MARGIN
            assert store.get("u") is None
        finally:
            over.set()
            holder.join()
        assert store.update("u", adding(real_now)) == 1


@pytest.mark.parametrize("name", CALLS)
def test_every_call_on_a_paused_server_returns(
    pg: Postgresql, pg_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with an exhausted pool."""
    monkeypatch.setattr(module, "POOL_SIZE", 2)
    with opened(pg_url, timeout=TIME) as store:
        store.set_up()
        store.ping()
        with paused(pg):
            raised = all_fail_in_time(lambda number: CALLS[name](store, f"u{number}"))
        assert set(raised) <= {StoreError} | ({OutcomeUnknown} if name == "erase" else set())
        eventually(store.ping)


@pytest.mark.parametrize("name", CALLS)
def test_dribbled_response_has_the_same_deadline(pg_between: Proxy, pg_url: str, pg_database: str, name: str) -> None:
    """Each byte arrives in time, the response does not."""
    with opened(pg_url) as other:
        put(other, "u", a_record(real_now, note="x" * 100))
        other.update("u", adding(real_now))
    pg_between.fate = lambda _: Fate.DRIBBLE
    with opened(url_of(pg_between, pg_database), timeout=0.15) as store:
        began = time.monotonic()
        assert kind_of(lambda: CALLS[name](store, "u")) in {StoreError, OutcomeUnknown}
        assert time.monotonic() - began < 0.15 + MARGIN


def test_the_calls_of_one_request_share_its_time(pg_between: Proxy, pg_database: str) -> None:
    """A merge is many calls: each of them would be in time, all of them are not."""
    with opened(url_of(pg_between, pg_database), timeout=TIME) as store:
        service = make_service(store, real_now)
        for user_id in ("guest-1", "alice"):
            service.add(user_id, [NewItem("p", 1)], conditions=WriteConditions())
        pg_between.fate = lambda _: Fate.SLOW
        store.get("alice")
        began = time.monotonic()
        with pytest.raises(StoreError):
            service.merge("alice", "guest-1", "sum", conditions=WriteConditions(b"key", b"request"))
        assert time.monotonic() - began < TIME + MARGIN
        pg_between.fate = lambda _: Fate.PASS
        merged = eventually(
            lambda: service.merge("alice", "guest-1", "sum", conditions=WriteConditions(b"key", b"request"))
        )
        assert merged.cart.items[0].quantity == 2
        assert service.get("guest-1") is None


def test_greenlets_on_a_paused_server_return_in_time(pg: Postgresql, pg_url: str) -> None:
    """As gunicorn serves it: fifty in one thread, some of them on the same cart."""
    with opened(pg_url) as store:
        store.set_up()
        with Child(pg_url, greenlets=True, workers=50, adds=1, carts=10, timeout=TIME) as child:
            child.wait()
            with paused(pg):
                child.begin()
                raised = child.result()
        assert raised.pop("slowest") < TIME + MARGIN
        assert raised == {"StoreError": 50}
        assert list(store.scan()) == []


# ---- lost responses ----


@LOST
@pytest.mark.parametrize("name", WRITES)
def test_write_without_a_response_is_sent_once(
    pg_between: Proxy, pg_database: str, name: str, fate: Fate, *, done: bool
) -> None:
    """Applied or not, the write is not sent again, and the store goes on."""
    with opened(url_of(pg_between, pg_database), timeout=TIME) as store:
        if name != "INSERT":
            store.update("u", adding(real_now))
        store.get("u")
        pg_between.names()
        pg_between.once(name, fate)
        with pytest.raises(OutcomeUnknown):
            store.update("u", (lambda _: (None, None)) if name == "DELETE" else adding(real_now))
        assert pg_between.names() == ["SELECT", name]
        before = int(name != "INSERT")
        found = {"INSERT": int(done), "UPDATE": before + done, "DELETE": before - done}[name]
        assert quantity(store) == found
        assert store.update("u", adding(real_now)) == found + 1


@LOST
def test_read_without_a_response(pg_between: Proxy, pg_database: str, fate: Fate, *, done: bool) -> None:  # noqa: ARG001
    """There is no doubt about what was never sent."""
    with opened(url_of(pg_between, pg_database), timeout=TIME) as store:
        store.get("u")
        pg_between.names()
        for call in (store.get, lambda user_id: store.update(user_id, adding(real_now))):
            pg_between.once("SELECT", fate)
            assert kind_of(lambda: call("u")) is StoreError  # noqa: B023 - called at once
            assert pg_between.names() == ["SELECT"]
        assert quantity(store) == 0


@LOST
def test_ping_is_never_in_doubt(pg_between: Proxy, pg_database: str, fate: Fate, *, done: bool) -> None:  # noqa: ARG001
    """It has nothing to do that could be done or not."""
    with opened(url_of(pg_between, pg_database), timeout=TIME) as store:
        store.ping()
        pg_between.once("PING", fate)
        assert kind_of(store.ping) is StoreError
        store.ping()


@LOST
def test_unconfirmed_replay_is_in_doubt(pg_between: Proxy, pg_database: str, fate: Fate, *, done: bool) -> None:  # noqa: ARG001
    """What a replay has found may be on this server only, so without a response it is no success."""
    conditions = WriteConditions(b"key", b"request")
    with opened(url_of(pg_between, pg_database), timeout=TIME) as store:
        service = make_service(store, real_now)
        service.add("u", [NewItem("p", 1)], conditions=conditions)
        pg_between.once("CONFIRM", fate)
        with pytest.raises(OutcomeUnknown):
            service.add("u", [NewItem("p", 1)], conditions=conditions)
        assert service.add("u", [NewItem("p", 1)], conditions=conditions).replayed


@LOST
def test_keyed_retry_is_exact(pg_between: Proxy, pg_database: str, fate: Fate, *, done: bool) -> None:
    """Whether the first write was applied or not, there is one add; the outcome shows whether it is a replay."""
    conditions = WriteConditions(b"key", b"request")
    with opened(url_of(pg_between, pg_database), timeout=TIME) as store:
        store.ping()
        service = make_service(store, real_now)
        pg_between.once("INSERT", fate)
        with pytest.raises(OutcomeUnknown):
            service.add("u", [NewItem("p", 1)], conditions=conditions)
        repeated = service.add("u", [NewItem("p", 1)], conditions=conditions)
        assert repeated.replayed is done
        assert quantity(store) == 1
        service.add("u", [NewItem("p", 1)], conditions=WriteConditions(b"another", b"request"))
        assert quantity(store) == 2


def test_keyed_adds_are_exact_with_lost_responses(pg_between: Proxy, pg_url: str, pg_database: str) -> None:
    """Every third command of eight clients fails; each is retried until it has a response: exact totals."""
    turns = count()
    fates = [Fate.CUT_BEFORE, Fate.CUT_AFTER]
    unknown = count()

    def fate(_: list[bytes]) -> Fate:
        turn = next(turns)
        return fates[turn // 3 % 2] if turn % 3 == 0 else Fate.PASS

    url = url_of(pg_between, pg_database)
    with opened(url) as one, opened(url) as two, opened(pg_url) as judge:
        services = [make_service(each, real_now) for each in (one, two)]

        def work(number: int) -> None:
            for turn in range(6):
                conditions = WriteConditions(f"{number}-{turn}".encode(), b"request")
                while True:
                    try:
                        services[number % 2].add(f"u{turn % 2}", [NewItem("p", 1)], conditions=conditions)
                    except StoreError as error:
                        if isinstance(error, OutcomeUnknown):
                            next(unknown)
                    else:
                        break

        pg_between.fate = fate
        at_once(THREADS, work)
        assert next(unknown) > 0
        assert quantity(judge, "u0") + quantity(judge, "u1") == THREADS * 6


def test_write_to_a_slow_server_is_in_doubt(pg: Postgresql, pg_url: str, pg_database: str) -> None:
    """The server applies it once it can; a retry with its key adds nothing."""
    conditions = WriteConditions(b"key", b"request")
    with opened(pg_url, timeout=TIME) as store:
        service = make_service(store, real_now)
        store.set_up()
        with locked(pg, pg_database):
            began = time.monotonic()
            with pytest.raises(OutcomeUnknown):
                service.add("u", [NewItem("p", 1)], conditions=conditions)
            assert time.monotonic() - began < TIME + MARGIN
            assert quantity(store) == 0, "reads continue"
        repeated = eventually(lambda: service.add("u", [NewItem("p", 1)], conditions=conditions))
        assert repeated.cart.items[0].quantity == 1
        assert quantity(store) == 1


# ---- writes that wait on the server ----


def test_writes_in_doubt_leave_connections_for_reads(
    pg: Postgresql, pg_url: str, pg_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each keeps its connection until the server has finished; half of them at most, and then none is sent."""
    monkeypatch.setattr(module, "POOL_SIZE", 4)
    with opened(pg_url, timeout=TIME) as store:
        store.set_up()
        count_query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cartsvc'"
        with locked(pg, pg_database):
            for kind in (OutcomeUnknown, OutcomeUnknown, StoreError, StoreError):
                assert kind_of(lambda: store.update(f"u{kind}", adding(real_now))) is kind  # noqa: B023 - called at once
            assert store.get("u") is None
            assert kind_of(store.ping) is StoreError
            ((connections,),) = pg.ask(count_query)
            assert connections == 3
        assert eventually(lambda: store.update("u", adding(real_now))) == 1
        assert quantity(store) == 1

        def release() -> None:
            store.get("u")
            if store._pool._aside:  # noqa: SLF001 - no call shows it
                raise StoreError

        eventually(release)  # the server may finish the two writes one after the other
        at_once(4, lambda number: store.update(f"v{number}", adding(real_now)))
