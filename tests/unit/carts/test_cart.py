"""Holds the cart's rules, one by one and in any sequence, against what the contract says of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cartsvc.carts.cart import (
    MAX_SUBTOTAL,
    MAX_VERSION,
    STRATEGIES,
    Cart,
    Item,
    ItemChange,
    Limits,
    NewItem,
    NewItems,
    Revision,
    add,
    check_change,
    check_user_id,
    combine,
    derive_item_id,
    find_item,
    remove_item,
    replace,
    set_item,
    subtotal,
    validate_new_items,
)
from cartsvc.carts.strings import NFC_GROWTH
from cartsvc.errors import CartsvcError, CurrencyMismatch, InvalidRequest, ItemNotFound, LimitExceeded
from tests.support import strategies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cartsvc.carts.cart import Strategy

LIMITS = Limits()
STAMP = Revision(at=1000, etag="e1", expires_at=2000)
LATER = Revision(at=1500, etag="e2", expires_at=2500)


def additions(*lines: NewItem, limits: Limits = LIMITS, currency: str | None = None, at: int = STAMP.at) -> NewItems:
    return validate_new_items(lines, limits=limits, at=at, currency=currency)


def a_cart(*lines: NewItem, limits: Limits = LIMITS) -> Cart:
    return add(None, additions(*lines, limits=limits), limits=limits, revision=STAMP)


def added(cart: Cart | None, *lines: NewItem, limits: Limits = LIMITS) -> Cart:
    return add(cart, additions(*lines, limits=limits, at=LATER.at), limits=limits, revision=LATER)


def changed(cart: Cart, wanted: str, change: ItemChange, *, limits: Limits = LIMITS) -> Cart:
    """What the service does for a PATCH."""
    check_change(change, limits=limits)
    return set_item(cart, wanted, change, limits=limits, revision=LATER)


def priced(product_id: str, quantity: int, price: int, currency: str = "EUR", **more: Any) -> NewItem:
    return NewItem(product_id, quantity, unit_price=price, currency=currency, **more)


def pointers(error: pytest.ExceptionInfo[Any]) -> list[str]:
    return [fault.pointer for fault in error.value.faults]


def bytes_of(*items: Item) -> int:
    """What these items take as they are stored, counted without the code's own Structs."""
    return len(msgspec.msgpack.encode([list(msgspec.structs.astuple(item)) for item in items]))


def totals(cart: Cart) -> tuple[int, int | None, str | None, set[tuple[str, int, int | None]]]:
    """What adding must give in any order: the quantity, the money, and the items but for their places."""
    return (
        sum(item.quantity for item in cart.items),
        subtotal(cart.items),
        cart.currency,
        {(item.item_id, item.quantity, item.unit_price) for item in cart.items},
    )


# ---- names ----


@pytest.mark.parametrize(
    "user_id", ["a", "0", "...", ".a", "a" * 255, "~@:+|-._", "guest-1", "Alice", "a.b@shop.example", "-"]
)
def test_a_user_id_may_be(user_id: str) -> None:
    """The contract's characters, up to 255 of them."""
    check_user_id(user_id)


@pytest.mark.parametrize(
    "user_id",
    ["", ".", "..", "a" * 256, "a b", "a/b", "ä", "a\n", "\n", "a%", "a\x00", "a,b", "a;b", "a=b", "\ud800", "\u0661"],
)
def test_a_user_id_may_not_be(user_id: str) -> None:
    """Anything else is refused, a line end at the end too."""
    with pytest.raises(InvalidRequest) as error:
        check_user_id(user_id)
    assert pointers(error) == ["/user_id"]


@pytest.mark.parametrize("product_id", ["a", "sku-1", "A.b_c-9", "...", ".a", "x" * 128, "-", "_", "guest-1"])
def test_a_plain_product_is_its_own_item_id(product_id: str) -> None:
    """Without options, a product_id that can stand in a URL as it is names its item."""
    assert derive_item_id(product_id, ()) == product_id


# The digests come from printf '%s' '<the JSON>' | sha256sum, so that they hold the rule and not its implementation.
@pytest.mark.parametrize(
    ("product_id", "options", "expected"),
    [
        ("shirt", {"size": "M", "colour": "red"}, "~0e99c23feb092b86"),  # ["shirt",[["colour","red"],["size","M"]]]
        ("shirt", {"colour": "red", "size": "M"}, "~0e99c23feb092b86"),
        (".", {}, "~cb05d8b188c0b34b"),  # [".",[]]
        ("..", {}, "~48a8907fa1ee5655"),
        ("größe 42", {}, "~ebc7f515a7f7ba7c"),  # in UTF-8, nothing escaped
        ("sku-1", {"größe": "ü"}, "~5a665dbf841dc929"),
        ('say "hi" \\ there', {}, "~b420df55be12eb5f"),  # ["say \"hi\" \\ there",[]]
        ("a/b", {}, "~063779469d8f8669"),
        ("🛒", {}, "~132aa0be025e2cdd"),
        ("x" * 128, {"k": ""}, "~067f5861527bd62a"),
        ("~x", {}, "~e37c26274ae04ac9"),
        ("sku 1", {}, "~50236d4cdcbf97b0"),
    ],
)
def test_any_other_item_id_is_a_digest(product_id: str, options: dict[str, str], expected: str) -> None:
    """An item_id is the same for the same product and options, for ever, whatever the order of the options."""
    assert [item.item_id for item in a_cart(NewItem(product_id, 1, options)).items] == [expected]


