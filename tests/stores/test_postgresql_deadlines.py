"""Test that each request of the PostgreSQL store ends in time, and what is known when a response is lost."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.validation import NewItem
from cartsvc.errors import OutcomeUnknown, StoreError
from cartsvc.stores import postgresql as module
from tests.support.clock import real_now
from tests.support.deadline_contract import DeadlineContract, Stage
from tests.support.postgresql_store import TABLE, opened, url_of
from tests.support.records import adding, at_once
from tests.support.server_store import (
    LOST,
    MARGIN,
    TIME,
    kind_of,
    quantity,
)
from tests.support.services import make_service
from tests.support.valkeys import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgresqls import Postgresql
    from tests.support.proxy import Fate, Proxy

WRITES = ("INSERT", "UPDATE", "DELETE")


@contextmanager
def locked(server: Postgresql, database: str) -> Iterator[None]:
    """Let all writes wait for a lock until the block ends; reads continue."""
    with server.client(database) as client, client.transaction():
        client.execute(f"LOCK TABLE {TABLE} IN SHARE MODE".encode())
        yield


class TestPostgresqlDeadlines(DeadlineContract):
    """The contract, held by the PostgreSQL store."""

    MODULE = module
    READ, ADD, PROBE = "SELECT", "INSERT", "PING"

    @pytest.fixture
    def stage(self, pg: Postgresql, pg_url: str, pg_database: str, pg_between: Proxy) -> Stage:
        """Return the server and the proxy."""
        return Stage(pg, pg_url, pg_between, url_of(pg_between, pg_database), opened)


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
