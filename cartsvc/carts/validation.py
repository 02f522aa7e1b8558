"""Check what a request holds, as far as it can be judged without a cart: texts, numbers, prices, limits. Pure.

Each check lists every fault that it finds, so that one response names them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, structs

from cartsvc.carts.cart import Item, Limits, Pairs, add_up, derive_item_id, limit_faults, sorted_pairs, with_metadata
from cartsvc.carts.strings import (
    CURRENCY,
    METADATA_NAME,
    METADATA_VALUE,
    NFC_GROWTH,
    OPTION_NAME,
    OPTION_VALUE,
    PRODUCT_ID,
    STORED_PRODUCT_ID,
    USER_ID,
    normalise,
)
from cartsvc.errors import Fault, InvalidRequest, pointer_segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal

    from msgspec import UnsetType

    from cartsvc.carts.strings import StringRule

MAX_LINES = 100  # items that one request adds or changes


class NewItem(Struct, frozen=True):
    """An item in a request. ``pointer`` is its JSON Pointer in the body, for errors.

    ``metadata`` None keeps the metadata of an equal item in the cart.
    """

    product_id: str
    quantity: int
    options: Mapping[str, str] = {}
    unit_price: int | None = None
    currency: str | None = None
    pointer: str = ""
    metadata: Mapping[str, str] | None = None


class ItemChange(Struct, frozen=True):
    """The values that a request sets on an item of the cart; None leaves a value as it is. A price needs its currency.

    ``options`` turn the item into another variant of its product; ``product_id`` must be the item's own. ``pointer`` is
    the change's JSON Pointer in the body, for errors.
    """

    quantity: int | None = None
    unit_price: int | None = None
    currency: str | None = None
    item_id: str = ""
    product_id: str | None = None
    options: Mapping[str, str] | None = None
    metadata: Mapping[str, str] | None = None
    pointer: str = ""


class NewItems(Struct, frozen=True):
    """The items of one request, as far as they can be validated without a cart, with equal items added up.

    ``pointers`` maps each item_id to the JSON Pointer of the last item of the request that has it. ``metadata`` has the
    metadata that the request gives, by item_id; an item that is not in it keeps what it has in the cart.
    """

    items: tuple[Item, ...]
    currency: str | None
    pointers: Mapping[str, str]
    first_priced_pointer: str | None  # of the first item that has a price
    metadata: Mapping[str, Pairs] = {}


class ItemChanges(Struct, frozen=True):
    """The changes of one request, by the item_id of the item that each changes."""

    by_item_id: Mapping[str, ItemChange]
    currency: str | None  # of all prices of the request
    first_priced_pointer: str | None  # of the first change that sets a price


# ---- rules ----


@lru_cache(maxsize=8)
def option_rules(limits: Limits, growth: int = 1) -> tuple[StringRule, StringRule]:
    """Return the rules of option names and option values; they may be ``growth`` times as long as ``limits`` allows."""
    return OPTION_NAME.up_to(limits.max_option_name * growth), OPTION_VALUE.up_to(limits.max_option_value * growth)


@lru_cache(maxsize=8)
def metadata_rules(limits: Limits) -> tuple[StringRule, StringRule]:
    """Return the rules of the names and the values of metadata."""
    return METADATA_NAME, METADATA_VALUE.up_to(limits.max_metadata_value)


def check_user_id(user_id: str, *, pointer: str = "/user_id", location: Literal["path"] | UnsetType = UNSET) -> None:
    """Raise InvalidRequest unless this is a valid user_id."""
    if faults := user_id_faults(user_id, pointer, location=location):
        raise InvalidRequest(faults)


def user_id_faults(user_id: str, pointer: str, *, location: Literal["path"] | UnsetType = UNSET) -> list[Fault]:
    """Return the fault of a text that is no user_id."""
    if USER_ID.allows(user_id):
        return []
    detail = "A user_id has 1 to 255 of the characters A-Z a-z 0-9 . _ ~ @ : + | - and is neither '.' nor '..'."
    return [Fault(pointer, detail, location=location)]


# ---- whole requests ----


def validate_new_items(
    new_items: Sequence[NewItem],
    *,
    limits: Limits,
    at: int,
    currency: str | None = None,
    max_lines: int | None = None,
    as_stored: bool = False,
) -> NewItems:
    """Validate the items of one request, and add up those with the same item_id.

    ``currency`` applies to items that have a price but no currency. The limits of length apply to texts as sent; texts
    are stored in Unicode NFC, which can be NFC_GROWTH times as long. With ``as_stored`` the texts come from a record
    and are not changed: they are in NFC, or older than the normalisation. Raises InvalidRequest, which lists every
    fault found.
    """
    faults = new_item_faults(new_items, limits=limits, currency=currency, max_lines=max_lines, as_stored=as_stored)
    if faults:
        new_items = [each for each in new_items if not _has_fault(each.pointer, faults)]
    stated_items = [_item(new_item if as_stored else _normalised(new_item), at) for new_item in new_items]
    pointers = {item.item_id: new_item.pointer for item, new_item in zip(stated_items, new_items, strict=True)}
    metadata = {
        item.item_id: sorted_pairs(new_item.metadata)
        for item, new_item in zip(stated_items, new_items, strict=True)
        if new_item.metadata is not None
    }
    items = with_metadata(add_up((), stated_items), metadata)
    faults += limit_faults((), items, pointers, limits)
    if faults:
        raise InvalidRequest(faults)
    for new_item in new_items:
        if new_item.unit_price is not None:
            return NewItems(items, currency or new_item.currency, pointers, new_item.pointer, metadata)
    return NewItems(items, currency, pointers, None, metadata)


def new_item_faults(
    new_items: Sequence[NewItem],
    *,
    limits: Limits,
    currency: str | None = None,
    max_lines: int | None = None,
    as_stored: bool = False,
) -> list[Fault]:
    """Return the faults of each item by itself, and of the items' currencies together."""
    faults = [] if max_lines is None else _line_faults(len(new_items), max_lines)
    for new_item in new_items:
        faults += _new_item_faults(new_item, currency, limits, as_stored=as_stored)
    if currency is not None:
        faults += _currency_faults(currency, "")
    return faults + _mixed_currency_faults(new_items, currency)