@given(product=strategies.product_ids, options=strategies.options, data=st.data())
def test_the_order_of_options_does_not_matter(product: str, options: dict[str, str], data: st.DataObject) -> None:
    """The same options in another order are the same item, and are kept in one order."""
    shuffled = dict(data.draw(st.permutations(list(options.items()))))
    (item,) = a_cart(NewItem(product, 1, options), NewItem(product, 1, shuffled)).items
    assert item.quantity == 2
    kept = [(strategies.nfc(name), strategies.nfc(value)) for name, value in options.items()]
    assert item.options == tuple(sorted(kept))


def test_unlike_options_are_unlike_items() -> None:
    """An option without a value, with one, and none are three items of one product."""
    cart = a_cart(
        NewItem("p", 1), NewItem("p", 1, {"o": ""}), NewItem("p", 1, {"o": "x"}), NewItem("p", 1, {"o": "x", "q": ""})
    )
    assert len({item.item_id for item in cart.items}) == 4


# ---- properties ----


@given(st.data())
def test_adding_in_any_order_gives_the_same(data: st.DataObject) -> None:
    """Neither the order of the lines nor how they are spread over requests changes quantity, money or items."""
    some_prices = st.dictionaries(strategies.product_ids, st.none() | st.integers(0, 10_000), min_size=1, max_size=6)
    prices = data.draw(some_prices)
    products = data.draw(st.lists(st.sampled_from(list(prices)), min_size=1, max_size=12))
    lines = [
        NewItem(product, 1 + pointer, unit_price=prices[product], currency=None if prices[product] is None else "EUR")
        for pointer, product in enumerate(products)
    ]
    expected = totals(a_cart(*lines))
    shuffled = data.draw(st.permutations(lines))
    assert totals(a_cart(*shuffled)) == expected
    one_by_one: Cart | None = None
    for line in shuffled:
        one_by_one = added(one_by_one, line)
    assert one_by_one is not None
    assert totals(one_by_one) == expected


@given(before=st.none() | st.lists(strategies.lines(), max_size=6), lines=st.lists(strategies.lines(), max_size=8))
def test_replace_then_read_is_identity(before: list[NewItem] | None, lines: list[NewItem]) -> None:
    """A replaced cart holds exactly what was sent, in that order; putting back what was read changes nothing."""
    old = None if before is None else replace(None, additions(*before), revision=STAMP)
    cart = replace(old, additions(*lines, at=LATER.at), revision=LATER)
    sent: dict[str, tuple[int, int | None]] = {}
    for line in lines:
        options = sorted((strategies.nfc(name), strategies.nfc(value)) for name, value in line.options.items())
        its_id = derive_item_id(strategies.nfc(line.product_id), options)
        quantity, price = sent.get(its_id, (0, None))
        sent[its_id] = (quantity + line.quantity, price if line.unit_price is None else line.unit_price)
    assert [(item.item_id, (item.quantity, item.unit_price)) for item in cart.items] == list(sent.items())
    read = [NewItem(i.product_id, i.quantity, dict(i.options), i.unit_price) for i in cart.items]
    again = Revision(at=9000, etag="e3", expires_at=9999)
    assert replace(cart, additions(*read, currency=cart.currency, at=again.at), revision=again) is cart


def test_replace_keeps_when_an_item_was_added() -> None:
    """An item that stays in a replaced cart was added when it was; the cart was made when it was."""
    cart = replace(
        a_cart(NewItem("a", 1), NewItem("b", 1)), additions(NewItem("c", 1), NewItem("b", 5), at=1500), revision=LATER
    )
    assert [(item.item_id, item.quantity, item.added_at) for item in cart.items] == [("c", 1, 1500), ("b", 5, 1000)]
    assert (cart.created_at, cart.updated_at, cart.expires_at) == (1000, 1500, 2500)


def test_replace_may_change_the_currency() -> None:
    """Nothing of the old cart is left, so nothing forbids another currency."""
    cart = replace(a_cart(priced("a", 1, 5)), additions(NewItem("a", 1, unit_price=7), currency="USD"), revision=LATER)
    assert (cart.currency, subtotal(cart.items)) == ("USD", 7)


def test_a_currency_without_prices_is_none() -> None:
    """A cart has a currency only when one of its items has a price."""
    assert replace(None, additions(NewItem("a", 1), currency="EUR"), revision=STAMP).currency is None


def test_items_keep_the_order_in_which_they_came() -> None:
    """Adding to an item, or changing it, leaves it in its place."""
    cart = added(a_cart(NewItem("b", 1), NewItem("a", 1), NewItem("b", 1)), NewItem("c", 1), NewItem("a", 1))
    cart = changed(cart, "b", ItemChange(quantity=9))
    assert [(item.item_id, item.quantity) for item in cart.items] == [("b", 9), ("a", 2), ("c", 1)]
    assert [item.added_at for item in cart.items] == [1000, 1000, 1500]


def test_the_last_price_stated_wins() -> None:
    """In one request and over several; a line without a price leaves the price there is."""
    assert a_cart(priced("a", 1, 5), priced("a", 1, 7), NewItem("a", 1)).items[0].unit_price == 7
    cart = added(a_cart(priced("a", 1, 5)), priced("a", 1, 3))
    assert cart.items[0].unit_price == 3
    assert added(cart, NewItem("a", 1)).items[0].unit_price == 3
    assert changed(cart, "a", ItemChange(unit_price=0, currency="EUR")).items[0].unit_price == 0
    assert added(a_cart(NewItem("a", 2)), priced("a", 1, 4)).items[0].unit_price == 4


def test_a_subtotal_needs_every_price() -> None:
    """Without the price of one item there is no subtotal; nothing costs nothing."""
    assert subtotal(()) == 0
    assert subtotal(a_cart(priced("a", 2, 5), priced("b", 3, 7)).items) == 31
    assert subtotal(a_cart(priced("a", 2, 5), NewItem("b", 3)).items) is None
    assert subtotal(a_cart(priced("a", 2, 0)).items) == 0


