"""Test that each request of the Valkey store ends in time, and what is known when a response is lost."""

# ruff: noqa: SLF001 - a command is stopped on its way, and a name made to lead elsewhere

from __future__ import annotations

import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.validation import NewItem
from cartsvc.errors import OutcomeUnknown, StoreError
from cartsvc.stores import valkey as module
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
from tests.support.valkey_store import WRITE, opened, paused, url_of
from tests.support.valkeys import eventually

if TYPE_CHECKING:
    from cartsvc.carts.record import Record
    from cartsvc.stores.valkey import ValkeyStore
    from tests.support.proxy import Proxy
    from tests.support.valkeys import Valkey


# ---- one deadline ----


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("warm", [True, False], ids=["connected", "new"])
@pytest.mark.parametrize("carts", [1, THREADS])
def test_threads_on_a_paused_server_return_in_time(server: Valkey, carts: int, *, warm: bool) -> None:
    """Within the time of one request, whether they wait for a turn, a connection, or the server."""
    with opened(server.url, timeout=TIME) as store:
        if warm:
            at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
        with paused(server):
            assert all_fail_in_time(lambda n: store.update(f"u{n % carts}", adding(real_now))) == [StoreError] * THREADS
        assert eventually(lambda: store.update("u", adding(real_now))) == 1
        assert quantity(store, "u0") == int(warm), "a write that was never sent is not applied later"


