"""Define carts and the changes that they allow. No I/O, no clock, no randomness.

A change takes a cart (None if it is absent) and returns the next one. It returns the same object if nothing changes,
and raises an error of :mod:`cartsvc.errors` if it is rejected. Times are integer milliseconds since the Unix epoch;
money is integer minor units.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import UNSET, Struct, structs

from cartsvc.carts.strings import USER_ID
from cartsvc.errors import CurrencyMismatch, Fault, ItemNotFound, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from msgspec import UnsetType

    from cartsvc.carts.validation import NewItems

MAX_SUBTOTAL = 2**53 - 1  # the largest integer that JavaScript's numbers hold exactly
# A cart stays at this version. An import rejects higher ones, so an imported cart can be changed, exported and imported
# again. A million changes a second would take 142 years to get there.
MAX_VERSION = 2**52

_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DOT_SEGMENTS = (".", "..")  # clients and proxies remove these from the path of a URL
_encoder = msgspec.msgpack.Encoder()

Pairs: TypeAlias = tuple[tuple[str, str], ...]  # names and values, sorted by name


class Item(Struct, frozen=True, array_like=True):
    """An item of a cart, identified by its ``item_id``."""

    item_id: str
    product_id: str
    options: Pairs
    quantity: int
    unit_price: int | None
    added_at: int
    metadata: Pairs = ()


class Cart(Struct, frozen=True, array_like=True):
    """The cart of one user. ``currency`` is None unless an item has a price."""

    etag: str
    version: int
    items: tuple[Item, ...]
    currency: str | None
    created_at: int
    updated_at: int
    expires_at: int
    metadata: Pairs = ()


class Limits(Struct, frozen=True):
    """The limits of carts and items; the defaults are those of the published API."""

    max_quantity: int = 999  # of one item
    max_items: int = 500  # in one cart
    max_cart_bytes: int = 65_536  # of the items and the metadata of one cart, as stored
    max_options: int = 10  # of one item
    max_option_name: int = 64  # characters
    max_option_value: int = 256  # characters
    max_unit_price: int = 10**10  # minor units
    max_metadata: int = 20  # members, of one item and of one cart
    max_metadata_value: int = 500  # characters


# The largest limits that settings allow.
MAX_LIMITS = Limits(10**9, 10_000, 4 * 2**20, 100, 1024, 4096, 10**12, 100, 4096)


class Revision(Struct, frozen=True):
    """The metadata of a cart's next revision: the time of the change, the new ETag, and when the cart then expires."""

    at: int
    etag: str
    expires_at: int


# ---- reading ----


def is_user_id(text: str) -> bool:
    """Return whether the text is a valid user_id."""
    return USER_ID.allows(text)


def derive_item_id(product_id: str, options: Pairs) -> str:
    """Return the item_id of this product with these options. It depends on nothing else."""
    if not options and _PLAIN_ID.fullmatch(product_id) and product_id not in _DOT_SEGMENTS:
        return product_id
    text = msgspec.json.encode((product_id, options))
    return "~" + hashlib.sha256(text).hexdigest()[:16]


def find_item(cart: Cart, item_id: str) -> Item:
    """Return the item with this item_id. Raises ItemNotFound."""
    for item in cart.items:
        if item.item_id == item_id:
            return item
    raise ItemNotFound


def subtotal(items: Sequence[Item]) -> int | None:
    """Return the sum of quantity times price in minor units; None unless every item has a price."""
    total = 0
    for item in items:
        if item.unit_price is None:
            return None
        total += item.quantity * item.unit_price
    return total


def stored_size(items: tuple[Item, ...], metadata: Pairs = ()) -> int:
    """Return the size of these items and this metadata of a cart in a record, in bytes."""
    return len(_encoder.encode(items)) + (len(_encoder.encode(metadata)) if metadata else 0)


# ---- the changes ----


def add(cart: Cart | None, additions: NewItems, *, limits: Limits, revision: Revision) -> Cart:
    """Return the cart with these items added: quantities of equal items add up, and the last price wins.

    Raises LimitExceeded or CurrencyMismatch if the cart does not allow them.
    """
    if cart is None:
        return next_cart(None, additions.items, additions.currency, revision)
    if additions.first_priced_pointer is not None:
        check_currency(cart, additions.currency, additions.first_priced_pointer)
    items = with_metadata(add_up(cart.items, additions.items), additions.metadata)
    check_limits(cart, items, additions.pointers, limits)
    return next_cart(cart, items, cart.currency or additions.currency, revision)


