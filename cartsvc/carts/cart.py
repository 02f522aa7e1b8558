"""Define carts and the changes that they allow: every rule, once. No I/O, no clock, no randomness.

A change takes a cart (None if it is absent) and returns the next one. It returns the same object if nothing changes,
and raises an error of :mod:`cartsvc.errors` if it is rejected. Times are integer milliseconds since the Unix epoch;
money is integer minor units.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

import msgspec
from msgspec import Struct

from cartsvc.carts.strings import (
    CURRENCY,
    NFC_GROWTH,
    OPTION_NAME,
    OPTION_VALUE,
    PRODUCT_ID,
    STORED_PRODUCT_ID,
    USER_ID,
    normalise,
)
from cartsvc.errors import CurrencyMismatch, Fault, InvalidRequest, ItemNotFound, LimitExceeded, pointer_segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cartsvc.carts.strings import StringRule

MAX_SUBTOTAL = 2**53 - 1  # the largest integer that JavaScript's numbers hold exactly
# A cart stays at this version. An import rejects higher ones, so an imported cart can be changed, exported and imported
# again. A million changes a second would take 142 years to get there.
MAX_VERSION = 2**52

_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DOT_SEGMENTS = (".", "..")  # clients and proxies remove these from the path of a URL
Strategy = Literal["sum", "max", "keep", "replace"]  # how a merge treats the items that both carts have
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
_SOURCE_POINTER = "/from_user_id"  # the member of a merge request that names the source
_encoder = msgspec.msgpack.Encoder()


class Item(Struct, frozen=True, array_like=True):
    """An item of a cart, identified by its ``item_id``."""

    item_id: str
    product_id: str
    options: tuple[tuple[str, str], ...]  # sorted by name
    quantity: int
    unit_price: int | None
    added_at: int


class Cart(Struct, frozen=True, array_like=True):
    """The cart of one user. ``currency`` is None unless an item has a price."""

    etag: str
    version: int
    items: tuple[Item, ...]
    currency: str | None
    created_at: int
    updated_at: int
    expires_at: int


class Limits(Struct, frozen=True):
    """The limits of carts and items; the defaults are those of the published API."""

    max_quantity: int = 999  # of one item
    max_items: int = 500  # in one cart
    max_cart_bytes: int = 65_536  # of the items of one cart, as stored
    max_options: int = 10  # of one item
    max_option_name: int = 64  # characters
    max_option_value: int = 256  # characters
    max_unit_price: int = 10**10  # minor units


MAX_LIMITS = Limits(10**9, 10_000, 4 * 2**20, 100, 1024, 4096, 10**12)  # the largest limits that settings allow


class NewItem(Struct, frozen=True):
    """An item in a request. ``pointer`` is its JSON Pointer in the body, for errors."""

    product_id: str
    quantity: int
    options: Mapping[str, str] = {}
    unit_price: int | None = None
    currency: str | None = None
    pointer: str = ""


class ItemChange(Struct, frozen=True):
    """The values that a request sets on an existing item; None leaves a value as it is. A price needs its currency."""

    quantity: int | None = None
    unit_price: int | None = None
    currency: str | None = None


class Revision(Struct, frozen=True):
    """The metadata of a cart's next revision: the time of the change, the new ETag, and when the cart then expires."""

    at: int
    etag: str
    expires_at: int


class NewItems(Struct, frozen=True):
    """The items of one request, as far as they can be validated without a cart, with equal items added up.

    ``pointers`` maps each item_id to the JSON Pointer of the last item of the request that has it.
    """

    items: tuple[Item, ...]
    currency: str | None
    pointers: Mapping[str, str]
    first_priced_pointer: str | None  # of the first item that has a price


# ---- rules that need no cart ----


def option_rules(limits: Limits, growth: int = 1) -> tuple[StringRule, StringRule]:
    """Return the rules of option names and option values; they may be ``growth`` times as long as ``limits`` allows."""
    return OPTION_NAME.up_to(limits.max_option_name * growth), OPTION_VALUE.up_to(limits.max_option_value * growth)


def is_user_id(text: str) -> bool:
    """Return whether the text is a valid user_id."""
    return USER_ID.allows(text)


def check_user_id(user_id: str, *, pointer: str = "/user_id") -> None:
    """Raise InvalidRequest unless this is a valid user_id."""
    if not is_user_id(user_id):
        detail = "A user_id has 1 to 255 of the characters A-Z a-z 0-9 . _ ~ @ : + | - and is neither '.' nor '..'."
        raise InvalidRequest([Fault(pointer, detail)])


