"""Carts for the tests of cartsvc.carts.cart: made and changed as the service does it, at two fixed times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from cartsvc.carts.cart import Cart, Item, Limits, Revision, add, derive_item_id, subtotal
from cartsvc.carts.update import check_items, update_items
from cartsvc.carts.validation import ItemChange, NewItem, NewItems, validate_changes, validate_new_items

if TYPE_CHECKING:
    import pytest

LIMITS = Limits()
FIRST = Revision(at=1000, etag="e1", expires_at=2000)
LATER = Revision(at=1500, etag="e2", expires_at=2500)


def additions(*lines: NewItem, limits: Limits = LIMITS, currency: str | None = None, at: int = FIRST.at) -> NewItems:
    """Return these lines checked, as the service passes them on."""
    return validate_new_items(lines, limits=limits, at=at, currency=currency)


def a_cart(*lines: NewItem, limits: Limits = LIMITS) -> Cart:
    """Return a new cart with these lines."""
    return add(None, additions(*lines, limits=limits), limits=limits, revision=FIRST)


def added(cart: Cart | None, *lines: NewItem, limits: Limits = LIMITS) -> Cart:
    """Return the cart after these lines were added, at LATER."""
    return add(cart, additions(*lines, limits=limits, at=LATER.at), limits=limits, revision=LATER)


def changed(cart: Cart, wanted: str, change: ItemChange, *, limits: Limits = LIMITS) -> Cart:
    """Return the cart after a PATCH, at LATER."""
    changes = validate_changes([msgspec.structs.replace(change, item_id=wanted)], limits=limits)
    check_items(cart, changes)
    return update_items(cart, changes, limits=limits, revision=LATER)


def priced(product_id: str, quantity: int, price: int, currency: str = "EUR", **more: Any) -> NewItem:
    """Return a line with a price."""
    return NewItem(product_id, quantity, unit_price=price, currency=currency, **more)


def pointers(error: pytest.ExceptionInfo[Any]) -> list[str]:
    """Return where the faults of an error are."""
    return [fault.pointer for fault in error.value.faults]


def bytes_of(*items: Item) -> int:
    """Return the size of these items as they are stored, counted without the code's own Structs."""
    return len(msgspec.msgpack.encode([list(msgspec.structs.astuple(item)) for item in items]))


def totals(cart: Cart) -> tuple[int, int | None, str | None, set[tuple[str, int, int | None]]]:
    """Return what adding gives in any order: quantity, money, and the items without their positions."""
    return (
        sum(item.quantity for item in cart.items),
        subtotal(cart.items),
        cart.currency,
        {(item.item_id, item.quantity, item.unit_price) for item in cart.items},
    )


def options_of(name: str) -> dict[str, str]:
    """Return the options of a model's item: a product, or a product and its size such as "a/M"."""
    size = name.partition("/")[2]
    return {"size": size} if size else {}


def id_of(name: str) -> str:
    """Return the item_id of a model's item."""
    return derive_item_id(name.partition("/")[0], tuple(options_of(name).items()))
