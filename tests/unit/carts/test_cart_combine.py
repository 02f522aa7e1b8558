"""Test how ``combine`` makes one cart of two, by strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartsvc.carts.cart import MAX_SUBTOTAL, Cart, Limits, add, remove_item, set_metadata
from cartsvc.carts.combine import STRATEGIES, combine
from cartsvc.carts.validation import NewItem
from cartsvc.errors import CurrencyMismatch, LimitExceeded
from tests.support import strategies
from tests.support.carts import (
    FIRST,
    LATER,
    LIMITS,
    a_cart,
    added,
    additions,
    bytes_of,
    pointers,
    priced,
)

if TYPE_CHECKING:
    from cartsvc.carts.combine import Strategy


# ---- two carts into one ----


def combined(cart: Cart | None, source: Cart, strategy: Strategy = "sum", *, limits: Limits = LIMITS) -> Cart:
    merged, adjustments = combine(cart, source, strategy, limits=limits, revision=LATER)
    assert merged is not None
    assert adjustments == ()
    return merged


def held(cart: Cart) -> list[tuple[str, int, int | None]]:
    return [(item.item_id, item.quantity, item.unit_price) for item in cart.items]


def a_later_cart(*lines: NewItem) -> Cart:
    """A source: its items were added at another time than those of a_cart."""
    return added(None, *lines)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("sum", [("a", 2, None), ("b", 8, None), ("c", 1, None), ("d", 4, None)]),
        ("max", [("a", 2, None), ("b", 5, None), ("c", 1, None), ("d", 4, None)]),
        ("keep", [("a", 2, None), ("b", 3, None), ("c", 1, None), ("d", 4, None)]),
        ("replace", [("d", 4, None), ("b", 5, None)]),
    ],
)
def test_strategies(strategy: Strategy, expected: list[tuple[str, int, int | None]]) -> None:
    """The table of the contract; the target's items come first, in their order, and then the source's in theirs."""
    cart, source = (
        a_cart(NewItem("a", 2), NewItem("b", 3), NewItem("c", 1)),
        a_later_cart(NewItem("d", 4), NewItem("b", 5)),
    )
    before = msgspec.msgpack.encode([cart, source])
    after = combined(cart, source, strategy)
    assert held(after) == expected
    assert msgspec.msgpack.encode([cart, source]) == before
    assert (after.etag, after.version, after.created_at) == (LATER.etag, cart.version + 1, cart.created_at)
    assert (after.updated_at, after.expires_at) == (LATER.at, LATER.expires_at)
    added_at = {"sum": FIRST.at, "max": FIRST.at, "keep": FIRST.at, "replace": LATER.at}[strategy]
    assert {item.item_id: item.added_at for item in after.items}["b"] == added_at
    assert {item.item_id: item.added_at for item in after.items}["d"] == LATER.at


@pytest.mark.parametrize(("strategy", "expected"), [("sum", 9), ("max", 6), ("keep", 6), ("replace", 3)])
def test_strategies_with_a_larger_target(strategy: Strategy, expected: int) -> None:
    """Max takes the larger of both, whichever cart it is in."""
    assert held(combined(a_cart(NewItem("a", 6)), a_later_cart(NewItem("a", 3)), strategy)) == [("a", expected, None)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_absent_target(strategy: Strategy) -> None:
    """Whatever the strategy: the same items as they were added, in a cart that is new."""
    source = added(a_later_cart(NewItem("a", 2)), priced("b", 1, 5, "USD", options={"s": "M"}))
    after = combined(None, source, strategy)
    assert (after.items, after.currency) == (source.items, "USD")
    assert (after.version, after.created_at, after.etag) == (1, LATER.at, LATER.etag)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_empty_target_takes_any_currency(strategy: Strategy) -> None:
    """A cart without items has no currency of its own."""
    empty = remove_item(a_cart(priced("a", 1, 5, "EUR")), "a", revision=LATER)
    source = a_later_cart(priced("b", 1, 5, "USD"))
    after = combined(empty, source, strategy)
    assert (after.items, after.currency, after.version) == (source.items, "USD", 3)


@pytest.mark.parametrize("strategy", ["sum", "max", "keep"])
def test_empty_source(strategy: Strategy) -> None:
    """The same object is returned."""
    cart = a_cart(priced("a", 1, 5))
    assert combined(cart, a_later_cart(), strategy) is cart


def test_replace_by_an_empty_source() -> None:
    """A cart without items replaces nothing, and creates no cart; its metadata is not taken either."""
    cart = a_cart(priced("a", 1, 5))
    source = set_metadata(a_later_cart(), (("note", "hello"),), limits=LIMITS, revision=LATER)
    assert combined(cart, source, "replace") is cart
    assert combine(None, source, "replace", limits=LIMITS, revision=LATER) == (None, ())


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("sum", [("M", 5), ("L", 1), (None, 4)]),
        ("max", [("M", 3), ("L", 1), (None, 4)]),
        ("keep", [("M", 2), ("L", 1), (None, 4)]),
        ("replace", [(None, 4), ("M", 3)]),
    ],
)
def test_like_items_have_like_options(strategy: Strategy, expected: list[tuple[str | None, int]]) -> None:
    """The same product with other options is another item."""
    cart = a_cart(NewItem("a", 2, {"s": "M"}), NewItem("a", 1, {"s": "L"}))
    after = combined(cart, a_later_cart(NewItem("a", 4), NewItem("a", 3, {"s": "M"})), strategy)
    assert [(dict(item.options).get("s"), item.quantity) for item in after.items] == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "strategy", "expected"),
    [
        (5, 7, "sum", 5),
        (5, 7, "max", 5),
        (5, 7, "keep", 5),
        (5, 7, "replace", 7),
        (None, 7, "sum", 7),
        (None, 7, "max", 7),
        (None, 7, "keep", None),
        (None, 7, "replace", 7),
        (5, None, "sum", 5),
        (5, None, "max", 5),
        (5, None, "keep", 5),
        (5, None, "replace", None),
        (0, 7, "sum", 0),
        (0, 7, "max", 0),
        (None, 0, "sum", 0),
        (None, 0, "max", 0),
        (None, None, "sum", None),
    ],
)
def test_price_of_like_items(ours: int | None, theirs: int | None, strategy: Strategy, expected: int | None) -> None:
    """A price of nothing is a price; the cart has a currency when an item has a price, and only then."""

    def line(price: int | None, quantity: int) -> NewItem:
        return NewItem("a", quantity) if price is None else priced("a", quantity, price)

    after = combined(a_cart(line(ours, 3)), a_later_cart(line(theirs, 3)), strategy)
    assert [item.unit_price for item in after.items] == [expected]
    assert after.currency == (None if expected is None else "EUR")


@pytest.mark.parametrize("price", [None, 5])
def test_keep_leaves_like_items_unchanged(price: int | None) -> None:
    """Quantity, price and time, whatever the source contains; the same object if nothing else changes."""
    cart = a_cart(NewItem("a", 2) if price is None else priced("a", 2, price))
    assert combined(cart, a_later_cart(priced("a", 9, 7, "USD")), "keep") is cart
    after = combined(cart, a_later_cart(NewItem("a", 9), NewItem("b", 1)), "keep")
    assert after.items[0] is cart.items[0]


@pytest.mark.parametrize(
    ("source", "strategy"),
    [
        ([NewItem("b", 2), NewItem("a", 5)], "max"),
        ([NewItem("b", 3)], "max"),
        ([priced("b", 9, 4)], "keep"),
        ([NewItem("a", 999), NewItem("b", 999)], "keep"),
        ([priced("a", 5, 1), NewItem("b", 3)], "replace"),
    ],
)
def test_unchanged_target_is_the_same_object(source: list[NewItem], strategy: Strategy) -> None:
    """No new version, no new ETag, no other expiry."""
    cart = a_cart(priced("a", 5, 1), NewItem("b", 3))
    if strategy == "replace":
        same = a_cart(*source)  # added at the same time
        assert combined(cart, same, strategy) is cart
    else:
        assert combined(cart, a_later_cart(*source), strategy) is cart


@pytest.mark.parametrize(
    ("ours", "theirs", "rejecting_strategies"),
    [
        # The source brings a price for an item of its own, or for one that has none here.
        ([priced("a", 1, 5, "EUR")], [priced("b", 1, 5, "USD")], {"sum", "max", "keep"}),
        ([priced("a", 1, 5, "EUR"), NewItem("b", 1)], [priced("b", 1, 5, "USD")], {"sum", "max"}),
        # It brings none: the target's price stays.
        ([priced("a", 1, 5, "EUR")], [priced("a", 1, 5, "USD")], set()),
        ([priced("a", 1, 5, "EUR")], [priced("a", 1, 5, "USD"), NewItem("b", 1)], set()),
        ([NewItem("a", 1)], [priced("a", 1, 5, "USD")], set()),
        ([NewItem("a", 1)], [priced("b", 1, 5, "USD")], set()),
        ([priced("a", 1, 5, "EUR")], [NewItem("b", 1)], set()),
        ([priced("a", 1, 5, "EUR")], [priced("b", 1, 5, "EUR")], set()),
    ],
)
def test_second_currency(ours: list[NewItem], theirs: list[NewItem], rejecting_strategies: set[str]) -> None:
    """Only a price that would stand in the merged cart matters; the fault is at the other cart's name."""
    cart, source = a_cart(*ours), a_later_cart(*theirs)
    for strategy in STRATEGIES:
        if strategy in rejecting_strategies:
            with pytest.raises(CurrencyMismatch) as error:
                combined(cart, source, strategy)
            assert pointers(error) == ["/from_user_id"]
            continue
        after = combined(cart, source, strategy)
        assert (after.currency is None) == all(item.unit_price is None for item in after.items)