def test_a_change_leaves_its_stamp() -> None:
    """A changed cart has the new ETag and times, the next version, and was made when it was."""
    assert a_cart(NewItem("a", 1)) == Cart("e1", 1, (Item("a", "a", (), 1, None, 1000),), None, 1000, 1000, 2000)
    expected = Cart("e2", 2, (Item("a", "a", (), 3, None, 1000),), None, 1000, 1500, 2500)
    assert added(a_cart(NewItem("a", 1)), NewItem("a", 2)) == expected


def test_a_change_that_changes_nothing_is_the_very_same_cart() -> None:
    """Then there is nothing to write, no new ETag and no later expiry."""
    cart = a_cart(priced("a", 2, 5), NewItem("b", 1))
    assert changed(cart, "a", ItemChange(quantity=2)) is cart
    assert changed(cart, "a", ItemChange(unit_price=5, currency="EUR")) is cart
    assert changed(cart, "a", ItemChange(quantity=2, unit_price=5, currency="EUR")) is cart
    assert replace(cart, additions(priced("a", 2, 5), NewItem("b", 1)), revision=LATER) is cart
    empty = remove_item(a_cart(NewItem("a", 1)), "a", revision=LATER)
    assert replace(empty, additions(), revision=LATER) is empty


def test_another_order_is_a_change() -> None:
    """A PUT that only puts the items into another order has changed the cart."""
    cart = a_cart(NewItem("a", 1), NewItem("b", 1))
    assert replace(cart, additions(NewItem("b", 1), NewItem("a", 1)), revision=LATER).version == 2


def test_the_last_item_out_leaves_an_empty_cart() -> None:
    """A cart without items is a cart; without prices it has no currency, and may take up another one."""
    cart = a_cart(priced("a", 1, 5), NewItem("b", 1))
    cart = remove_item(cart, "a", revision=LATER)
    assert (cart.currency, len(cart.items)) == (None, 1)
    cart = changed(cart, "b", ItemChange(quantity=0))
    assert (cart.items, cart.version, cart.etag) == ((), 3, "e2")
    assert added(cart, priced("a", 1, 5, "USD")).currency == "USD"


@pytest.mark.parametrize("wanted", ["b", "", "A", "~0e99c23feb092b86"])
def test_an_item_that_is_not_there_is_not_found(wanted: str) -> None:
    """Finding, setting and removing an item need the item."""
    cart = a_cart(NewItem("a", 1))
    tries: list[Callable[[], object]] = [
        lambda: find_item(cart, wanted),
        lambda: changed(cart, wanted, ItemChange(quantity=0)),
        lambda: changed(cart, wanted, ItemChange(quantity=1)),
        lambda: remove_item(cart, wanted, revision=LATER),
    ]
    for each in tries:
        with pytest.raises(ItemNotFound):
            each()


def test_carts_are_frozen() -> None:
    """Nobody who was given a cart can change it."""
    cart = a_cart(NewItem("a", 1, {"o": "x"}))
    for thing, name in ((cart, "version"), (cart, "items"), (cart.items[0], "quantity")):
        with pytest.raises(AttributeError):
            setattr(thing, name, 7)
    assert isinstance(cart.items, tuple)
    assert isinstance(cart.items[0].options, tuple)


# ---- limits: what the request alone breaks ----

ALONE: list[tuple[str, Callable[[int], NewItem], int, str]] = [
    ("max_quantity", lambda n: NewItem("a", n), 999, "/quantity"),
    ("max_options", lambda n: NewItem("a", 1, {f"o{i}": "" for i in range(n)}), 10, "/options"),
    ("max_option_name", lambda n: NewItem("a", 1, {"ü" * n: ""}), 64, "/options"),
    ("max_option_value", lambda n: NewItem("a", 1, {"a/b~c": "ü" * n}), 256, "/options/a~1b~0c"),
    ("max_unit_price", lambda n: priced("a", 1, n), 10**10, "/unit_price"),
]


@pytest.mark.parametrize(("limit", "line", "default", "pointer"), ALONE, ids=[each[0] for each in ALONE])
def test_a_line_at_its_limit_and_past_it(
    limit: str, line: Callable[[int], NewItem], default: int, pointer: str
) -> None:
    """Each limit of one line is the contract's, can be set, allows itself and refuses one more."""
    for limits, most in ((LIMITS, default), (Limits(**{limit: 3}), 3)):
        assert getattr(limits, limit) == most
        additions(line(most), limits=limits)
        with pytest.raises(InvalidRequest) as error:
            additions(msgspec.structs.replace(line(most + 1), pointer="/items/7"), limits=limits)
        assert pointers(error) == ["/items/7" + pointer]
        assert str(most) in error.value.faults[0].detail


@pytest.mark.parametrize(
    "product_id", ["a", " ", "x" * 128, "🛒" * 128, "a b", "\u202e", "\u2028", "\u200d", "\xa0", "\ue000", "\U0010ffff"]
)
def test_a_product_id_may_be(product_id: str) -> None:
    """1 to 128 characters, printable or not."""
    assert additions(NewItem(product_id, 1)).items[0].product_id == product_id


@pytest.mark.parametrize("product_id", ["", "x" * 129, "a\n", "\t", "\x00", "\x7f", "\x85", "\ud800", "a\udfffb"])
def test_a_product_id_may_not_be(product_id: str) -> None:
    """Nothing that is too long, or has a control character, or cannot be encoded."""
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem(product_id, 1))
    assert pointers(error) == ["/product_id"]


