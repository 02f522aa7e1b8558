"""Test any sequence of changes of a cart against a plain dict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cartsvc.carts.cart import MAX_SUBTOTAL, Cart, Limits, Revision, add, derive_item_id, remove_item, replace, subtotal
from cartsvc.carts.update import check_items, update_items
from cartsvc.carts.validation import ItemChange, NewItem, validate_changes
from cartsvc.errors import CartsvcError, CurrencyMismatch, InvalidRequest, ItemNotFound, LimitExceeded
from tests.support.carts import (
    additions,
    bytes_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# ---- any sequence of changes ----


class _Rejected(Exception):
    """A change that the model rejects: which error is expected."""

    def __init__(self, kind: type[CartsvcError]) -> None:
        super().__init__(kind.__name__)
        self.kind = kind


class _Entry(msgspec.Struct):
    """One item of the model."""

    product: str
    options: tuple[tuple[str, str], ...]
    quantity: int
    price: int | None
    added_at: int


Model = dict[str, _Entry]

_PRODUCTS = st.sampled_from(["a", "b", "c", "d", "größe 42", "."])
_OPTIONS = st.sampled_from([{}, {}, {"s": "M"}, {"s": "M", "t": "x" * 30}, {"t": "x" * 30, "s": "M"}, {"s": "\0"}])
_QUANTITIES = st.sampled_from([0, 1, 1, 2, 3, 7, 10, 11])
_PRICES = st.sampled_from([None, None, 0, 1, 500, MAX_SUBTOTAL // 10, MAX_SUBTOTAL - 5, MAX_SUBTOTAL, MAX_SUBTOTAL + 1])
_CURRENCIES = st.sampled_from(["EUR", "EUR", "EUR", "USD", "eur", None])


@st.composite
def _loose_lines(draw: st.DrawFn) -> NewItem:
    """A line that may be wrong."""
    price = draw(_PRICES)
    currency = draw(_CURRENCIES) if price is not None or draw(st.integers(0, 9)) == 0 else None
    return NewItem(draw(_PRODUCTS), draw(_QUANTITIES), draw(_OPTIONS), price, currency)


class CartMachine(RuleBasedStateMachine):
    """Any sequence of changes, on the cart and on a plain dict."""

    def __init__(self) -> None:
        super().__init__()
        self.cart: Cart | None = None
        self.model: Model = {}
        self.currency: str | None = None
        self.version = 0
        self.at = 1000

    @initialize(items=st.sampled_from([2, 4]), size=st.sampled_from([90, 250]))
    def set_limits(self, items: int, size: int) -> None:
        """Make limits that are met often."""
        self.limits = Limits(max_quantity=10, max_items=items, max_cart_bytes=size, max_unit_price=MAX_SUBTOTAL)
        self.highest = self.limits

    @rule(items=st.sampled_from([1, 2, 4]), size=st.sampled_from([60, 90, 250]), quantity=st.sampled_from([2, 5, 10]))
    def lower_limits(self, items: int, size: int, quantity: int) -> None:
        """Start again with other settings."""
        self.limits = Limits(max_quantity=quantity, max_items=items, max_cart_bytes=size, max_unit_price=MAX_SUBTOTAL)
        self.highest = Limits(
            max_quantity=max(self.highest.max_quantity, quantity),
            max_items=max(self.highest.max_items, items),
            max_cart_bytes=max(self.highest.max_cart_bytes, size),
        )

    @rule(lines=st.lists(_loose_lines(), min_size=1, max_size=3))
    def add_lines(self, lines: list[NewItem]) -> None:
        """POST."""

        def expected() -> tuple[Model, str | None]:
            additions, currency = self._gathered(lines, None)
            if currency is not None and self.currency is not None and currency != self.currency:
                raise _Rejected(CurrencyMismatch)
            model = self._combined(self.model, additions)
            self._check(self.model, model, set(additions), LimitExceeded)
            return model, self.currency or currency

        def actual(revision: Revision) -> Cart:
            return add(
                self.cart, additions(*lines, limits=self.limits, at=self.at), limits=self.limits, revision=revision
            )

        self._compare(expected, actual)

    @rule(lines=st.lists(_loose_lines(), max_size=4), currency=_CURRENCIES)
    def replace_all(self, lines: list[NewItem], currency: str | None) -> None:
        """PUT."""

        def expected() -> tuple[Model, str | None]:
            additions, own_currency = self._gathered(lines, currency)
            for wanted, entry in additions.items():
                if wanted in self.model:
                    entry.added_at = self.model[wanted].added_at
            return additions, own_currency

        def actual(revision: Revision) -> Cart:
            gathered = additions(*lines, limits=self.limits, at=self.at, currency=currency)
            return replace(self.cart, gathered, limits=self.limits, revision=revision)

        self._compare(expected, actual)

    @rule(data=st.data(), quantity=st.none() | _QUANTITIES, price=_PRICES, currency=_CURRENCIES)
    def set_one(self, data: st.DataObject, quantity: int | None, price: int | None, currency: str | None) -> None:
        """PATCH."""
        if self.cart is None:
            return
        wanted = data.draw(st.sampled_from([*self.model, "none such"]))
        change = ItemChange(quantity, price, currency if price is not None else None)

        def expected() -> tuple[Model, str | None]:
            wrong_price = price is not None and (price > MAX_SUBTOTAL or currency in {None, "eur"})
            wrong_quantity = quantity is not None and quantity > self.limits.max_quantity
            if wrong_price or wrong_quantity or (quantity is None and price is None):
                raise _Rejected(InvalidRequest)
            if wanted not in self.model:
                raise _Rejected(ItemNotFound)
            if quantity == 0:
                return {each: self.model[each] for each in self.model if each != wanted}, self.currency
            if change.currency is not None and self.currency is not None and change.currency != self.currency:
                raise _Rejected(CurrencyMismatch)
            model = {each: msgspec.structs.replace(entry) for each, entry in self.model.items()}
            if quantity is not None:
                model[wanted].quantity = quantity
            if price is not None:
                model[wanted].price = price
            self._check(self.model, model, {wanted}, LimitExceeded)
            return model, self.currency or change.currency

        def actual(revision: Revision) -> Cart:
            assert self.cart is not None
            changes = validate_changes([msgspec.structs.replace(change, item_id=wanted)], limits=self.limits)
            check_items(self.cart, changes)
            return update_items(self.cart, changes, limits=self.limits, revision=revision)

        self._compare(expected, actual)

    @rule(data=st.data())
    def remove_one(self, data: st.DataObject) -> None:
        """DELETE of an item."""
        if self.cart is None:
            return
        wanted = data.draw(st.sampled_from([*self.model, "none such"]))

        def expected() -> tuple[Model, str | None]:
            if wanted not in self.model:
                raise _Rejected(ItemNotFound)
            return {each: self.model[each] for each in self.model if each != wanted}, self.currency

        def actual(revision: Revision) -> Cart:
            assert self.cart is not None
            return remove_item(self.cart, wanted, revision=revision)

        self._compare(expected, actual)

    def _compare(self, expected: Callable[[], tuple[Model, str | None]], actual: Callable[[Revision], Cart]) -> None:
        self.at += 1
        revision = Revision(at=self.at, etag=f"e{self.at}", expires_at=self.at + 100)
        before, its_bytes = self.cart, msgspec.msgpack.encode(self.cart)
        try:
            model, currency = expected()
        except _Rejected as rejected:
            with pytest.raises(rejected.kind):
                actual(revision)
            assert msgspec.msgpack.encode(before) == its_bytes
            return
        if all(entry.price is None for entry in model.values()):
            currency = None
        after = actual(revision)
        assert msgspec.msgpack.encode(before) == its_bytes
        if before is not None and list(model.items()) == list(self.model.items()) and currency == self.currency:
            assert after is before
            return
        self.version += 1
        assert (after.version, after.etag, after.updated_at) == (self.version, revision.etag, revision.at)
        assert after.expires_at == revision.expires_at
        assert after.created_at == (revision.at if before is None else before.created_at)
        self.cart, self.model, self.currency = after, model, currency

    def _gathered(self, lines: Sequence[NewItem], currency: str | None) -> tuple[Model, str | None]:
        currencies = [currency] if currency is not None else []
        currencies += [line.currency for line in lines if line.currency is not None]
        for line in lines:
            wrong_option = any("\0" in value for value in line.options.values())
            wrong_price = line.unit_price is not None and line.unit_price > MAX_SUBTOTAL
            alone = (line.unit_price is None) and line.currency is not None
            without = line.unit_price is not None and line.currency is None and currency is None
            wrong_quantity = not 1 <= line.quantity <= self.limits.max_quantity
            if wrong_option or wrong_price or alone or without or wrong_quantity:
                raise _Rejected(InvalidRequest)
        if len(set(currencies)) > 1 or "eur" in currencies:
            raise _Rejected(InvalidRequest)
        found: Model = {}
        for line in lines:
            options = tuple(sorted(line.options.items()))
            entry = _Entry(line.product_id, options, line.quantity, line.unit_price, self.at)
            found = self._combined(found, {derive_item_id(line.product_id, options): entry})
        self._check({}, found, set(found), InvalidRequest)
        return found, currencies[0] if currencies else None

    @staticmethod
    def _combined(model: Model, more: Model) -> Model:
        combined = {each: msgspec.structs.replace(entry) for each, entry in model.items()}
        for wanted, entry in more.items():
            if wanted in combined:
                combined[wanted].quantity += entry.quantity
                if entry.price is not None:
                    combined[wanted].price = entry.price
            else:
                combined[wanted] = msgspec.structs.replace(entry)
        return combined

    def _check(self, before: Model, after: Model, touched: set[str], kind: type[CartsvcError]) -> None:
        """Reject what is past a limit and has grown."""
        for wanted in touched & set(after):
            had = before[wanted].quantity if wanted in before else 0
            if after[wanted].quantity > max(had, self.limits.max_quantity):
                raise _Rejected(kind)
        if len(after) > self.limits.max_items and len(after) > len(before):
            raise _Rejected(kind)
        if self._money(after) > MAX_SUBTOTAL:
            raise _Rejected(kind)
        if self._size(after) > self.limits.max_cart_bytes and self._size(after) > self._size(before):
            raise _Rejected(kind)

    @staticmethod
    def _money(model: Model) -> int:
        return sum(entry.quantity * (entry.price or 0) for entry in model.values())

    @staticmethod
    def _size(model: Model) -> int:
        return len(
            msgspec.msgpack.encode(
                [[each, e.product, e.options, e.quantity, e.price, e.added_at, ()] for each, e in model.items()]
            )
        )

    @invariant()
    def the_cart_is_the_model(self) -> None:
        """It holds the same items in the same order."""
        items = self.cart.items if self.cart else ()
        found = {i.item_id: _Entry(i.product_id, i.options, i.quantity, i.unit_price, i.added_at) for i in items}
        assert list(found.items()) == list(self.model.items())
        assert (self.cart.currency if self.cart else None) == self.currency

    @invariant()
    def the_cart_is_sound(self) -> None:
        """The invariants of every cart."""
        if self.cart is None:
            return
        items = self.cart.items
        assert len({item.item_id for item in items}) == len(items) <= self.highest.max_items
        assert all(1 <= item.quantity <= self.highest.max_quantity for item in items)
        assert (self.cart.currency is None) == all(item.unit_price is None for item in items)
        assert bytes_of(*items) <= self.highest.max_cart_bytes
        prices = [item.unit_price for item in items]
        if None in prices:
            assert subtotal(items) is None
        else:
            money = subtotal(items)
            assert money == self._money(self.model)
            assert money is not None
            assert 0 <= money <= MAX_SUBTOTAL


TestCartMachine = CartMachine.TestCase