def derive_item_id(product_id: str, options: Iterable[tuple[str, str]]) -> str:
    """Return the item_id of this product with these options (sorted by name). It depends on nothing else."""
    pairs = [[name, value] for name, value in options]
    if not pairs and _PLAIN_ID.fullmatch(product_id) and product_id not in _DOT_SEGMENTS:
        return product_id
    text = json.dumps([product_id, pairs], ensure_ascii=False, separators=(",", ":"))
    return "~" + hashlib.sha256(text.encode()).hexdigest()[:16]


def validate_new_items(
    new_items: Sequence[NewItem], *, limits: Limits, at: int, currency: str | None = None, as_stored: bool = False
) -> NewItems:
    """Validate the items of one request, and add up those with the same item_id.

    ``currency`` applies to items that have a price but no currency. The limits of length apply to texts as sent; texts
    are stored in Unicode NFC, which can be NFC_GROWTH times as long. With ``as_stored`` the texts come from a record
    and are not changed: they are in NFC, or older than the normalisation. Raises InvalidRequest, which lists every
    fault found.
    """
    faults = [
        fault for new_item in new_items for fault in _new_item_faults(new_item, currency, limits, as_stored=as_stored)
    ]
    if currency is not None:
        faults += _currency_faults(currency, "")
    stated = currency
    for new_item in new_items:
        stated = stated or new_item.currency
        if new_item.currency is not None and new_item.currency != stated:
            faults.append(
                Fault(new_item.pointer + "/currency", f"One cart has one currency, and this one has {stated}.")
            )
    if faults:
        raise InvalidRequest(faults)
    stated_items = [_item(new_item if as_stored else _normalised(new_item), at) for new_item in new_items]
    pointers = {item.item_id: new_item.pointer for item, new_item in zip(stated_items, new_items, strict=True)}
    items = _add_up((), stated_items)
    if faults := list(_limit_faults((), items, pointers, limits)):
        raise InvalidRequest(faults)
    first_priced_pointer = next((new_item.pointer for new_item in new_items if new_item.unit_price is not None), None)
    return NewItems(items=items, currency=stated, pointers=pointers, first_priced_pointer=first_priced_pointer)


def check_change(change: ItemChange, *, limits: Limits) -> None:
    """Raise InvalidRequest, which lists every fault, unless the change is valid and sets at least one value."""
    faults = list(_price_faults(change.unit_price, change.currency, "", limits))
    if change.quantity is None and change.unit_price is None:
        faults.append(Fault("", "Nothing to change: give a quantity, or a unit_price with its currency."))
    if change.quantity is not None and not 0 <= change.quantity <= limits.max_quantity:
        faults.append(Fault("/quantity", f"A quantity here is 0 (remove the item) to {limits.max_quantity}."))
    if faults:
        raise InvalidRequest(faults)


def _new_item_faults(new_item: NewItem, currency: str | None, limits: Limits, *, as_stored: bool) -> Iterator[Fault]:
    if not (STORED_PRODUCT_ID if as_stored else PRODUCT_ID).allows(new_item.product_id):
        detail = f"A product_id has 1 to {PRODUCT_ID.max_length} characters, and no control characters."
        yield Fault(new_item.pointer + "/product_id", detail)
    if not 1 <= new_item.quantity <= limits.max_quantity:
        yield Fault(new_item.pointer + "/quantity", f"A quantity is 1 to {limits.max_quantity}.")
    if new_item.options:
        yield from _option_faults(new_item, limits, NFC_GROWTH if as_stored else 1)
        if not as_stored:
            yield from _repeated_options(new_item)
    yield from _price_faults(new_item.unit_price, new_item.currency, new_item.pointer, limits, otherwise=currency)


def _option_faults(new_item: NewItem, limits: Limits, growth: int) -> Iterator[Fault]:
    place = new_item.pointer + "/options"
    if len(new_item.options) > limits.max_options:
        yield Fault(place, f"An item has at most {limits.max_options} options.")
    names, values = option_rules(limits, growth)
    for name, value in new_item.options.items():
        if not names.allows(name):
            length = limits.max_option_name
            yield Fault(place, f"An option's name has 1 to {length} characters, and no control characters.")
        elif not values.allows(value):
            length = limits.max_option_value
            detail = f"An option's value has at most {length} characters; control characters: tab and line break only."
            yield Fault(place + pointer_segment(name), detail)


def _repeated_options(new_item: NewItem) -> Iterator[Fault]:
    """Yield a fault for each name that equals another one in Unicode NFC, although the two differ as sent."""
    seen: set[str] = set()
    for name in new_item.options:
        normal = normalise(name)
        if normal in seen:
            detail = "Another option of this item has the same name in Unicode NFC."
            yield Fault(new_item.pointer + "/options" + pointer_segment(name), detail)
        seen.add(normal)