@pytest.mark.parametrize("wrong", ["\x00", "a\x0bb", "\x1f", "\x7f", "\x80", "\x9f", "\ud800", "a\udfff", "\udc00x"])
def test_an_option_holds_no_control_character_and_no_lone_surrogate(wrong: str) -> None:
    """In its name or its value; a name that cannot be shown is not shown."""
    for options, pointer in (({wrong: "v"}, "/options"), ({"n": wrong}, "/options/n")):
        with pytest.raises(InvalidRequest) as error:
            additions(NewItem("a", 1, options))
        assert pointers(error) == [pointer]
        str(error.value).encode()


@pytest.mark.parametrize("wrong", ["\n", "a\rb", "a\t"])
def test_a_line_break_or_a_tab_is_for_values_only(wrong: str) -> None:
    """A gift note has lines; a name has none."""
    assert additions(NewItem("a", 1, {"note": wrong})).items[0].options == (("note", wrong),)
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("a", 1, {wrong: "v"}))
    assert pointers(error) == ["/options"]


def test_texts_are_compared_and_kept_in_nfc() -> None:
    """The product, the names and the values: typed composed or not, they are one item, which is found by one id."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    items = additions(
        NewItem(composed, 1, {composed: composed}), NewItem(decomposed, 2, {decomposed: decomposed})
    ).items
    options = ((composed, composed),)
    assert [(item.product_id, item.options, item.quantity) for item in items] == [(composed, options, 3)]
    assert items[0].item_id == derive_item_id(composed, options)


def test_compatible_texts_stay_apart() -> None:
    """NFC makes no other character of one that only looks alike: \u2460 is not 1, and \uff21 is not A."""
    assert len(additions(NewItem("\u2460", 1), NewItem("1", 1), NewItem("\uff21", 1), NewItem("A", 1)).items) == 4


def test_two_names_that_become_the_same_are_refused() -> None:
    """Which of their values counts would depend on their order; the second one is the fault."""
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("a", 1, {"\u00e9": "1", "e": "2", "e\u0301": "3"}, pointer="/items/1"))
    assert pointers(error) == ["/items/1/options/e\u0301"]


def test_a_limit_counts_what_was_sent() -> None:
    """NFC makes three characters of U+FB2C: a text at its limit is taken, and is kept longer than its limit."""
    longest = "\ufb2c"
    line = NewItem(longest * 128, 1, {longest * 64: longest * 256})
    (item,) = additions(line).items
    assert [len(item.product_id), *map(len, item.options[0])] == [3 * 128, 3 * 64, 3 * 256]
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("e\u0301" * 65, 1))  # 65 characters as they are kept
    assert pointers(error) == ["/product_id"]


def test_no_character_grows_more_than_threefold() -> None:
    """What is stored is bounded: no character of Unicode becomes more than NFC_GROWTH ones."""
    most = max(len(strategies.nfc(chr(code))) for code in range(sys.maxunicode + 1))
    assert most == NFC_GROWTH


@pytest.mark.parametrize("version", [1, MAX_VERSION - 2, MAX_VERSION - 1, MAX_VERSION])
def test_a_version_counts_as_far_as_a_back_up_can_tell(version: int) -> None:
    """At the highest version import takes, the cart changes as ever and gets a new ETag."""
    cart = msgspec.structs.replace(a_cart(NewItem("a", 1)), version=version)
    after = added(cart, NewItem("a", 1))
    assert (after.version, after.items[0].quantity) == (min(version + 1, MAX_VERSION), 2)


@pytest.mark.parametrize("fine", ["\u00a0", "ü", "🛒", " ", "\u2028", "/", "~", '"', "\\"])
def test_an_option_holds_any_other_character(fine: str) -> None:
    """In its name and its value."""
    assert additions(NewItem("a", 1, {fine: fine})).items[0].options == ((fine, fine),)


def test_an_option_has_a_name() -> None:
    """A name is 1 character at least; a value may be empty."""
    additions(NewItem("a", 1, {"n": ""}))
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("a", 1, {"": "v"}))
    assert pointers(error) == ["/options"]


@pytest.mark.parametrize("currency", ["", "eur", "EU", "EURO", "EÜR", "EUR\n", "E R", "\ud800UR"])
def test_a_currency_is_three_capital_letters(currency: str) -> None:
    """On a line, for the whole request, and in a change."""
    with pytest.raises(InvalidRequest) as error:
        additions(priced("a", 1, 5, currency, pointer="/items/0"))
    assert pointers(error) == ["/items/0/currency"]
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("a", 1), currency=currency)
    assert pointers(error) == ["/currency"]
    with pytest.raises(InvalidRequest) as error:
        check_change(ItemChange(unit_price=5, currency=currency), limits=LIMITS)
    assert pointers(error) == ["/currency"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (NewItem("a", 0), ["/quantity"]),
        (NewItem("a", -1), ["/quantity"]),
        (NewItem("a", 1, unit_price=-1, currency="EUR"), ["/unit_price"]),
        (NewItem("a", 1, unit_price=1), ["/currency"]),
        (NewItem("a", 1, currency="EUR"), ["/unit_price"]),
        (NewItem("a", 10**30), ["/quantity"]),
        (NewItem("a", 1, unit_price=10**30, currency="EUR"), ["/unit_price"]),
    ],
)
def test_a_line_may_not_say(line: NewItem, expected: list[str]) -> None:
    """No quantity below 1, no negative price, no price without its currency, no currency without its price."""
    with pytest.raises(InvalidRequest) as error:
        additions(line)
    assert pointers(error) == expected


def test_the_request_s_currency_stands_for_lines_that_state_none() -> None:
    """And must be that of the lines that do."""
    both = additions(NewItem("a", 1, unit_price=5), priced("b", 1, 7), currency="EUR")
    assert both.currency == "EUR"
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("a", 1, unit_price=5), priced("b", 1, 7, pointer="/items/1"), currency="USD")
    assert pointers(error) == ["/items/1/currency"]


def test_one_request_has_one_currency() -> None:
    """Of two currencies in one request the second is the fault."""
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("x", 1), priced("a", 1, 5, pointer="/items/1"), priced("b", 1, 5, "USD", pointer="/items/2"))
    assert pointers(error) == ["/items/2/currency"]


def test_like_items_of_one_request_share_the_limit() -> None:
    """Lines of one item add up before their quantity is judged; the last of them is the fault."""
    additions(NewItem("a", 500), NewItem("a", 499))
    with pytest.raises(InvalidRequest) as error:
        additions(
            NewItem("a", 500, pointer="/items/0"),
            NewItem("b", 1, pointer="/items/1"),
            NewItem("a", 500, pointer="/items/2"),
        )
    assert pointers(error) == ["/items/2/quantity"]


def test_a_request_has_no_more_items_than_a_cart() -> None:
    """500 of them; like lines count once; the first too many is the fault."""
    lines = [NewItem(f"p{n}", 1, pointer=f"/items/{n}") for n in range(501)]
    assert LIMITS.max_items == 500
    assert len(additions(*lines[:500], NewItem("p0", 1)).items) == 500
    with pytest.raises(InvalidRequest) as error:
        additions(*lines)
    assert pointers(error) == ["/items/500"]


def test_a_request_costs_no_more_than_can_be_counted() -> None:
    """2^53-1 exactly is a subtotal, one more is refused; unpriced items do not hide the sum."""
    limits = Limits(max_unit_price=MAX_SUBTOTAL)
    assert MAX_SUBTOTAL == 9_007_199_254_740_991
    at_most = [priced("a", 1, MAX_SUBTOTAL - 2, pointer="/items/0"), priced("b", 2, 1, pointer="/items/1")]
    assert subtotal(additions(*at_most, limits=limits).items) == MAX_SUBTOTAL
    for one_more in (priced("c", 1, 1, pointer="/items/2"), priced("b", 1, 1, pointer="/items/2")):
        with pytest.raises(InvalidRequest) as error:
            additions(*at_most, one_more, NewItem("unpriced", 1), limits=limits)
        assert pointers(error) == [""]


def test_a_request_is_no_larger_than_a_cart() -> None:
    """The bytes of its items as they are stored: exactly the limit is allowed, one less is not enough."""
    lines = [NewItem("p" * 100, 1, {"o": "ü" * 100}), priced("q", 300, 10**9)]
    size = bytes_of(*additions(*lines).items)
    additions(*lines, limits=Limits(max_cart_bytes=size))
    with pytest.raises(InvalidRequest) as error:
        additions(*lines, limits=Limits(max_cart_bytes=size - 1))
    assert pointers(error) == [""]
    assert LIMITS.max_cart_bytes == 65_536


def test_all_faults_are_named_at_once() -> None:
    """A client that sent much that is wrong learns of all of it in one answer."""
    options = {"": "x", "ok": "\x00", "n" * 65: "v", **{f"o{n}": "" for n in range(8)}}
    with pytest.raises(InvalidRequest) as error:
        additions(
            NewItem("", 0, options, unit_price=-1, pointer="/items/0"),
            NewItem("fine", 1, pointer="/items/1"),
            NewItem("\n", 1000, currency="eur", pointer="/items/2"),
            priced("c", 1, 10**11, "USD", pointer="/items/3"),
            priced("d", 1, 1, "EUR", pointer="/items/4"),
        )
    assert sorted(pointers(error)) == sorted(
        [
            "/items/0/product_id",
            "/items/0/quantity",
            "/items/0/options",  # eleven of them,
            "/items/0/options",  # one without a name,
            "/items/0/options/ok",
            "/items/0/options",  # and one with too long a name
            "/items/0/unit_price",
            "/items/0/currency",
            "/items/2/product_id",
            "/items/2/quantity",
            "/items/2/currency",
            "/items/2/unit_price",
            "/items/3/unit_price",
            "/items/3/currency",
            "/items/4/currency",
        ]
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (ItemChange(), [""]),
        (ItemChange(quantity=-1), ["/quantity"]),
        (ItemChange(quantity=1000), ["/quantity"]),
        (ItemChange(unit_price=5), ["/currency"]),
        (ItemChange(quantity=1, currency="EUR"), ["/unit_price"]),
        (ItemChange(currency="EUR"), ["/unit_price", ""]),
        (ItemChange(quantity=1000, unit_price=-1, currency="eur"), ["/unit_price", "/currency", "/quantity"]),
        (ItemChange(unit_price=10**10 + 1, currency="EUR"), ["/unit_price"]),
    ],
)
def test_a_change_may_not_say(change: ItemChange, expected: list[str]) -> None:
    """A change says something, and says it right; all its faults are named at once."""
    with pytest.raises(InvalidRequest) as error:
        check_change(change, limits=LIMITS)
    assert pointers(error) == expected


@pytest.mark.parametrize(
    "change",
    [
        ItemChange(quantity=0),
        ItemChange(quantity=999),
        ItemChange(unit_price=0, currency="EUR"),
        ItemChange(unit_price=10**10, currency="EUR"),
    ],
)
def test_a_change_may_say(change: ItemChange) -> None:
    """Both ends of each range."""
    check_change(change, limits=LIMITS)


# ---- limits: what the request breaks together with the cart ----


def test_quantities_add_up_to_the_limit() -> None:
    """999 with what is there is allowed, 1000 is the cart's refusal."""
    cart = a_cart(NewItem("a", 998), NewItem("b", 1))
    assert added(cart, NewItem("a", 1)).items[0].quantity == 999
    with pytest.raises(LimitExceeded) as error:
        added(cart, NewItem("b", 1, pointer="/items/0"), NewItem("a", 2, pointer="/items/1"))
    assert pointers(error) == ["/items/1/quantity"]
    with pytest.raises(LimitExceeded) as error:
        added(cart, NewItem("a", 2))
    assert pointers(error) == ["/quantity"]