def validate_changes(changes: Sequence[ItemChange], *, limits: Limits) -> ItemChanges:
    """Validate the changes of one request. Raises InvalidRequest, which lists every fault."""
    if faults := change_faults(changes, limits=limits):
        raise InvalidRequest(faults)
    priced = [change for change in changes if change.unit_price is not None and change.quantity != 0]
    return ItemChanges(
        {change.item_id: change for change in changes},
        priced[0].currency if priced else None,
        priced[0].pointer if priced else None,
    )


def change_faults(changes: Sequence[ItemChange], *, limits: Limits) -> list[Fault]:
    """Return the faults of these changes: each by itself, and all together."""
    faults = _line_faults(len(changes), MAX_LINES)
    seen: set[str] = set()
    for change in changes:
        faults += _change_faults(change, limits)
        if change.item_id in seen:
            detail = "Another change in this request is for the same item."
            faults.append(Fault(change.pointer + "/item_id", detail, "duplicate", item_id=change.item_id))
        seen.add(change.item_id)
    return faults + _mixed_currency_faults(changes, None)


def validate_metadata(metadata: Mapping[str, str] | None, *, limits: Limits) -> Pairs | None:
    """Return the metadata of a cart as it is stored; None for None. Raises InvalidRequest, which lists every fault."""
    if metadata is None:
        return None
    if faults := list(metadata_faults(metadata, "", limits)):
        raise InvalidRequest(faults)
    return sorted_pairs(metadata)


def metadata_faults(metadata: Mapping[str, str], pointer: str, limits: Limits) -> Iterator[Fault]:
    """Yield the faults of the member ``metadata`` of the object at this pointer."""
    place = pointer + "/metadata"
    if len(metadata) > limits.max_metadata:
        detail = f"Metadata has at most {limits.max_metadata} members."
        yield Fault(place, detail, "max_metadata", limits.max_metadata, len(metadata))
    names, values = metadata_rules(limits)
    for name, value in metadata.items():
        if not names.allows(name):
            detail = f"A name in metadata has 1 to {names.max_length} characters, and no control characters."
            yield Fault(place, detail)
        elif values.is_too_long(value):
            most = limits.max_metadata_value
            detail = f"A value in metadata has at most {most} characters."
            yield Fault(place + pointer_segment(name), detail, "max_metadata_value", most, len(value))
        elif not values.has_pattern(value):
            detail = "A value in metadata has no control characters except tab and line break."
            yield Fault(place + pointer_segment(name), detail)


# ---- parts of requests ----


def _line_faults(lines: int, most: int) -> list[Fault]:
    if lines > most:
        return [Fault("/items", f"A request has at most {most} items.", "max_lines", most, lines)]
    return [] if lines else [Fault("/items", "A request has at least one item.")]


def _new_item_faults(new_item: NewItem, currency: str | None, limits: Limits, *, as_stored: bool) -> Iterator[Fault]:
    if not (STORED_PRODUCT_ID if as_stored else PRODUCT_ID).allows(new_item.product_id):
        detail = f"A product_id has 1 to {PRODUCT_ID.max_length} characters, and no control characters."
        yield Fault(new_item.pointer + "/product_id", detail)
    if not 1 <= new_item.quantity <= limits.max_quantity:
        yield _quantity_fault(new_item.quantity, f"A quantity is 1 to {limits.max_quantity}.", new_item.pointer, limits)
    if new_item.options:
        yield from _option_faults(new_item.options, new_item.pointer, limits, as_stored=as_stored)
    if new_item.metadata:
        yield from metadata_faults(new_item.metadata, new_item.pointer, limits)
    yield from _price_faults(new_item.unit_price, new_item.currency, new_item.pointer, limits, otherwise=currency)