@pytest.mark.usefixtures("admin")
def test_waiting_for_a_turn_ends_in_time(server: Valkey) -> None:
    """The call that has the turn may have begun later, with more time."""
    inside, over = threading.Event(), threading.Event()

    def hold(record: Record | None) -> tuple[Record | None, None]:
        inside.set()
        assert over.wait(SECONDS)
        return record, None

    with opened(server.url, timeout=TIME) as store:
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


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("name", CALLS)
def test_every_call_on_a_paused_server_returns(server: Valkey, name: str) -> None:
    """Also with an exhausted pool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "POOL_SIZE", 2)
        with opened(server.url, timeout=TIME) as store:
            store.ping()
            with paused(server):
                raised = all_fail_in_time(lambda number: CALLS[name](store, f"u{number}"))
            assert set(raised) <= {StoreError} | ({OutcomeUnknown} if name == "erase" else set())
            eventually(store.ping)


@pytest.mark.parametrize("name", CALLS)
def test_dribbled_response_has_the_same_deadline(between: Proxy, server: Valkey, name: str) -> None:
    """Each byte arrives in time, the response does not."""
    with opened(server.url) as other:
        put(other, "u", a_record(real_now, note="x" * 100))
        other.update("u", adding(real_now))
    between.fate = lambda _: Fate.DRIBBLE
    with opened(url_of(between), timeout=0.15) as store:
        began = time.monotonic()
        assert kind_of(lambda: CALLS[name](store, "u")) in {StoreError, OutcomeUnknown}
        assert time.monotonic() - began < 0.15 + MARGIN


def test_the_calls_of_one_request_share_its_time(between: Proxy) -> None:
    """A merge is many calls: each of them would be in time, all of them are not."""
    with opened(url_of(between), timeout=TIME) as store:
        service = make_service(store, real_now)
        for user_id in ("guest-1", "alice"):
            service.add(user_id, [NewItem("p", 1)], conditions=WriteConditions())
        between.names()
        between.fate = lambda _: Fate.SLOW
        store.get("alice")
        began = time.monotonic()
        with pytest.raises(StoreError):
            service.merge("alice", "guest-1", "sum", conditions=WriteConditions(b"key", b"request"))
        assert time.monotonic() - began < TIME + MARGIN
        between.fate = lambda _: Fate.PASS
        between.names()
        merged = eventually(
            lambda: service.merge("alice", "guest-1", "sum", conditions=WriteConditions(b"key", b"request"))
        )
        assert merged.cart.items[0].quantity == 2
        assert service.get("guest-1") is None


def test_greenlets_on_a_paused_server_return_in_time(server: Valkey, store: ValkeyStore) -> None:
    """As gunicorn serves it: fifty in one thread, some of them on the same cart."""
    with Child(server.url, greenlets=True, workers=50, adds=1, carts=10, timeout=TIME) as child:
        child.wait()
        with paused(server):
            child.begin()
            raised = child.result()
    assert raised.pop("slowest") < TIME + MARGIN
    assert raised == {"StoreError": 50}
    assert list(store.scan()) == []


# ---- lost responses ----


@LOST
def test_write_without_a_response_is_sent_once(between: Proxy, fate: Fate, *, done: bool) -> None:
    """Applied or not, the write is not sent again, and the store goes on."""
    with opened(url_of(between), timeout=TIME) as store:
        store.ping()
        between.names()
        between.once(WRITE, fate)
        with pytest.raises(OutcomeUnknown):
            store.update("u", adding(real_now))
        assert between.names() == ["GET", WRITE]
        assert quantity(store) == int(done)
        assert store.update("u", adding(real_now)) == int(done) + 1


@LOST
def test_read_without_a_response(between: Proxy, fate: Fate, *, done: bool) -> None:  # noqa: ARG001
    """There is no doubt about what was never sent."""
    with opened(url_of(between), timeout=TIME) as store:
        store.ping()
        between.names()
        for call in (store.get, lambda user_id: store.update(user_id, adding(real_now))):
            between.once("GET", fate)
            assert kind_of(lambda: call("u")) is StoreError  # noqa: B023 - called at once
            assert between.names() == ["GET"]
        assert quantity(store) == 0


@LOST
def test_ping_is_never_in_doubt(between: Proxy, fate: Fate, *, done: bool) -> None:  # noqa: ARG001
    """It has nothing to do that could be done or not."""
    with opened(url_of(between), timeout=TIME) as store:
        store.ping()
        between.once(WRITE, fate)
        assert kind_of(store.ping) is StoreError
        store.ping()


@LOST
def test_keyed_retry_is_exact(between: Proxy, fate: Fate, *, done: bool) -> None:
    """Whether the first write was applied or not, there is one add; the outcome shows whether it is a replay."""
    conditions = WriteConditions(b"key", b"request")
    with opened(url_of(between), timeout=TIME) as store:
        store.ping()
        service = make_service(store, real_now)
        between.once(WRITE, fate)
        with pytest.raises(OutcomeUnknown):
            service.add("u", [NewItem("p", 1)], conditions=conditions)
        repeated = service.add("u", [NewItem("p", 1)], conditions=conditions)
        assert repeated.replayed is done
        assert quantity(store) == 1
        service.add("u", [NewItem("p", 1)], conditions=WriteConditions(b"another", b"request"))
        assert quantity(store) == 2


def test_keyed_adds_are_exact_with_lost_responses(between: Proxy, server: Valkey) -> None:
    """Every third command of eight clients fails; each is retried until it has a response: exact totals."""
    turns = count()
    fates = [Fate.CUT_BEFORE, Fate.CUT_AFTER]
    unknown = count()

    def fate(_: list[bytes]) -> Fate:
        turn = next(turns)
        return fates[turn // 3 % 2] if turn % 3 == 0 else Fate.PASS

    with opened(url_of(between)) as one, opened(url_of(between)) as two, opened(server.url) as judge:
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

        between.fate = fate
        at_once(THREADS, work)
        assert next(unknown) > 0
        assert quantity(judge, "u0") + quantity(judge, "u1") == THREADS * 6


@pytest.mark.usefixtures("admin")
def test_write_to_a_paused_server_is_in_doubt(server: Valkey) -> None:
    """The server may apply it once it goes on; a retry with its key adds nothing."""
    conditions = WriteConditions(b"key", b"request")
    with opened(server.url, timeout=TIME) as store:
        service = make_service(store, real_now)
        send, sent = store._client.execute_command, []

        def pausing(*command: Any, **options: Any) -> Any:
            if command[0] == WRITE and not sent:
                sent.append(command)
                server.pause()
            return send(*command, **options)

        store.ping()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store._client, "execute_command", pausing)
                with pytest.raises(OutcomeUnknown):
                    service.add("u", [NewItem("p", 1)], conditions=conditions)
        finally:
            server.resume()
        eventually(lambda: service.add("u", [NewItem("p", 1)], conditions=conditions))
        assert quantity(store) == 1