def replace(
    cart: Cart | None, additions: NewItems, *, metadata: Pairs | None = None, limits: Limits, revision: Revision
) -> Cart:
    """Return a cart of exactly these items, in this order.

    An item that the cart already had keeps its ``added_at``, and its metadata unless the request gives it others. The
    cart keeps its own metadata if ``metadata`` is None. Raises LimitExceeded if they do not fit with the items.
    """
    before = {item.item_id: item for item in cart.items} if cart else {}
    items = tuple([_kept(before.get(item.item_id), item, additions.metadata) for item in additions.items])
    if metadata is None and cart is not None:
        metadata = cart.metadata
    if metadata or items != additions.items:
        _check_size(cart, items, metadata or (), limits)
    return next_cart(cart, items, additions.currency, revision, metadata=metadata)


def set_metadata(cart: Cart, metadata: Pairs, *, limits: Limits, revision: Revision) -> Cart:
    """Return the cart with this metadata instead of its own. Raises LimitExceeded."""
    _check_size(cart, cart.items, metadata, limits)
    return next_cart(cart, cart.items, cart.currency, revision, metadata=metadata)


def remove_item(cart: Cart, item_id: str, *, revision: Revision) -> Cart:
    """Return the cart without this item. Raises ItemNotFound."""
    item = find_item(cart, item_id)
    return next_cart(cart, tuple([each for each in cart.items if each is not item]), cart.currency, revision)


# ---- parts of changes ----


def sorted_pairs(members: Mapping[str, str]) -> Pairs:
    """Return names and values in the form in which they are stored."""
    return tuple(sorted(members.items())) if members else ()


def add_up(items: Iterable[Item], more: Iterable[Item]) -> tuple[Item, ...]:
    """Return all items; those of ``more`` are added to equal ones, and their price replaces an earlier one."""
    merged = {item.item_id: item for item in items}
    for new in more:
        old = merged.get(new.item_id)
        if old is not None:
            unit_price = old.unit_price if new.unit_price is None else new.unit_price
            new = structs.replace(old, quantity=old.quantity + new.quantity, unit_price=unit_price)  # noqa: PLW2901 - the sum replaces the new item
        merged[new.item_id] = new
    return tuple(merged.values())


def with_metadata(items: tuple[Item, ...], metadata: Mapping[str, Pairs]) -> tuple[Item, ...]:
    """Return the items with the metadata that ``metadata`` has for their item_ids."""
    if not metadata:
        return items
    return tuple(
        [structs.replace(item, metadata=metadata[item.item_id]) if item.item_id in metadata else item for item in items]
    )


def merge_items(own: Item, other: Item, quantity: int) -> Item:
    """Return ``own`` with this quantity, and with the price and the metadata that only ``other`` has."""
    unit_price = other.unit_price if own.unit_price is None else own.unit_price
    metadata = merge_metadata(own.metadata, other.metadata)
    return structs.replace(own, quantity=quantity, unit_price=unit_price, metadata=metadata)


def merge_metadata(own: Pairs, other: Pairs) -> Pairs:
    """Return the members of both; a name that both have keeps its value in ``own``."""
    return sorted_pairs(dict(other) | dict(own)) if other else own


def next_cart(
    cart: Cart | None,
    items: tuple[Item, ...],
    currency: str | None,
    revision: Revision,
    *,
    metadata: Pairs | None = None,
) -> Cart:
    """Return the cart with these contents, or the same object if it has them already; None keeps its metadata."""
    if not any(item.unit_price is not None for item in items):
        currency = None
    if metadata is None:
        metadata = cart.metadata if cart is not None else ()
    if cart is not None and items == cart.items and currency == cart.currency and metadata == cart.metadata:
        return cart
    version, created_at = (cart.version, cart.created_at) if cart else (0, revision.at)
    version = min(version + 1, MAX_VERSION)
    return Cart(revision.etag, version, items, currency, created_at, revision.at, revision.expires_at, metadata)


def _kept(before: Item | None, item: Item, given: Mapping[str, Pairs]) -> Item:
    """Return the item with what it keeps from the item that the cart had."""
    if before is None:
        return item
    metadata = item.metadata if item.item_id in given else before.metadata
    return structs.replace(item, added_at=before.added_at, metadata=metadata)