def _change_faults(change: ItemChange, limits: Limits) -> Iterator[Fault]:
    yield from _price_faults(change.unit_price, change.currency, change.pointer, limits)
    if change.quantity is None and change.unit_price is None and change.options is None and change.metadata is None:
        detail = "Nothing to change: give a quantity, a unit_price with its currency, options or metadata."
        yield Fault(change.pointer, detail, "required")
    if change.quantity is not None and not 0 <= change.quantity <= limits.max_quantity:
        detail = f"A quantity here is 0 (remove the item) to {limits.max_quantity}."
        yield _quantity_fault(change.quantity, detail, change.pointer, limits)
    if change.options:
        yield from _option_faults(change.options, change.pointer, limits)
    if change.metadata:
        yield from metadata_faults(change.metadata, change.pointer, limits)


def _quantity_fault(quantity: int, detail: str, pointer: str, limits: Limits) -> Fault:
    most = limits.max_quantity
    if quantity > most:
        return Fault(pointer + "/quantity", detail, "max_quantity", most, quantity)
    return Fault(pointer + "/quantity", detail, value=quantity)


def _option_faults(
    options: Mapping[str, str], pointer: str, limits: Limits, *, as_stored: bool = False
) -> Iterator[Fault]:
    place = pointer + "/options"
    if len(options) > limits.max_options:
        detail = f"An item has at most {limits.max_options} options."
        yield Fault(place, detail, "max_options", limits.max_options, len(options))
    names, values = option_rules(limits, NFC_GROWTH if as_stored else 1)
    for name, value in options.items():
        if names.is_too_long(name):
            most = limits.max_option_name
            yield Fault(place, f"An option's name has 1 to {most} characters.", "max_option_name", most, len(name))
        elif not names.allows(name):
            yield Fault(
                place, f"An option's name has 1 to {limits.max_option_name} characters, and no control characters."
            )
        elif values.is_too_long(value):
            most = limits.max_option_value
            detail = f"An option's value has at most {most} characters."
            yield Fault(place + pointer_segment(name), detail, "max_option_value", most, len(value))
        elif not values.has_pattern(value):
            detail = "An option's value has no control characters except tab and line break."
            yield Fault(place + pointer_segment(name), detail)
    if not as_stored and len(options) > 1:
        yield from _repeated_options(options, place)


def _repeated_options(options: Mapping[str, str], place: str) -> Iterator[Fault]:
    """Yield a fault for each name that equals another one in Unicode NFC, although the two differ as sent."""
    seen: set[str] = set()
    for name in options:
        normal = normalise(name)
        if normal in seen:
            detail = "Another option of this item has the same name in Unicode NFC."
            yield Fault(place + pointer_segment(name), detail, "duplicate")
        seen.add(normal)


def _price_faults(
    price: int | None, currency: str | None, pointer: str, limits: Limits, *, otherwise: str | None = None
) -> Iterator[Fault]:
    if price is not None and not 0 <= price <= limits.max_unit_price:
        most = limits.max_unit_price
        detail = f"A unit_price is 0 to {most} minor units."
        if price > most:
            yield Fault(pointer + "/unit_price", detail, "max_unit_price", most, price)
        else:
            yield Fault(pointer + "/unit_price", detail, value=price)
    if currency is not None:
        yield from _currency_faults(currency, pointer)
    if price is not None and currency is None and otherwise is None:
        yield Fault(pointer + "/currency", "A unit_price needs its currency.", "currency_required")
    if price is None and currency is not None:
        yield Fault(pointer + "/unit_price", "A currency needs its unit_price.", "currency_without_price")


def _currency_faults(currency: str, pointer: str) -> Iterator[Fault]:
    if not CURRENCY.allows(currency):
        yield Fault(pointer + "/currency", "A currency is three capital letters (ISO 4217).")


def _mixed_currency_faults(lines: Sequence[NewItem] | Sequence[ItemChange], stated: str | None) -> list[Fault]:
    """Return a fault for each currency that differs from the first one of the request."""
    faults = []
    for line in lines:
        stated = stated or line.currency
        if line.currency is not None and line.currency != stated:
            detail = f"One cart has one currency, and this one has {stated}."
            faults.append(Fault(line.pointer + "/currency", detail, "currency_mismatch", currency=stated or UNSET))
    return faults


def _has_fault(pointer: str, faults: Sequence[Fault]) -> bool:
    return any(fault.pointer == pointer or fault.pointer.startswith(f"{pointer}/") for fault in faults)


def _normalised(new_item: NewItem) -> NewItem:
    """Return the item with its texts in Unicode NFC, so that the same text typed on two devices makes one item."""
    product_id, options = normalise(new_item.product_id), normalised_options(new_item.options)
    if product_id is new_item.product_id and options == new_item.options:
        return new_item
    return structs.replace(new_item, product_id=product_id, options=options)


def normalised_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options with their names and values in Unicode NFC."""
    return {normalise(name): normalise(value) for name, value in options.items()}


def _item(new_item: NewItem, at: int) -> Item:
    options = sorted_pairs(new_item.options)
    return Item(
        derive_item_id(new_item.product_id, options),
        new_item.product_id,
        options,
        new_item.quantity,
        new_item.unit_price,
        at,
    )