def test_items_add_up_to_the_limit() -> None:
    """500 with those that are there are allowed; the first line past it is the fault; like items need no room."""
    limits = Limits(max_items=3)
    cart = a_cart(NewItem("a", 1), NewItem("b", 1), limits=limits)
    full = added(cart, NewItem("a", 1), NewItem("c", 1), limits=limits)
    assert [item.item_id for item in full.items] == ["a", "b", "c"]
    assert added(full, NewItem("c", 5), limits=limits).items[2].quantity == 6
    with pytest.raises(LimitExceeded) as error:
        added(cart, *[NewItem(each, 1, pointer=f"/items/{n}") for n, each in enumerate("acd")], limits=limits)
    assert pointers(error) == ["/items/2"]


def test_the_subtotal_adds_up_to_the_limit() -> None:
    """2^53-1 with what is there is allowed, one more is refused, by adding and by setting."""
    limits = Limits(max_unit_price=MAX_SUBTOTAL)
    cart = a_cart(priced("a", 1, MAX_SUBTOTAL - 5), NewItem("b", 1), limits=limits)
    full = added(cart, priced("c", 5, 1), limits=limits)
    assert subtotal(remove_item(full, "b", revision=LATER).items) == MAX_SUBTOTAL
    refusals: list[Callable[[], object]] = [
        lambda: added(cart, priced("c", 6, 1), limits=limits),
        lambda: added(full, NewItem("c", 1), limits=limits),
        lambda: changed(full, "b", ItemChange(unit_price=1, currency="EUR"), limits=limits),
        lambda: changed(full, "c", ItemChange(quantity=6), limits=limits),
        lambda: changed(full, "a", ItemChange(quantity=2), limits=limits),
    ]
    for refusal in refusals:
        with pytest.raises(LimitExceeded) as error:
            refusal()
        assert pointers(error) == [""]