# ---- limits ----


def check_currency(cart: Cart, currency: str | None, pointer: str) -> None:
    """Raise CurrencyMismatch if the cart has prices in another currency; ``pointer`` is that of the item."""
    if currency is not None and cart.currency is not None and currency != cart.currency:
        detail = f"The cart is in {cart.currency}; one cart has one currency."
        raise CurrencyMismatch([Fault(pointer + "/currency", detail, "currency_mismatch", currency=cart.currency)])


def check_limits(cart: Cart, items: tuple[Item, ...], pointers: Mapping[str, str], limits: Limits) -> None:
    """Raise LimitExceeded if the cart may not have these items; ``pointers`` as in :func:`limit_faults`."""
    if faults := limit_faults(cart.items, items, pointers, limits, metadata=cart.metadata):
        raise LimitExceeded(faults)


def limit_faults(
    before: tuple[Item, ...],
    items: tuple[Item, ...],
    pointers: Mapping[str, str],
    limits: Limits,
    *,
    metadata: Pairs = (),
) -> list[Fault]:
    """Return the limits that these items exceed together, unless they did ``before`` and have not grown.

    ``pointers`` maps the item_ids of the request to their JSON Pointers. ``metadata`` is that of the cart, which takes
    room in addition to the items.
    """
    faults = []
    total = 0
    for item in items:
        if item.quantity > limits.max_quantity:
            earlier = next((each.quantity for each in before if each.item_id == item.item_id), 0)
            if item.quantity > earlier:
                faults.append(quantity_fault(item, pointers[item.item_id] + "/quantity", limits))
        if item.unit_price is not None:
            total += item.quantity * item.unit_price
    if len(items) > limits.max_items and len(items) > len(before):
        first = items[max(limits.max_items, len(before))]
        faults.append(items_fault(first, len(items), pointers[first.item_id], limits))
    if total > MAX_SUBTOTAL:  # a constant, so no stored cart exceeds it
        faults.append(subtotal_fault(total, ""))
    size = stored_size(items, metadata)
    if size > limits.max_cart_bytes and size > stored_size(before, metadata):
        faults.append(size_fault(size, "", limits))
    return faults


def quantity_fault(item: Item, pointer: str, limits: Limits) -> Fault:
    """Return the fault of an item with too large a quantity."""
    most, quantity = limits.max_quantity, item.quantity
    detail = f"At most {most} of one item; this would make {quantity}."
    return Fault(pointer, detail, "max_quantity", most, quantity, item.item_id)


def items_fault(item: Item, number: int, pointer: str, limits: Limits) -> Fault:
    """Return the fault of this number of items; ``item`` is the first one that does not fit."""
    most = limits.max_items
    return Fault(pointer, f"At most {most} items in one cart.", "max_items", most, number, item.item_id)


def subtotal_fault(total: int, pointer: str) -> Fault:
    """Return the fault of a cart that costs too much to be counted."""
    detail = f"The subtotal would pass {MAX_SUBTOTAL} minor units."
    return Fault(pointer, detail, "max_subtotal", MAX_SUBTOTAL, total)


def size_fault(size: int, pointer: str, limits: Limits) -> Fault:
    """Return the fault of a cart that takes too many bytes."""
    most = limits.max_cart_bytes
    return Fault(pointer, f"The contents of one cart take at most {most} bytes.", "max_cart_bytes", most, size)


def metadata_fault(number: int, pointer: str, limits: Limits, *, item_id: str | UnsetType = UNSET) -> Fault:
    """Return the fault of metadata with too many members; without an ``item_id``, it is that of the cart."""
    most = limits.max_metadata
    detail = f"Metadata has at most {most} members; this would make {number}."
    return Fault(pointer, detail, "max_metadata", most, number, item_id)


def priced_total(items: tuple[Item, ...]) -> int:
    """Return the sum of quantity times price over the items that have a price."""
    return sum([item.quantity * item.unit_price for item in items if item.unit_price is not None])


def _check_size(cart: Cart | None, items: tuple[Item, ...], metadata: Pairs, limits: Limits) -> None:
    size = stored_size(items, metadata)
    if size > limits.max_cart_bytes and (cart is None or size > stored_size(cart.items, cart.metadata)):
        raise LimitExceeded([size_fault(size, "", limits)])