def _price_faults(
    price: int | None, currency: str | None, pointer: str, limits: Limits, *, otherwise: str | None = None
) -> Iterator[Fault]:
    if price is not None and not 0 <= price <= limits.max_unit_price:
        yield Fault(pointer + "/unit_price", f"A unit_price is 0 to {limits.max_unit_price} minor units.")
    if currency is not None:
        yield from _currency_faults(currency, pointer)
    if price is not None and currency is None and otherwise is None:
        yield Fault(pointer + "/currency", "A unit_price needs its currency.")
    if price is None and currency is not None:
        yield Fault(pointer + "/unit_price", "A currency needs its unit_price.")


def _currency_faults(currency: str, pointer: str) -> Iterator[Fault]:
    if not CURRENCY.allows(currency):
        yield Fault(pointer + "/currency", "A currency is three capital letters (ISO 4217).")


# ---- the changes ----


def add(cart: Cart | None, additions: NewItems, *, limits: Limits, revision: Revision) -> Cart:
    """Return the cart with these items added: quantities of equal items add up, and the last price wins.

    Raises LimitExceeded or CurrencyMismatch if the cart does not allow them.
    """
    if cart is None:
        return _next_cart(None, additions.items, additions.currency, revision)
    pointers = additions.pointers
    if additions.first_priced_pointer is not None:
        _check_currency(cart, additions.currency, additions.first_priced_pointer)
    items = _add_up(cart.items, additions.items)
    _check_limits(cart, items, pointers, limits)
    return _next_cart(cart, items, cart.currency or additions.currency, revision)


def replace(cart: Cart | None, additions: NewItems, *, revision: Revision) -> Cart:
    """Return a cart of exactly these items, in this order. An item that the cart already had keeps its ``added_at``."""
    added_at = {item.item_id: item.added_at for item in cart.items} if cart else {}
    items = [msgspec.structs.replace(i, added_at=added_at.get(i.item_id, i.added_at)) for i in additions.items]
    return _next_cart(cart, tuple(items), additions.currency, revision)


def set_item(cart: Cart, item_id: str, change: ItemChange, *, limits: Limits, revision: Revision) -> Cart:
    """Return the cart with the quantity or price (or both) of this item set; a quantity of 0 removes the item.

    Raises ItemNotFound, LimitExceeded or CurrencyMismatch.
    """
    item = find_item(cart, item_id)
    if change.quantity == 0:
        return remove_item(cart, item_id, revision=revision)
    _check_currency(cart, change.currency, "")
    quantity = item.quantity if change.quantity is None else change.quantity
    unit_price = item.unit_price if change.unit_price is None else change.unit_price
    changed = msgspec.structs.replace(item, quantity=quantity, unit_price=unit_price)
    items = tuple([changed if item is each else each for each in cart.items])
    _check_limits(cart, items, {item_id: ""}, limits)
    return _next_cart(cart, items, cart.currency or change.currency, revision)


def remove_item(cart: Cart, item_id: str, *, revision: Revision) -> Cart:
    """Return the cart without this item. Raises ItemNotFound."""
    item = find_item(cart, item_id)
    return _next_cart(cart, tuple([each for each in cart.items if each is not item]), cart.currency, revision)


def combine(cart: Cart | None, source: Cart, strategy: Strategy, *, limits: Limits, revision: Revision) -> Cart:
    """Return the cart with the items of ``source`` merged into it by ``strategy``; the source is not changed.

    Raises LimitExceeded or CurrencyMismatch if the two carts cannot be combined.
    """
    kept = {} if cart is None or strategy == "replace" else {item.item_id: item for item in cart.items}
    merged = dict(kept)
    for item in source.items:
        own = kept.get(item.item_id)
        merged[item.item_id] = item if own is None else _merge_items(own, item, strategy)
    items = tuple(merged.values())
    currency = _currency_after_merge(cart, source, kept, items)
    faults = list(_limit_faults(cart.items if cart else (), items, dict.fromkeys(merged, _SOURCE_POINTER), limits))
    if faults:
        raise LimitExceeded(Fault(_SOURCE_POINTER, fault.detail) for fault in faults)
    return _next_cart(cart, items, currency, revision)


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