def test_the_bytes_add_up_to_the_limit() -> None:
    """As many bytes as the limit are allowed, one more is refused, by adding and by setting."""
    cart = a_cart(NewItem("a", 1), NewItem("b", 1))
    fuller = added(cart, NewItem("c" * 50, 1))
    limits = Limits(max_cart_bytes=bytes_of(*fuller.items))
    assert added(cart, NewItem("c" * 50, 1), limits=limits) == fuller
    refusals: list[Callable[[], object]] = [
        lambda: added(cart, NewItem("c" * 51, 1), limits=limits),
        lambda: added(fuller, NewItem("a", 299), limits=limits),
        lambda: changed(fuller, "a", ItemChange(quantity=300), limits=limits),  # takes two bytes more than 1
    ]
    for refusal in refusals:
        with pytest.raises(LimitExceeded) as error:
            refusal()
        assert pointers(error) == [""]


def test_a_cart_has_one_currency() -> None:
    """A second one is refused by adding and by setting, also where the item had no price; free things count too."""
    cart = a_cart(priced("a", 1, 0), NewItem("b", 1))
    tries: list[tuple[Callable[[], object], str]] = [
        (lambda: added(cart, priced("c", 1, 5, "USD")), "/currency"),
        (lambda: added(cart, NewItem("c", 1), priced("b", 1, 5, "USD", pointer="/items/1")), "/items/1/currency"),
        (lambda: added(cart, priced("a", 1, 5, "USD")), "/currency"),
        (lambda: changed(cart, "b", ItemChange(unit_price=5, currency="USD")), "/currency"),
        (lambda: changed(cart, "a", ItemChange(quantity=2, unit_price=5, currency="USD")), "/currency"),
    ]
    for each, pointer in tries:
        with pytest.raises(CurrencyMismatch) as error:
            each()
        assert pointers(error) == [pointer]
        assert "EUR" in error.value.faults[0].detail
    assert added(cart, NewItem("c", 1)).currency == "EUR"


def test_the_fault_of_a_second_currency_is_where_it_is_stated() -> None:
    """Also when a later line speaks of the same item without a price."""
    cart = a_cart(priced("a", 1, 5))
    with pytest.raises(CurrencyMismatch) as error:
        added(cart, priced("b", 1, 5, "USD", pointer="/items/0"), NewItem("b", 1, pointer="/items/1"))
    assert pointers(error) == ["/items/0/currency"]


def test_several_limits_are_named_at_once() -> None:
    """The cart's refusals are all named too."""
    cart = a_cart(NewItem("a", 5), NewItem("b", 5), NewItem("x", 5))
    lines = [
        NewItem("a", 1, pointer="/items/0"),
        NewItem("c" * 30, 1, pointer="/items/1"),
        NewItem("b", 1, pointer="/items/2"),
    ]
    limits = Limits(max_items=3, max_quantity=5, max_cart_bytes=bytes_of(*additions(*lines).items))
    with pytest.raises(LimitExceeded) as error:
        added(cart, *lines, limits=limits)
    assert sorted(pointers(error)) == ["", "/items/0/quantity", "/items/1", "/items/2/quantity"]


# ---- a limit that was lowered later ----

OVER = a_cart(priced("a", 900, 10**6), NewItem("b", 800), NewItem("c", 1), NewItem("d", 1))
LOWER = Limits(max_quantity=100, max_items=2, max_cart_bytes=30)