def test_kept_price_keeps_its_currency() -> None:
    """The target's price stays, and so does what it is in."""
    after = combined(a_cart(priced("a", 1, 5, "EUR")), a_later_cart(priced("a", 1, 7, "USD")), "sum")
    assert (held(after), after.currency) == ([("a", 2, 5)], "EUR")


def test_replacing_drops_the_target_s_currency() -> None:
    """Its priced items go, and so does what they were priced in."""
    cart = a_cart(priced("a", 1, 5, "EUR"))
    after = combined(cart, a_later_cart(priced("a", 1, 7, "USD")), "replace")
    assert (held(after), after.currency) == ([("a", 1, 7)], "USD")
    assert combined(cart, a_later_cart(NewItem("b", 1)), "replace").currency is None


_SMALL = Limits(max_quantity=10, max_items=3, max_cart_bytes=120, max_unit_price=MAX_SUBTOTAL)


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ([NewItem("a", 6)], [NewItem("a", 4)], True),
        ([NewItem("a", 6)], [NewItem("a", 5)], False),
        ([NewItem("a", 1), NewItem("b", 1)], [NewItem("b", 1), NewItem("c", 1)], True),
        ([NewItem("a", 1), NewItem("b", 1)], [NewItem("c", 1), NewItem("d", 1)], False),
        ([priced("a", 1, MAX_SUBTOTAL - 5)], [priced("b", 1, 5)], True),
        ([priced("a", 1, MAX_SUBTOTAL - 5)], [priced("b", 1, 6)], False),
        ([NewItem("x" * 25, 1)], [NewItem("y" * 20, 1)], True),
        ([NewItem("x" * 25, 1)], [NewItem("y" * 40, 1)], False),
    ],
)
def test_both_carts_together_keep_the_limits(ours: list[NewItem], theirs: list[NewItem], *, fits: bool) -> None:
    """Exactly at a limit is allowed; one more is rejected, and the fault is at the other cart's name."""
    cart, source = (
        a_cart(*ours, limits=_SMALL),
        add(None, additions(*theirs, limits=_SMALL), limits=_SMALL, revision=FIRST),
    )
    if fits:
        quantity = sum(line.quantity for line in [*ours, *theirs])
        assert sum(item.quantity for item in combined(cart, source, limits=_SMALL).items) == quantity
        return
    with pytest.raises(LimitExceeded) as error:
        combined(cart, source, limits=_SMALL)
    assert pointers(error) == ["/from_user_id"]


