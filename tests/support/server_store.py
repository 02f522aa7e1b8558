"""Stores on servers in tests: times, calls, and what they raise."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from cartsvc.errors import StoreError
from tests.support.proxy import Fate
from tests.support.store_contract import adding, at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@contextmanager
def paused(server: Pausable) -> Iterator[None]:
    """Pause the server until the block ends."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


def real_now() -> int:
    """Return the time of the server, at which a fake clock begins because the server expires records by its own."""
    return time.time_ns() // 1_000_000


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
