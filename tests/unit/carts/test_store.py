"""Test which writes a full store takes: those that make no cart larger."""

from __future__ import annotations

import pytest
from msgspec import structs

from cartsvc.carts.cart import Cart, Item
from cartsvc.carts.record import EMPTY, IdempotencyKey, Record
from cartsvc.carts.store import allowed_when_full

ITEM = Item("a", "a", (), 1, None, 10)
CART = Cart("e", 1, (ITEM,), None, 10, 10, 100, (("note", "x"),))
OLD = EMPTY.with_cart(CART)


def changed(**values: object) -> Record:
    """Return the record with a cart of other values."""
    return OLD.with_cart(structs.replace(CART, etag="f", **values))


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        (None, OLD, False),
        (EMPTY, OLD, False),
        (OLD, EMPTY, True),
        (OLD, OLD.merged_away(200), True),
        (OLD, OLD.with_key(IdempotencyKey(b"k" * 16, b"r" * 16, 200, 10)), True),
        (OLD, changed(items=()), True),
        (OLD, changed(items=(structs.replace(ITEM, quantity=9),)), True),
        (OLD, changed(items=(ITEM, structs.replace(ITEM, item_id="b"))), False),
        (OLD, changed(metadata=()), True),
        (OLD, changed(metadata=(("note", "y"),)), True),
        (OLD, changed(metadata=(("note", "xy"),)), False),
        (OLD, changed(items=(structs.replace(ITEM, metadata=(("n", ""),)),)), False),
    ],
)
def test_what_a_full_store_takes(old: Record | None, new: Record, *, allowed: bool) -> None:
    """Items and metadata count; a key and the closing of a guest are always taken."""
    assert allowed_when_full(old, new) is allowed