@pytest.mark.parametrize(
    "change",
    [
        lambda: changed(OVER, "a", ItemChange(quantity=100), limits=LOWER),
        lambda: changed(OVER, "a", ItemChange(quantity=0), limits=LOWER),
        lambda: remove_item(OVER, "c", revision=LATER),
        lambda: changed(OVER, "a", ItemChange(unit_price=10**6 - 1, currency="EUR"), limits=LOWER),
        lambda: added(OVER, NewItem("c", 1), limits=LOWER),
        lambda: added(OVER, priced("d", 1, 0), limits=LOWER),
        lambda: replace(OVER, additions(NewItem("a", 100), limits=LOWER), revision=LATER),
    ],
)
def test_a_cart_over_a_lowered_limit_can_still_be_used(change: Callable[[], Cart]) -> None:
    """What does not grow past the limit is left in peace: the cart may shrink and be changed."""
    assert change().version == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda: added(OVER, NewItem("a", 1), limits=LOWER), ["/quantity"]),
        (lambda: added(OVER, NewItem("c", 100), limits=LOWER), ["/quantity"]),
        (lambda: added(OVER, NewItem("e", 1), limits=LOWER), ["", ""]),  # one item and some bytes too many
        (lambda: changed(OVER, "d", ItemChange(unit_price=300, currency="EUR"), limits=LOWER), [""]),
        (
            lambda: added(OVER, NewItem("b", 1, pointer="/items/0"), limits=Limits(max_quantity=100)),
            ["/items/0/quantity"],
        ),
        (lambda: added(OVER, NewItem("e", 1, pointer="/items/0"), limits=Limits(max_items=2)), ["/items/0"]),
        (lambda: added(OVER, NewItem("e", 1, pointer="/items/0"), limits=Limits(max_items=4)), ["/items/0"]),
        (lambda: added(OVER, NewItem("e", 1, pointer="/items/0"), limits=Limits(max_cart_bytes=30)), [""]),
    ],
)
def test_a_cart_over_a_lowered_limit_does_not_grow(change: Callable[[], Cart], expected: list[str]) -> None:
    """What would grow it further past the limit is refused."""
    with pytest.raises(LimitExceeded) as error:
        change()
    assert pointers(error) == expected


# ---- two carts into one ----


def combined(cart: Cart | None, source: Cart, strategy: Strategy = "sum", *, limits: Limits = LIMITS) -> Cart:
    return combine(cart, source, strategy, limits=limits, revision=LATER)


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
def test_a_strategy_says_what_becomes_of_like_and_unlike_items(
    strategy: Strategy, expected: list[tuple[str, int, int | None]]
) -> None:
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
    came = {"sum": STAMP.at, "max": STAMP.at, "keep": STAMP.at, "replace": LATER.at}[strategy]
    assert {item.item_id: item.added_at for item in after.items}["b"] == came
    assert {item.item_id: item.added_at for item in after.items}["d"] == LATER.at