def _currency_after_merge(
    cart: Cart | None, source: Cart, kept: Mapping[str, Item], items: Iterable[Item]
) -> str | None:
    """Return the currency of ``items``, the result of a merge; ``kept`` are the items that the cart keeps.

    The currency of a kept price stays. Raises CurrencyMismatch if the merge adds a price in another currency.
    """
    if cart is None or cart.currency is None or all(item.unit_price is None for item in kept.values()):
        return source.currency
    adds_price = any(
        item.unit_price is not None and (item.item_id not in kept or kept[item.item_id].unit_price is None)
        for item in items
    )
    if adds_price and cart.currency != source.currency:
        detail = f"The cart is in {cart.currency} and the source in {source.currency}; one cart has one currency."
        raise CurrencyMismatch([Fault(_SOURCE_POINTER, detail)])
    return cart.currency


def _merge_items(own: Item, other: Item, strategy: Strategy) -> Item:
    """Return the merged item of two carts that both have it."""
    if strategy == "keep":
        return own
    together = own.quantity + other.quantity if strategy == "sum" else max(own.quantity, other.quantity)
    unit_price = other.unit_price if own.unit_price is None else own.unit_price
    return msgspec.structs.replace(own, quantity=together, unit_price=unit_price)


def _normalised(new_item: NewItem) -> NewItem:
    """Return the item with its texts in Unicode NFC, so that the same text typed on two devices makes one item."""
    options = {normalise(name): normalise(value) for name, value in new_item.options.items()}
    return msgspec.structs.replace(new_item, product_id=normalise(new_item.product_id), options=options)


def _item(new_item: NewItem, at: int) -> Item:
    options = tuple(sorted(new_item.options.items()))
    return Item(
        derive_item_id(new_item.product_id, options),
        new_item.product_id,
        options,
        new_item.quantity,
        new_item.unit_price,
        at,
    )


def _add_up(items: Iterable[Item], more: Iterable[Item]) -> tuple[Item, ...]:
    merged = {item.item_id: item for item in items}
    for new in more:
        old = merged.get(new.item_id)
        if old is not None:
            unit_price = old.unit_price if new.unit_price is None else new.unit_price
            new = msgspec.structs.replace(old, quantity=old.quantity + new.quantity, unit_price=unit_price)  # noqa: PLW2901 - the sum replaces the new item
        merged[new.item_id] = new
    return tuple(merged.values())


def _next_cart(cart: Cart | None, items: tuple[Item, ...], currency: str | None, revision: Revision) -> Cart:
    if not any(item.unit_price is not None for item in items):
        currency = None
    if cart is not None and items == cart.items and currency == cart.currency:
        return cart
    version, created_at = (cart.version, cart.created_at) if cart else (0, revision.at)
    version = min(version + 1, MAX_VERSION)
    return Cart(revision.etag, version, items, currency, created_at, revision.at, revision.expires_at)


def _check_currency(cart: Cart, currency: str | None, pointer: str) -> None:
    if currency is not None and cart.currency is not None and currency != cart.currency:
        detail = f"The cart is in {cart.currency}; one cart has one currency."
        raise CurrencyMismatch([Fault(pointer + "/currency", detail)])


def _check_limits(cart: Cart, items: tuple[Item, ...], pointers: Mapping[str, str], limits: Limits) -> None:
    if faults := list(_limit_faults(cart.items, items, pointers, limits)):
        raise LimitExceeded(faults)


def _limit_faults(
    before: tuple[Item, ...], items: tuple[Item, ...], pointers: Mapping[str, str], limits: Limits
) -> Iterator[Fault]:
    """Yield the limits that these items exceed together, unless they did ``before`` and have not grown.

    ``pointers`` maps the item_ids of the request to their JSON Pointers.
    """
    for item in [item for item in items if item.quantity > limits.max_quantity]:
        earlier = next((each.quantity for each in before if each.item_id == item.item_id), 0)
        if item.quantity > earlier:
            detail = f"At most {limits.max_quantity} of one item; this would make {item.quantity}."
            yield Fault(pointers[item.item_id] + "/quantity", detail)
    most = max(limits.max_items, len(before))
    if len(items) > most:
        yield Fault(pointers[items[most].item_id], f"At most {limits.max_items} items in one cart.")
    if _priced(items) > MAX_SUBTOTAL:  # a constant, so no stored cart exceeds it
        yield Fault("", f"The subtotal would pass {MAX_SUBTOTAL} minor units.")
    if (taken := stored_size(items)) > limits.max_cart_bytes and taken > stored_size(before):
        yield Fault("", f"The items of one cart take at most {limits.max_cart_bytes} bytes.")


def _priced(items: tuple[Item, ...]) -> int:
    return sum([item.quantity * item.unit_price for item in items if item.unit_price is not None])


def stored_size(items: tuple[Item, ...]) -> int:
    """Return the size of these items in a record, in bytes."""
    return len(_encoder.encode(items))
