"""The tests of deadlines and lost responses: the stores on a server subclass DeadlineContract and set their stage."""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import pytest

from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.validation import NewItem
from cartsvc.errors import OutcomeUnknown, StoreError
from tests.support.clock import real_now
from tests.support.proxy import Fate
from tests.support.records import a_record, adding, at_once, put
from tests.support.server_store import (
    CALLS,
    LOST,
    MARGIN,
    SECONDS,
    THREADS,
    TIME,
    Pausable,
    all_fail_in_time,
    kind_of,
    paused,
    quantity,
)
from tests.support.services import make_service
from tests.support.store_child import Child
from tests.support.valkeys import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import ModuleType

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import CartStore
    from tests.support.proxy import Proxy


class Stage(NamedTuple):
    """A server with an empty store, the URLs of the server and of the proxy before it, and how to open a store."""

    server: Pausable
    url: str
    between: Proxy
    between_url: str
    opened: Callable[..., AbstractContextManager[CartStore]]


class DeadlineContract:
    """What holds of every store on a server. ``MODULE`` has its POOL_SIZE."""

    MODULE: ClassVar[ModuleType]
    READ: ClassVar[str]  # the command that reads a record, as the proxy names it
    ADD: ClassVar[str]  # the one that writes a new record
    PROBE: ClassVar[str]  # the one that a ping sends

    @pytest.fixture
    def stage(self) -> Stage:
        """Return the stage of a test."""
        raise NotImplementedError

    # ---- one deadline ----

    @pytest.mark.parametrize("warm", [True, False], ids=["connected", "new"])
    @pytest.mark.parametrize("carts", [1, THREADS])
    def test_threads_on_a_paused_server_return_in_time(self, stage: Stage, carts: int, *, warm: bool) -> None:
        """Within the time of one request, whether they wait for a turn, a connection, or the server."""
        with stage.opened(stage.url, timeout=TIME) as store:
            store.set_up()
            if warm:
                at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
            else:
                store.close()
            with paused(stage.server):
                raised = all_fail_in_time(lambda n: store.update(f"u{n % carts}", adding(real_now)))
                assert raised == [StoreError] * THREADS
            assert eventually(lambda: store.update("u", adding(real_now))) == 1
            assert quantity(store, "u0") == int(warm), "a write that was never sent is not applied later"

    def test_waiting_for_a_turn_ends_in_time(self, stage: Stage) -> None:
        """The call that has the turn may have begun later, with more time."""
        inside, over = threading.Event(), threading.Event()

        def hold(record: Record | None) -> tuple[Record | None, None]:
            inside.set()
            assert over.wait(SECONDS)
            return record, None

        with stage.opened(stage.url, timeout=TIME) as store:
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
        self, stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also with an exhausted pool."""
        monkeypatch.setattr(self.MODULE, "POOL_SIZE", 2)
        with stage.opened(stage.url, timeout=TIME) as store:
            store.set_up()
            store.ping()
            with paused(stage.server):
                raised = all_fail_in_time(lambda number: CALLS[name](store, f"u{number}"))
            assert set(raised) <= {StoreError} | ({OutcomeUnknown} if name == "erase" else set())
            eventually(store.ping)

    @pytest.mark.parametrize("name", CALLS)
    def test_dribbled_response_has_the_same_deadline(self, stage: Stage, name: str) -> None:
        """Each byte arrives in time, the response does not."""
        with stage.opened(stage.url) as other:
            put(other, "u", a_record(real_now, note="x" * 100))
            other.update("u", adding(real_now))
        stage.between.fate = lambda _: Fate.DRIBBLE
        with stage.opened(stage.between_url, timeout=0.15) as store:
            began = time.monotonic()
            assert kind_of(lambda: CALLS[name](store, "u")) in {StoreError, OutcomeUnknown}
            assert time.monotonic() - began < 0.15 + MARGIN

    def test_the_calls_of_one_request_share_its_time(self, stage: Stage) -> None:
        """A merge is many calls: each of them would be in time, all of them are not."""
        conditions = WriteConditions(b"key", b"request")
        with stage.opened(stage.between_url, timeout=TIME) as store:
            service = make_service(store, real_now)
            for user_id in ("guest-1", "alice"):
                service.add(user_id, [NewItem("p", 1)], conditions=WriteConditions())
            stage.between.fate = lambda _: Fate.SLOW
            store.get("alice")
            began = time.monotonic()
            with pytest.raises(StoreError):
                service.merge("alice", "guest-1", "sum", conditions=conditions)
            assert time.monotonic() - began < TIME + MARGIN
            stage.between.fate = lambda _: Fate.PASS
            merged = eventually(lambda: service.merge("alice", "guest-1", "sum", conditions=conditions))
            assert merged.cart.items[0].quantity == 2
            assert service.get("guest-1") is None

    def test_greenlets_on_a_paused_server_return_in_time(self, stage: Stage) -> None:
        """As gunicorn serves it: fifty in one thread, some of them on the same cart."""
        with stage.opened(stage.url) as store:
            store.set_up()
            with Child(stage.url, greenlets=True, workers=50, adds=1, carts=10, timeout=TIME) as child:
                child.wait()
                with paused(stage.server):
                    child.begin()
                    raised = child.result()
            assert raised.pop("slowest") < TIME + MARGIN
            assert raised == {"StoreError": 50}
            assert list(store.scan()) == []

    # ---- lost responses ----

    @LOST
    def test_read_without_a_response(self, stage: Stage, fate: Fate, *, done: bool) -> None:  # noqa: ARG002 - of LOST
        """There is no doubt about what was never sent."""
        with stage.opened(stage.between_url, timeout=TIME) as store:
            store.get("u")
            stage.between.names()
            for call in (store.get, lambda user_id: store.update(user_id, adding(real_now))):
                stage.between.once(self.READ, fate)
                assert kind_of(lambda: call("u")) is StoreError  # noqa: B023 - called at once
                assert stage.between.names() == [self.READ]
            assert quantity(store) == 0

    @LOST
    def test_ping_is_never_in_doubt(self, stage: Stage, fate: Fate, *, done: bool) -> None:  # noqa: ARG002 - of LOST
        """It has nothing to do that could be done or not."""
        with stage.opened(stage.between_url, timeout=TIME) as store:
            store.ping()
            stage.between.once(self.PROBE, fate)
            assert kind_of(store.ping) is StoreError
            store.ping()

    @LOST
    def test_keyed_retry_is_exact(self, stage: Stage, fate: Fate, *, done: bool) -> None:
        """Whether the first write was applied or not, there is one add; the outcome shows whether it is a replay."""
        conditions = WriteConditions(b"key", b"request")
        with stage.opened(stage.between_url, timeout=TIME) as store:
            store.ping()
            service = make_service(store, real_now)
            stage.between.once(self.ADD, fate)
            with pytest.raises(OutcomeUnknown):
                service.add("u", [NewItem("p", 1)], conditions=conditions)
            repeated = service.add("u", [NewItem("p", 1)], conditions=conditions)
            assert repeated.replayed is done
            assert quantity(store) == 1
            service.add("u", [NewItem("p", 1)], conditions=WriteConditions(b"another", b"request"))
            assert quantity(store) == 2

    def test_keyed_adds_are_exact_with_lost_responses(self, stage: Stage) -> None:
        """Two of five commands of eight clients fail; each is retried until it has a response: exact totals.

        Of every third command, all could be reads: a client that is alone repeats the failed read, writes, and reads.
        """
        turns = count()
        fates = [Fate.CUT_BEFORE, Fate.CUT_AFTER]
        unknown = count()

        def fate(_: list[bytes]) -> Fate:
            turn = next(turns)
            return fates[turn % 2] if turn % 5 in {0, 3} else Fate.PASS

        with (
            stage.opened(stage.between_url) as one,
            stage.opened(stage.between_url) as two,
            stage.opened(stage.url) as judge,
        ):
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

            stage.between.fate = fate
            at_once(THREADS, work)
            assert next(unknown) > 0
            assert quantity(judge, "u0") + quantity(judge, "u1") == THREADS * 6