def test_every_limit_that_a_merge_breaks_is_named() -> None:
    """Each at the other cart's name: the body has no other place to show."""
    cart, source = (
        a_cart(NewItem("a", 6), NewItem("b", 6), NewItem("c", 1)),
        a_later_cart(NewItem("a", 6), NewItem("b", 6), NewItem("d", 1)),
    )
    with pytest.raises(LimitExceeded) as error:
        combined(cart, source, limits=Limits(max_quantity=10, max_items=3))
    assert pointers(error) == ["/from_user_id"] * 3


def test_limits_depend_on_the_strategy() -> None:
    """They are rejected only for what they themselves would make."""
    cart, source = a_cart(NewItem("a", 9)), a_later_cart(NewItem("a", 9))
    limits = Limits(max_quantity=10)
    assert held(combined(cart, source, "max", limits=limits)) == [("a", 9, None)]
    assert held(combined(cart, source, "keep", limits=limits)) == [("a", 9, None)]
    assert held(combined(cart, source, "replace", limits=limits)) == [("a", 9, None)]
    with pytest.raises(LimitExceeded):
        combined(cart, source, "sum", limits=limits)


@st.composite
def _two_carts(draw: st.DrawFn) -> tuple[Cart | None, Cart]:
    first = draw(st.none() | st.lists(strategies.lines(), max_size=5))
    second = draw(st.lists(strategies.lines(), max_size=5))
    return None if first is None else a_cart(*first), a_later_cart(*second)


