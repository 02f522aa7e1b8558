"""Change items of a cart: quantities, prices, metadata, and the variant of a product. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from cartsvc.carts.cart import (
    check_currency,
    check_limits,
    derive_item_id,
    merge_items,
    metadata_fault,
    next_cart,
    sorted_pairs,
)
from cartsvc.carts.strings import normalise
from cartsvc.carts.validation import normalised_options
from cartsvc.errors import Fault, InvalidRequest, ItemNotFound, LimitExceeded

if TYPE_CHECKING:
    from cartsvc.carts.cart import Cart, Item, Limits, Revision
    from cartsvc.carts.validation import ItemChange, ItemChanges


def update_items(cart: Cart, changes: ItemChanges, *, limits: Limits, revision: Revision) -> Cart:
    """Return the cart with all these changes applied to the items that it has now; a quantity of 0 removes an item.

    The cart has the items: see :func:`check_items`. An item with new options becomes that variant in its place. Two
    items that become the same one are added up: they take the earlier place, and the item that had this id already
    keeps its price and its metadata. Raises LimitExceeded, CurrencyMismatch, and InvalidRequest for another
    ``product_id``.
    """
    by_item_id = changes.by_item_id
    _check_products(cart, changes)
    if changes.first_priced_pointer is not None:
        check_currency(cart, changes.currency, changes.first_priced_pointer)
    pointers: dict[str, str] = {}
    groups: dict[str, list[tuple[Item, ItemChange | None]]] = {}  # items by their next item_id, with the change if new
    for item in cart.items:
        change = by_item_id.get(item.item_id)
        if change is None:
            groups.setdefault(item.item_id, []).append((item, None))
        elif change.quantity != 0:
            after = _changed(item, change)
            pointers[after.item_id] = change.pointer
            groups.setdefault(after.item_id, []).append((after, None if after.item_id == item.item_id else change))
    items = tuple([group[0][0] if len(group) == 1 else _joined(group) for group in groups.values()])
    if any(change.options is not None for change in by_item_id.values()):
        _check_metadata(cart, items, pointers, limits)
    check_limits(cart, items, pointers, limits)
    return next_cart(cart, items, cart.currency or changes.currency, revision)


def check_items(cart: Cart, changes: ItemChanges) -> None:
    """Raise ItemNotFound, with the pointer of each unknown item_id, unless the cart has every item of the changes."""
    known = {item.item_id for item in cart.items}
    unknown = [change for item_id, change in changes.by_item_id.items() if item_id not in known]
    if unknown:
        detail = "The cart has no such item."
        raise ItemNotFound(
            Fault(change.pointer + "/item_id", detail, item_id=change.item_id) for change in unknown if change.pointer
        )


def _check_products(cart: Cart, changes: ItemChanges) -> None:
    """Raise InvalidRequest if a change has another ``product_id`` than its item, which cannot be changed."""
    given = {item_id: change for item_id, change in changes.by_item_id.items() if change.product_id is not None}
    faults = [
        Fault(given[item.item_id].pointer + "/product_id", "The product of an item cannot be changed.", "immutable")
        for item in (cart.items if given else ())
        if item.item_id in given and not _is_product(item, given[item.item_id])
    ]
    if faults:
        raise InvalidRequest(faults)


def _is_product(item: Item, change: ItemChange) -> bool:
    return change.product_id is not None and item.product_id in {change.product_id, normalise(change.product_id)}


def _changed(item: Item, change: ItemChange) -> Item:
    """Return the item with the values of the change; it has another item_id if its options are others."""
    item_id, options = item.item_id, item.options
    if change.options is not None and change.options != dict(options):
        options = sorted_pairs(normalised_options(change.options))
        item_id = derive_item_id(item.product_id, options)
    return structs.replace(
        item,
        item_id=item_id,
        options=options,
        quantity=item.quantity if change.quantity is None else change.quantity,
        unit_price=item.unit_price if change.unit_price is None else change.unit_price,
        metadata=item.metadata if change.metadata is None else sorted_pairs(change.metadata),
    )


def _joined(group: list[tuple[Item, ItemChange | None]]) -> Item:
    """Return the sum of items that have the same item_id now; a change has given it to some of them."""
    (joined, _), *others = sorted(group, key=lambda each: each[1] is not None)  # the item that had this id comes first
    for item, change in others:
        joined = merge_items(joined, item, joined.quantity + item.quantity)
        if change is not None and change.unit_price is not None:
            joined = structs.replace(joined, unit_price=item.unit_price)
        if change is not None and change.metadata is not None:
            joined = structs.replace(joined, metadata=item.metadata)
    return joined


def _check_metadata(cart: Cart, items: tuple[Item, ...], pointers: dict[str, str], limits: Limits) -> None:
    """Raise LimitExceeded if an item of the request has too many members of metadata after two were added up."""
    most = max([limits.max_metadata, *[len(item.metadata) for item in cart.items]])
    faults = [
        metadata_fault(len(item.metadata), pointers[item.item_id] + "/metadata", limits, item_id=item.item_id)
        for item in items
        if len(item.metadata) > most and item.item_id in pointers
    ]
    if faults:
        raise LimitExceeded(faults)