@pytest.mark.parametrize(("strategy", "expected"), [("sum", 9), ("max", 6), ("keep", 6), ("replace", 3)])
def test_the_larger_quantity_may_be_the_target_s(strategy: Strategy, expected: int) -> None:
    """Max takes the larger of both, whichever cart it is in."""
    assert held(combined(a_cart(NewItem("a", 6)), a_later_cart(NewItem("a", 3)), strategy)) == [("a", expected, None)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_absent_target_becomes_what_the_source_was(strategy: Strategy) -> None:
    """Whatever the strategy: the same items as they were added, in a cart that is new."""
    source = added(a_later_cart(NewItem("a", 2)), priced("b", 1, 5, "USD", options={"s": "M"}))
    after = combined(None, source, strategy)
    assert (after.items, after.currency) == (source.items, "USD")
    assert (after.version, after.created_at, after.etag) == (1, LATER.at, LATER.etag)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_target_takes_any_currency(strategy: Strategy) -> None:
    """A cart without items has no currency of its own."""
    empty = remove_item(a_cart(priced("a", 1, 5, "EUR")), "a", revision=LATER)
    source = a_later_cart(priced("b", 1, 5, "USD"))
    after = combined(empty, source, strategy)
    assert (after.items, after.currency, after.version) == (source.items, "USD", 3)


@pytest.mark.parametrize("strategy", ["sum", "max", "keep"])
def test_an_empty_source_changes_nothing(strategy: Strategy) -> None:
    """The very same cart comes back."""
    cart = a_cart(priced("a", 1, 5))
    assert combined(cart, a_later_cart(), strategy) is cart


def test_replacing_by_an_empty_source_empties() -> None:
    """The target's other items go, and their currency with them."""
    after = combined(a_cart(priced("a", 1, 5)), a_later_cart(), "replace")
    assert (after.items, after.currency, after.version) == ((), None, 2)


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
def test_the_target_s_price_stays_or_else_the_source_s(
    ours: int | None, theirs: int | None, strategy: Strategy, expected: int | None
) -> None:
    """A price of nothing is a price; the cart has a currency when an item has a price, and only then."""

    def line(price: int | None, quantity: int) -> NewItem:
        return NewItem("a", quantity) if price is None else priced("a", quantity, price)

    after = combined(a_cart(line(ours, 3)), a_later_cart(line(theirs, 3)), strategy)
    assert [item.unit_price for item in after.items] == [expected]
    assert after.currency == (None if expected is None else "EUR")


@pytest.mark.parametrize("price", [None, 5])
def test_keep_leaves_like_items_wholly_unchanged(price: int | None) -> None:
    """Quantity, price and time, whatever the source says; the very same cart when there is nothing else."""
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
def test_a_merge_that_changes_nothing_is_the_very_same_cart(source: list[NewItem], strategy: Strategy) -> None:
    """No new version, no new ETag, no other expiry."""
    cart = a_cart(priced("a", 5, 1), NewItem("b", 3))
    if strategy == "replace":
        same = a_cart(*source)  # added at the same time
        assert combined(cart, same, strategy) is cart
    else:
        assert combined(cart, a_later_cart(*source), strategy) is cart


@pytest.mark.parametrize(
    ("ours", "theirs", "strategies_refused"),
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
def test_a_second_currency_is_refused_where_it_would_come_in(
    ours: list[NewItem], theirs: list[NewItem], strategies_refused: set[str]
) -> None:
    """Only a price that would stand in the merged cart matters; the fault is at the other cart's name."""
    cart, source = a_cart(*ours), a_later_cart(*theirs)
    for strategy in STRATEGIES:
        if strategy in strategies_refused:
            with pytest.raises(CurrencyMismatch) as error:
                combined(cart, source, strategy)
            assert pointers(error) == ["/from_user_id"]
            continue
        after = combined(cart, source, strategy)
        assert (after.currency is None) == all(item.unit_price is None for item in after.items)


def test_what_is_kept_keeps_its_currency() -> None:
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
    """Exactly at a limit is allowed; one more is refused, and the fault is at the other cart's name."""
    cart, source = (
        a_cart(*ours, limits=_SMALL),
        add(None, additions(*theirs, limits=_SMALL), limits=_SMALL, revision=STAMP),
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


def test_max_and_keep_go_past_no_limit_that_sum_would() -> None:
    """They are refused only for what they themselves would make."""
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
def test_a_merge_is_what_its_strategy_says_of_each_item(carts: tuple[Cart | None, Cart], strategy: Strategy) -> None:
    """Item by item, for any two carts: quantities, prices, bounds, order, and that sum loses and doubles nothing."""
    cart, source = carts
    limits = Limits(max_quantity=10**6)
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


# ---- any sequence of changes ----


class _Refused(Exception):
    """The model's refusal: which error is expected."""

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
    """Any sequence of changes, on the cart and on a plain dict beside it."""

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
                raise _Refused(CurrencyMismatch)
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
            additions, stated = self._gathered(lines, currency)
            for wanted, entry in additions.items():
                if wanted in self.model:
                    entry.added_at = self.model[wanted].added_at
            return additions, stated

        def actual(revision: Revision) -> Cart:
            gathered = additions(*lines, limits=self.limits, at=self.at, currency=currency)
            return replace(self.cart, gathered, revision=revision)

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
                raise _Refused(InvalidRequest)
            if wanted not in self.model:
                raise _Refused(ItemNotFound)
            if quantity == 0:
                return {each: self.model[each] for each in self.model if each != wanted}, self.currency
            if change.currency is not None and self.currency is not None and change.currency != self.currency:
                raise _Refused(CurrencyMismatch)
            model = {each: msgspec.structs.replace(entry) for each, entry in self.model.items()}
            if quantity is not None:
                model[wanted].quantity = quantity
            if price is not None:
                model[wanted].price = price
            self._check(self.model, model, {wanted}, LimitExceeded)
            return model, self.currency or change.currency

        def actual(revision: Revision) -> Cart:
            assert self.cart is not None
            check_change(change, limits=self.limits)
            return set_item(self.cart, wanted, change, limits=self.limits, revision=revision)

        self._compare(expected, actual)

    @rule(data=st.data())
    def remove_one(self, data: st.DataObject) -> None:
        """DELETE of an item."""
        if self.cart is None:
            return
        wanted = data.draw(st.sampled_from([*self.model, "none such"]))

        def expected() -> tuple[Model, str | None]:
            if wanted not in self.model:
                raise _Refused(ItemNotFound)
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
        except _Refused as refused:
            with pytest.raises(refused.kind):
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
        stated = [currency] if currency is not None else []
        stated += [line.currency for line in lines if line.currency is not None]
        for line in lines:
            wrong_option = any("\0" in value for value in line.options.values())
            wrong_price = line.unit_price is not None and line.unit_price > MAX_SUBTOTAL
            alone = (line.unit_price is None) and line.currency is not None
            without = line.unit_price is not None and line.currency is None and currency is None
            wrong_quantity = not 1 <= line.quantity <= self.limits.max_quantity
            if wrong_option or wrong_price or alone or without or wrong_quantity:
                raise _Refused(InvalidRequest)
        if len(set(stated)) > 1 or "eur" in stated:
            raise _Refused(InvalidRequest)
        found: Model = {}
        for line in lines:
            options = tuple(sorted(line.options.items()))
            entry = _Entry(line.product_id, options, line.quantity, line.unit_price, self.at)
            found = self._combined(found, {derive_item_id(line.product_id, options): entry})
        self._check({}, found, set(found), InvalidRequest)
        return found, stated[0] if stated else None

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
        """Refuse what is past a limit and has grown."""
        for wanted in touched & set(after):
            had = before[wanted].quantity if wanted in before else 0
            if after[wanted].quantity > max(had, self.limits.max_quantity):
                raise _Refused(kind)
        if len(after) > self.limits.max_items and len(after) > len(before):
            raise _Refused(kind)
        if self._money(after) > MAX_SUBTOTAL:
            raise _Refused(kind)
        if self._size(after) > self.limits.max_cart_bytes and self._size(after) > self._size(before):
            raise _Refused(kind)

    @staticmethod
    def _money(model: Model) -> int:
        return sum(entry.quantity * (entry.price or 0) for entry in model.values())

    @staticmethod
    def _size(model: Model) -> int:
        return len(
            msgspec.msgpack.encode(
                [[each, e.product, e.options, e.quantity, e.price, e.added_at] for each, e in model.items()]
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
        """What the contract says of every cart."""
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