@given(_two_carts(), st.sampled_from(STRATEGIES))
def test_any_two_carts(carts: tuple[Cart | None, Cart], strategy: Strategy) -> None:
    """Item by item, for any two carts: quantities, prices, bounds, order, and that sum loses and doubles nothing."""
    cart, source = carts
    limits = Limits(max_quantity=10**6)
    if strategy == "replace" and not source.items:
        assert combine(cart, source, strategy, limits=limits, revision=LATER) == (cart, ())
        return
    after = combined(cart, source, strategy, limits=limits)
    ours = {item.item_id: item for item in cart.items} if cart else {}
    theirs = {item.item_id: item for item in source.items}
    found = {item.item_id: item for item in after.items}
    if strategy == "replace":
        assert after.items == source.items
        return
    assert list(found) == [*ours, *[each for each in theirs if each not in ours]]
    for each, item in found.items():
        own, other = ours.get(each), theirs.get(each)
        if own is None or other is None:
            assert item == (own or other)
            continue
        rule = {"sum": own.quantity + other.quantity, "max": max(own.quantity, other.quantity), "keep": own.quantity}
        assert item.quantity == rule[strategy]
        filled = other.unit_price if strategy != "keep" else None
        assert item.unit_price == (filled if own.unit_price is None else own.unit_price)
        assert (item.product_id, item.options, item.added_at) == (own.product_id, own.options, own.added_at)
    total = sum(item.quantity for item in after.items)
    both = sum(item.quantity for item in [*ours.values(), *theirs.values()])
    if strategy == "sum":
        assert total == both
    assert sum(item.quantity for item in ours.values()) <= total <= both
    assert (after.currency is None) == all(item.unit_price is None for item in after.items)


# ---- metadata ----


def test_metadata_of_both_carts() -> None:
    """Of the cart and of each item: the target's members win, and missing ones come from the source."""
    ours, theirs = {"a": "1", "b": "1"}, {"b": "2", "c": "2"}
    both = (("a", "1"), ("b", "1"), ("c", "2"))
    cart = set_metadata(a_cart(NewItem("x", 1, metadata=ours)), (("n", "1"),), limits=LIMITS, revision=LATER)
    source = a_later_cart(NewItem("x", 1, metadata=theirs), NewItem("y", 1, metadata=theirs))
    source = set_metadata(source, (("m", "2"), ("n", "2")), limits=LIMITS, revision=LATER)
    expected = {"sum": both, "max": both, "keep": tuple(ours.items()), "replace": tuple(theirs.items())}
    for strategy in STRATEGIES:
        after = combined(cart, source, strategy)
        assert after.metadata == (("m", "2"), ("n", "1"))
        assert [item.metadata for item in after.items] == [expected[strategy], tuple(theirs.items())]


# ---- within the limits ----

_CLAMPED = Limits(max_quantity=10, max_items=3, max_metadata=2)


