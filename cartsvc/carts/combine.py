"""Combine two carts by a strategy, within the limits: what a merge makes of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from msgspec import UNSET, Struct, structs

from cartsvc.carts.cart import (
    MAX_SUBTOTAL,
    Cart,
    Item,
    items_fault,
    merge_items,
    merge_metadata,
    metadata_fault,
    next_cart,
    priced_total,
    quantity_fault,
    size_fault,
    stored_size,
    subtotal_fault,
)
from cartsvc.errors import CurrencyMismatch, Fault, FaultCode, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cartsvc.carts.cart import Limits, Pairs, Revision

Strategy = Literal["sum", "max", "keep", "replace"]  # how a merge treats the items that both carts have
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
OnLimit: TypeAlias = Literal["refuse", "clamp"]  # what a merge does if not all fits
ON_LIMITS: tuple[OnLimit, ...] = get_args(OnLimit)
_POINTER = "/from_user_id"  # the member of a merge request that names the source
_ARRAY_HEADER = 4  # bytes by which the header of MessagePack's arrays can grow


class Adjustment(Struct, frozen=True):
    """What a merge has cut of one item: the code of the limit, the quantity before, and the quantity in the cart.

    With "currency_mismatch" the item has lost its price, and the two quantities are the same.
    """

    item_id: str
    code: FaultCode
    requested: int
    applied: int


def combine(
    cart: Cart | None,
    source: Cart,
    strategy: Strategy,
    *,
    on_limit: OnLimit = "refuse",
    limits: Limits,
    revision: Revision,
) -> tuple[Cart | None, tuple[Adjustment, ...]]:
    """Return the cart with the items of ``source`` merged into it by ``strategy``, and what was cut.

    The source is not changed, and a source without items replaces nothing. If not all fits, LimitExceeded or
    CurrencyMismatch is raised; with ``on_limit`` "clamp", quantities stop at the limit instead, what does not fit is
    left out, and an item with a price in another currency comes without its price.
    """
    if strategy == "replace" and not source.items:
        return cart, ()
    plan = _Plan(cart, source, strategy, limits)
    adjustments: list[Adjustment] = []
    try:
        plan.check()
    except (CurrencyMismatch, LimitExceeded):
        if on_limit == "refuse":
            raise
        adjustments = plan.clamp()
    merged = next_cart(cart, plan.items, plan.currency, revision, metadata=plan.metadata)
    return merged, tuple(adjustments)


def _combine_items(own: Item | None, other: Item, strategy: Strategy) -> Item:
    if own is None:
        return other
    if strategy == "keep":
        return own
    return merge_items(
        own, other, own.quantity + other.quantity if strategy == "sum" else max(own.quantity, other.quantity)
    )


class _Plan:
    """Two carts being combined: ``items``, ``currency`` and ``metadata`` are those of the result."""

    def __init__(self, cart: Cart | None, source: Cart, strategy: Strategy, limits: Limits) -> None:
        self._limits = limits
        self._before = cart.items if cart is not None else ()
        self._own_metadata: Pairs = cart.metadata if cart is not None else ()
        self._source_currency = source.currency
        self._owned = {item.item_id: item for item in self._before}
        self._kept = {} if strategy == "replace" else self._owned
        self._wanted = {
            item.item_id: _combine_items(self._kept.get(item.item_id), item, strategy) for item in source.items
        }
        self.items: tuple[Item, ...] = tuple((self._kept | self._wanted).values())
        self.metadata = merge_metadata(self._own_metadata, source.metadata)
        keeps_price = any(item.unit_price is not None for item in self._kept.values())
        self.currency = cart.currency if cart is not None and keeps_price else source.currency
        # What was over a limit before, because the limit was lowered, may stay as it is.
        self._max_items = max(limits.max_items, len(self._before))
        self._max_bytes = max(limits.max_cart_bytes, stored_size(self._before, self._own_metadata))

    def check(self) -> None:
        """Raise CurrencyMismatch or LimitExceeded unless the result is within the limits."""
        if any(self._has_other_currency(item) for item in self._wanted.values()):
            detail = f"The cart is in {self.currency} and the source in {self._source_currency}."
            fault = Fault(_POINTER, f"{detail} One cart has one currency.", "currency_mismatch")
            raise CurrencyMismatch([structs.replace(fault, currency=self.currency or UNSET)])
        if faults := list(self._limit_faults()):
            raise LimitExceeded(faults)

    def clamp(self) -> list[Adjustment]:
        """Cut the result until it is within the limits, and return what was cut of each item.

        Members of metadata that do not fit are left out without an adjustment.
        """
        self.metadata = self._cut(self.metadata, self._own_metadata)
        if stored_size(tuple(self._kept.values()), self.metadata) > self._max_bytes:
            self.metadata = self._own_metadata
        adjustments: list[Adjustment] = []
        merged = dict(self._kept)
        money = priced_total(tuple(merged.values()))
        room = self._max_bytes - stored_size(tuple(merged.values()), self.metadata) - _ARRAY_HEADER
        for wanted in self._wanted.values():
            own = self._kept.get(wanted.item_id)
            item, cuts = self._clamped(wanted)
            before = () if own is None else (own,)
            cost = priced_total((item,)) - priced_total(before)
            grows = stored_size((item,)) - stored_size(before)
            code: FaultCode | None = None
            if own is None and len(merged) >= self._max_items:
                code = "max_items"
            elif money + cost > MAX_SUBTOTAL:
                code = "max_subtotal"
            elif grows > max(room, 0):
                code = "max_cart_bytes"
            if code is not None:
                applied = 0 if own is None else own.quantity
                adjustments.append(Adjustment(wanted.item_id, code, wanted.quantity, applied))
                continue
            adjustments += cuts
            merged[item.item_id] = item
            money, room = money + cost, room - grows
        self.items = tuple(merged.values())
        return adjustments

    def _clamped(self, wanted: Item) -> tuple[Item, list[Adjustment]]:
        """Return the item within the limits of one item, and what was cut of it."""
        cuts = []
        item, item_id = wanted, wanted.item_id
        if self._has_other_currency(item):
            cuts.append(Adjustment(item_id, "currency_mismatch", item.quantity, item.quantity))
            item = structs.replace(item, unit_price=None)
        most = self._max_quantity(item_id)
        if item.quantity > most:
            cuts.append(Adjustment(item_id, "max_quantity", item.quantity, most))
            item = structs.replace(item, quantity=most)
        metadata = self._cut(item.metadata, self._metadata_of(item_id))
        return (item if metadata is item.metadata else structs.replace(item, metadata=metadata)), cuts

    def _cut(self, metadata: Pairs, own: Pairs) -> Pairs:
        """Return the metadata with no more members than allowed, its ``own`` ones first."""
        most = max(self._limits.max_metadata, len(own))
        if len(metadata) <= most:
            return metadata
        names = {name for name, _ in own}
        added = [pair for pair in metadata if pair[0] not in names]
        return tuple(sorted([*own, *added[: most - len(own)]]))

    def _has_other_currency(self, item: Item) -> bool:
        """Return whether the source gives this item a price in another currency than that of the result."""
        own = self._kept.get(item.item_id)
        brought = item.unit_price is not None and (own is None or own.unit_price is None)
        return brought and self.currency != self._source_currency

    def _max_quantity(self, item_id: str) -> int:
        own = self._owned.get(item_id)
        return max(self._limits.max_quantity, 0 if own is None else own.quantity)

    def _metadata_of(self, item_id: str) -> Pairs:
        own = self._owned.get(item_id)
        return () if own is None else own.metadata

    def _limit_faults(self) -> Iterator[Fault]:
        limits = self._limits
        for item in self._wanted.values():
            if item.quantity > self._max_quantity(item.item_id):
                yield quantity_fault(item, _POINTER, limits)
            if len(item.metadata) > max(limits.max_metadata, len(self._metadata_of(item.item_id))):
                yield metadata_fault(len(item.metadata), _POINTER, limits, item_id=item.item_id)
        if len(self.metadata) > max(limits.max_metadata, len(self._own_metadata)):
            yield metadata_fault(len(self.metadata), _POINTER, limits)
        if len(self.items) > self._max_items:
            yield items_fault(self.items[self._max_items], len(self.items), _POINTER, limits)
        if (total := priced_total(self.items)) > MAX_SUBTOTAL:
            yield subtotal_fault(total, _POINTER)
        if (size := stored_size(self.items, self.metadata)) > self._max_bytes:
            yield size_fault(size, _POINTER, limits)
