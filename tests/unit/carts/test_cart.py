"""Test what changes do to a cart: item ids, order, prices, versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartsvc.carts.cart import Cart, Item, Revision, derive_item_id, find_item, remove_item, replace, subtotal
from cartsvc.carts.validation import ItemChange, NewItem, check_user_id
from cartsvc.errors import InvalidRequest, ItemNotFound
from tests.support import strategies
from tests.support.carts import (
    FIRST,
    LATER,
    LIMITS,
    a_cart,
    added,
    additions,
    changed,
    pointers,
    priced,
    totals,
)

if TYPE_CHECKING:
    from collections.abc import Callable


# ---- names ----


@pytest.mark.parametrize(
    "user_id", ["a", "0", "...", ".a", "a" * 255, "~@:+|-._", "guest-1", "Alice", "a.b@shop.example", "-"]
)
def test_valid_user_ids(user_id: str) -> None:
    """The documented characters, up to 255 of them."""
    check_user_id(user_id)


@pytest.mark.parametrize(
    "user_id",
    [
        "",
        ".",
        "..",
        "a" * 256,
        "a b",
        "a/b",
        "ä",
        "a\n",
        "\n",
        "a%",
        "a\x00",
        "a,b",
        "a;b",
        "a=b",
        "a*",
        "a#",
        "a?",
        "a\\",
        "🛒",
        "\uff21",
        "\ud800",
        "\u0661",
    ],
)
def test_invalid_user_ids(user_id: str) -> None:
    """Anything else is rejected, including a trailing line end."""
    with pytest.raises(InvalidRequest) as error:
        check_user_id(user_id)
    assert pointers(error) == ["/user_id"]


@pytest.mark.parametrize("product_id", ["a", "sku-1", "A.b_c-9", "...", ".a", "x" * 128, "-", "_", "guest-1"])
def test_item_id_of_a_plain_product(product_id: str) -> None:
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
def test_item_id_of_any_other_product(product_id: str, options: dict[str, str], expected: str) -> None:
    """An item_id is the same for the same product and options, forever, whatever the order of the options."""
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
    old = None if before is None else replace(None, additions(*before), limits=LIMITS, revision=FIRST)
    cart = replace(old, additions(*lines, at=LATER.at), limits=LIMITS, revision=LATER)
    sent: dict[str, tuple[int, int | None]] = {}
    for line in lines:
        options = sorted((strategies.nfc(name), strategies.nfc(value)) for name, value in line.options.items())
        its_id = derive_item_id(strategies.nfc(line.product_id), options)
        quantity, price = sent.get(its_id, (0, None))
        sent[its_id] = (quantity + line.quantity, price if line.unit_price is None else line.unit_price)
    assert [(item.item_id, (item.quantity, item.unit_price)) for item in cart.items] == list(sent.items())
    read = [NewItem(i.product_id, i.quantity, dict(i.options), i.unit_price) for i in cart.items]
    again = Revision(at=9000, etag="e3", expires_at=9999)
    assert replace(cart, additions(*read, currency=cart.currency, at=again.at), limits=LIMITS, revision=again) is cart


def test_replace_keeps_when_an_item_was_added() -> None:
    """An item that stays in a replaced cart was added when it was; the cart was made when it was."""
    cart = replace(
        a_cart(NewItem("a", 1), NewItem("b", 1)),
        additions(NewItem("c", 1), NewItem("b", 5), at=1500),
        limits=LIMITS,
        revision=LATER,
    )
    assert [(item.item_id, item.quantity, item.added_at) for item in cart.items] == [("c", 1, 1500), ("b", 5, 1000)]
    assert (cart.created_at, cart.updated_at, cart.expires_at) == (1000, 1500, 2500)


def test_replace_may_change_the_currency() -> None:
    """Nothing of the old cart is left, so nothing forbids another currency."""
    cart = replace(
        a_cart(priced("a", 1, 5)),
        additions(NewItem("a", 1, unit_price=7), currency="USD"),
        limits=LIMITS,
        revision=LATER,
    )
    assert (cart.currency, subtotal(cart.items)) == ("USD", 7)


def test_a_currency_without_prices_is_none() -> None:
    """A cart has a currency only when one of its items has a price."""
    assert replace(None, additions(NewItem("a", 1), currency="EUR"), limits=LIMITS, revision=FIRST).currency is None


def test_items_keep_the_order_in_which_they_came() -> None:
    """Adding to an item, or changing it, leaves it in its place."""
    cart = added(a_cart(NewItem("b", 1), NewItem("a", 1), NewItem("b", 1)), NewItem("c", 1), NewItem("a", 1))
    cart = changed(cart, "b", ItemChange(quantity=9))
    assert [(item.item_id, item.quantity) for item in cart.items] == [("b", 9), ("a", 2), ("c", 1)]
    assert [item.added_at for item in cart.items] == [1000, 1000, 1500]


def test_last_price_wins() -> None:
    """In one request and over several; a line without a price keeps the price."""
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


def test_change_sets_the_revision() -> None:
    """A changed cart has the new ETag and times, the next version, and was made when it was."""
    assert a_cart(NewItem("a", 1)) == Cart("e1", 1, (Item("a", "a", (), 1, None, 1000),), None, 1000, 1000, 2000)
    expected = Cart("e2", 2, (Item("a", "a", (), 3, None, 1000),), None, 1000, 1500, 2500)
    assert added(a_cart(NewItem("a", 1)), NewItem("a", 2)) == expected


def test_unchanged_cart_is_the_same_object() -> None:
    """Nothing is written: no new ETag and no later expiry."""
    cart = a_cart(priced("a", 2, 5), NewItem("b", 1))
    assert changed(cart, "a", ItemChange(quantity=2)) is cart
    assert changed(cart, "a", ItemChange(unit_price=5, currency="EUR")) is cart
    assert changed(cart, "a", ItemChange(quantity=2, unit_price=5, currency="EUR")) is cart
    assert replace(cart, additions(priced("a", 2, 5), NewItem("b", 1)), limits=LIMITS, revision=LATER) is cart
    empty = remove_item(a_cart(NewItem("a", 1)), "a", revision=LATER)
    assert replace(empty, additions(), limits=LIMITS, revision=LATER) is empty


def test_another_order_is_a_change() -> None:
    """A PUT that only puts the items into another order has changed the cart."""
    cart = a_cart(NewItem("a", 1), NewItem("b", 1))
    assert replace(cart, additions(NewItem("b", 1), NewItem("a", 1)), limits=LIMITS, revision=LATER).version == 2


def test_removing_the_last_item() -> None:
    """A cart without items is a cart; without prices it has no currency, and accepts another currency."""
    cart = a_cart(priced("a", 1, 5), NewItem("b", 1))
    cart = remove_item(cart, "a", revision=LATER)
    assert (cart.currency, len(cart.items)) == (None, 1)
    cart = changed(cart, "b", ItemChange(quantity=0))
    assert (cart.items, cart.version, cart.etag) == ((), 3, "e2")
    assert added(cart, priced("a", 1, 5, "USD")).currency == "USD"


@pytest.mark.parametrize("wanted", ["b", "", "A", "~0e99c23feb092b86"])
def test_absent_item_is_not_found(wanted: str) -> None:
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
    """A cart cannot be changed in place."""
    cart = a_cart(NewItem("a", 1, {"o": "x"}))
    for thing, name in ((cart, "version"), (cart, "items"), (cart.items[0], "quantity")):
        with pytest.raises(AttributeError):
            setattr(thing, name, 7)
    assert isinstance(cart.items, tuple)
    assert isinstance(cart.items[0].options, tuple)