def clamped(cart: Cart | None, source: Cart, strategy: Strategy = "sum", *, limits: Limits = _CLAMPED) -> Cart:
    """Return the merged cart, and keep the adjustments for cuts()."""
    merged, _ = combine(cart, source, strategy, on_limit="clamp", limits=limits, revision=LATER)
    assert merged is not None
    return merged


def cuts(
    cart: Cart | None, source: Cart, strategy: Strategy = "sum", *, limits: Limits = _CLAMPED
) -> list[tuple[str, str, int, int]]:
    _, adjustments = combine(cart, source, strategy, on_limit="clamp", limits=limits, revision=LATER)
    return [(each.item_id, each.code, each.requested, each.applied) for each in adjustments]


def test_quantities_stop_at_the_limit() -> None:
    """Both quantities are in the adjustment; what fits is not in it."""
    cart, source = a_cart(NewItem("a", 6), NewItem("b", 1)), a_later_cart(NewItem("a", 6), NewItem("b", 9))
    assert held(clamped(cart, source)) == [("a", 10, None), ("b", 10, None)]
    assert cuts(cart, source) == [("a", "max_quantity", 12, 10)]
    assert cuts(cart, source, "max") == []


def test_items_that_do_not_fit_are_left_out() -> None:
    """The target's items stay, and the first of the source's come; an item of both carts needs no room."""
    cart, source = (
        a_cart(NewItem("a", 1), NewItem("b", 1)),
        a_later_cart(NewItem("c", 2), NewItem("d", 12), NewItem("b", 3)),
    )
    assert held(clamped(cart, source)) == [("a", 1, None), ("b", 4, None), ("c", 2, None)]
    assert cuts(cart, source) == [("d", "max_items", 12, 0)]


def test_items_of_another_currency_come_without_their_price() -> None:
    """A price that the target has stays, and needs no adjustment."""
    cart = a_cart(priced("a", 1, 5), NewItem("b", 1))
    source = a_later_cart(priced("a", 1, 7, "USD"), priced("b", 2, 7, "USD"), priced("c", 11, 7, "USD"))
    after = clamped(cart, source)
    assert (held(after), after.currency) == ([("a", 2, 5), ("b", 3, None), ("c", 10, None)], "EUR")
    assert cuts(cart, source) == [
        ("b", "currency_mismatch", 3, 3),
        ("c", "currency_mismatch", 11, 11),
        ("c", "max_quantity", 11, 10),
    ]


def test_money_and_bytes_are_limits_too() -> None:
    """An item whose price or size is too much is left out, and a smaller one after it comes."""
    cart = a_cart(priced("a", 1, MAX_SUBTOTAL - 5, metadata={"n": "x"}), limits=_SMALL)
    source = add(None, additions(priced("b", 1, 6), priced("c", 1, 5), limits=_SMALL), limits=_SMALL, revision=FIRST)
    assert cuts(cart, source, limits=_SMALL) == [("b", "max_subtotal", 1, 0)]
    long = a_later_cart(NewItem("x" * 40, 2), NewItem("y", 1))
    assert cuts(a_cart(NewItem("z" * 25, 1)), long, limits=_SMALL) == [("x" * 40, "max_cart_bytes", 2, 0)]


def test_metadata_is_cut_to_its_limit() -> None:
    """Of items and of the cart: the target's members stay, and no adjustment lists the others."""
    cart = set_metadata(a_cart(NewItem("a", 1, metadata={"z": "1"})), (("z", "1"),), limits=LIMITS, revision=LATER)
    source = a_later_cart(NewItem("a", 1, metadata={"a": "2", "b": "2"}))
    source = set_metadata(source, (("a", "2"), ("b", "2")), limits=LIMITS, revision=LATER)
    after = clamped(cart, source)
    assert (after.metadata, after.items[0].metadata) == ((("a", "2"), ("z", "1")), (("a", "2"), ("z", "1")))
    assert cuts(cart, source) == []
    with pytest.raises(LimitExceeded) as error:
        combined(cart, source, limits=_CLAMPED)
    assert [(fault.code, fault.limit, fault.value) for fault in error.value.faults] == [("max_metadata", 2, 3)] * 2


