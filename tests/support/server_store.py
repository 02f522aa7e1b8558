"""Stores on servers in tests: times, calls, and what they raise."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import Context
from itertools import count
from typing import TYPE_CHECKING, Protocol

import pytest

from cartsvc.errors import OutcomeUnknown, StoreError
from tests.support.clock import real_now
from tests.support.proxy import Fate
from tests.support.records import adding, at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import CartStore

AMPLE = 10  # seconds, where no wait is expected
TIME = 0.5  # seconds per request
MARGIN = 0.4  # seconds more on a busy machine; less than another TIME
SECONDS = 20  # for what must happen soon
THREADS = 8
PASSWORD = "geheim-p@ss:w/rd"  # noqa: S105 - of a server that runs only during a test
IN_A_URL = "geheim-p%40ss%3Aw%2Frd"

LOST = pytest.mark.parametrize(
    ("fate", "done"),
    [(Fate.CUT_BEFORE, False), (Fate.CUT_AFTER, True), (Fate.SILENT, True)],
    ids=str,
)

CALLS: dict[str, Callable[[CartStore, str], object]] = {
    "get": lambda store, user_id: store.get(user_id),
    "update": lambda store, user_id: store.update(user_id, adding(real_now)),
    "ping": lambda store, _: store.ping(),
    "erase": lambda store, user_id: store.delete(user_id),
    "scan": lambda store, _: list(store.scan()),
}


class Pausable(Protocol):
    """A server that can be paused."""

    def pause(self) -> None:
        """Pause it."""

    def resume(self) -> None:
        """Let it go on."""


class Restartable(Pausable, Protocol):
    """A server that can be ended and started again with its data."""

    def kill(self) -> None:
        """Kill it."""

    def stop(self) -> None:
        """Stop it in order."""

    def start(self) -> None:
        """Start it again."""


@contextmanager
def paused(server: Pausable) -> Iterator[None]:
    """Pause the server until the block ends."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


def quantity(store: CartStore, user_id: str = "u") -> int:
    """Return the quantity of the only item of this cart; 0 without a cart."""
    record = store.get(user_id)
    return record.cart.items[0].quantity if record is not None and record.cart is not None else 0


def kind_of(call: Callable[[], object]) -> type[Exception] | None:
    """Return the class of the StoreError that it raises."""
    try:
        call()
    except StoreError as error:
        return type(error)
    return None


def all_fail_in_time(call: Callable[[int], object]) -> list[type[Exception] | None]:
    """Call it in eight threads at once and return what each raised; all return in time."""
    raised: list[type[Exception] | None] = [None] * THREADS
    took = [0.0] * THREADS

    def work(number: int) -> None:
        began = time.monotonic()
        raised[number] = kind_of(lambda: call(number))
        took[number] = time.monotonic() - began

    at_once(THREADS, work)
    assert max(took) < TIME + MARGIN
    return raised


def texts_of_failures(store: CartStore) -> list[str]:
    """Make calls that fail with a StoreError, and return all texts of their errors and causes."""
    texts = []
    for call in (store.ping, lambda: store.update("u", adding(real_now)), lambda: store.delete("u")):
        with pytest.raises(StoreError) as caught:
            call()
        assert type(caught.value) is StoreError
        cause: BaseException | None = caught.value
        while cause is not None:
            texts += [str(cause), repr(cause), repr(cause.args)]
            cause = cause.__cause__ or cause.__context__
    return texts


def lose_always(store: CartStore, other: CartStore) -> None:
    """Let ``other`` be faster at each try of an update: it is tried with pauses, ends in time, and changes nothing."""
    tries = count(1)
    raised = []

    def change(record: Record | None) -> tuple[Record, int]:
        Context().run(other.update, "u", adding(real_now))  # another request, with time of its own
        next(tries)
        written: tuple[Record, int] = adding(real_now)(record)
        return written

    for _ in range(4):
        began = time.monotonic()
        with pytest.raises(StoreError) as caught:
            store.update("u", change)
        assert time.monotonic() - began < TIME + MARGIN
        raised.append(type(caught.value))
    tried = next(tries) - 1
    assert quantity(other) == tried
    assert 4 * 5 < tried < 4 * 100, "too few for these pauses, or too many"
    # The time can end after the last compare was sent and before its response, so it is not known that it lost.
    assert {StoreError} <= {*raised} <= {StoreError, OutcomeUnknown}


def end_twice(server: Restartable, store: CartStore) -> None:
    """Kill and stop the server: meanwhile it is unavailable, no acknowledged write is lost, and no request fails."""
    at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
    for end in (server.kill, server.stop):
        end()
        for name, call in CALLS.items():
            assert (name, kind_of(lambda: call(store, "u0"))) == (name, StoreError)  # noqa: B023 - called at once
        server.start()
        at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
    assert [quantity(store, f"u{number}") for number in range(THREADS)] == [3] * THREADS
