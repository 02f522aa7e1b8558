"""Records and changes that tests make in stores, alone or in many threads at once."""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING, Any

from cartsvc.carts.cart import Cart, Item, Limits, Revision, add
from cartsvc.carts.record import Record
from cartsvc.carts.validation import NewItem, validate_new_items

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.store import CartStore

DAY = 86_400_000  # milliseconds
ROOMY = Limits(max_quantity=10**9, max_items=10_000, max_cart_bytes=2**22)
tags = map("tag-{}".format, count())


class RejectedError(Exception):
    """The error that a change raises in these tests."""


def a_record(clock: Callable[[], int], *, lives: int = DAY, note: str = "") -> Record:
    """Return a record with a new tag; ``note`` makes its content unique."""
    now = clock()
    items = (Item("note", note, (), 1, None, now),) if note else ()
    cart = Cart("etag", 1, items, None, now, now, now + lives)
    return Record(next(tags), cart, (), (), None, now + lives)


def putting(record: Record | None) -> Callable[[Record | None], tuple[Record | None, None]]:
    """Return a change that writes this record."""
    return lambda _: (record, None)


def put(store: CartStore, user_id: str, record: Record) -> Record:
    """Write the record and return it."""
    store.update(user_id, putting(record))
    return record


def remove(store: CartStore, user_id: str) -> None:
    """Remove the record, if there is one."""
    store.update(user_id, putting(None))


def adding(clock: Callable[[], int], *, spins: int = 0, fail: bool = False) -> Callable[[Record | None], Any]:
    """Return a change that adds one to the quantity of one item, long after it was called."""
    now = clock()
    revision = Revision(at=now, etag=next(tags), expires_at=now + DAY)
    one = validate_new_items([NewItem("p", 1)], limits=ROOMY, at=now)

    def change(record: Record | None) -> tuple[Record, int]:
        cart = add(record.cart if record else None, one, limits=ROOMY, revision=revision)
        for _ in range(spins):
            pass
        if fail:
            raise RejectedError
        return Record(revision.etag, cart, (), (), None, cart.expires_at), cart.items[0].quantity

    return change


def at_once(threads: int, work: Callable[[int], None]) -> None:
    """Run ``work(number of the thread)`` in so many threads that start together; raise what any of them raised."""
    barrier = threading.Barrier(threads)
    raised: list[BaseException] = []

    def run(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            raised.append(error)

    started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if raised:
        raise raised[0]