def test_faults_of_a_merge_name_the_item() -> None:
    """A page can say which item it is, and what the limit is."""
    cart, source = (
        a_cart(NewItem("a", 6), NewItem("b", 1), NewItem("c", 1)),
        a_later_cart(NewItem("a", 6), NewItem("d", 1)),
    )
    with pytest.raises(LimitExceeded) as error:
        combined(cart, source, limits=_CLAMPED)
    assert [(fault.code, fault.limit, fault.value, fault.item_id) for fault in error.value.faults] == [
        ("max_quantity", 10, 12, "a"),
        ("max_items", 3, 4, "d"),
    ]


@given(_two_carts(), st.sampled_from(STRATEGIES), st.integers(1, 400), st.integers(1, 25), st.integers(1, 6))
def test_clamping_keeps_every_limit(
    carts: tuple[Cart | None, Cart], strategy: Strategy, size: int, quantity: int, items: int
) -> None:
    """What is merged fits, unless it did not before; without a cut it is what refusing would have made."""
    cart, source = carts
    limits = Limits(max_quantity=quantity, max_items=items, max_cart_bytes=size, max_metadata=2)
    after, adjustments = combine(cart, source, strategy, on_limit="clamp", limits=limits, revision=LATER)
    before = cart.items if cart is not None else ()
    own = {item.item_id: item for item in before}
    found = after.items if after is not None else ()
    assert len(found) <= max(items, len(before))
    assert all(
        each.quantity <= max(quantity, own[each.item_id].quantity if each.item_id in own else 0) for each in found
    )
    assert bytes_of(*found) <= max(size, bytes_of(*before))
    try:
        expected = combine(cart, source, strategy, limits=limits, revision=LATER)
    except (LimitExceeded, CurrencyMismatch):
        assert {each.item_id for each in adjustments} <= {item.item_id for item in source.items}
    else:
        assert (after, adjustments) == expected


def test_what_is_added_leaves_less_room() -> None:
    """Two items that would each fit alone: the second one is left out, for its price or for its size."""
    limits = Limits(max_unit_price=MAX_SUBTOTAL)
    cart = a_cart(priced("a", 1, MAX_SUBTOTAL - 5), limits=limits)
    source = add(None, additions(priced("b", 1, 4), priced("c", 1, 4), limits=limits), limits=limits, revision=FIRST)
    assert cuts(cart, source, limits=limits) == [("c", "max_subtotal", 1, 0)]
    cart, source = a_cart(NewItem("a", 1)), a_later_cart(NewItem("x" * 30, 1), NewItem("y" * 30, 1))
    assert cuts(cart, source, limits=Limits(max_cart_bytes=150)) == [("y" * 30, "max_cart_bytes", 1, 0)]


def test_the_metadata_of_the_source_may_not_fit() -> None:
    """Then that of the target stays, and the items come."""
    cart = set_metadata(a_cart(NewItem("a", 1)), (("n", "1"),), limits=LIMITS, revision=LATER)
    source = set_metadata(a_later_cart(NewItem("b", 1)), (("m", "x" * 400),), limits=LIMITS, revision=LATER)
    limits = Limits(max_cart_bytes=100)
    after = clamped(cart, source, limits=limits)
    assert (after.metadata, len(after.items)) == ((("n", "1"),), 2)
    with pytest.raises(LimitExceeded) as error:
        combined(cart, source, limits=limits)
    assert [fault.code for fault in error.value.faults] == ["max_cart_bytes"]


def test_a_target_over_a_lowered_limit() -> None:
    """It may stay as it is, and what grows is rejected or cut."""
    cart = set_metadata(a_cart(NewItem("a", 900), NewItem("b", 1)), (("n", "1"),), limits=LIMITS, revision=LATER)
    lowered = Limits(max_quantity=100, max_items=1, max_cart_bytes=20)
    source = a_later_cart(NewItem("a", 500))
    assert combined(cart, source, "max", limits=lowered) is cart
    assert (
        combined(cart, a_later_cart(NewItem("c", 1), NewItem("d", 1)), "replace", limits=LIMITS).version > cart.version
    )
    with pytest.raises(LimitExceeded):
        combined(cart, source, "sum", limits=lowered)
    assert clamped(cart, source, "sum", limits=lowered) is cart
    assert cuts(cart, source, "sum", limits=lowered) == [("a", "max_quantity", 1400, 900)]
