"""Test the limits of requests and carts, and limits that were lowered below a cart."""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from cartsvc.carts.cart import MAX_SUBTOTAL, MAX_VERSION, Cart, Limits, derive_item_id, remove_item, replace, subtotal
from cartsvc.carts.strings import GROWN, NFC_GROWTH, PRODUCT_ID
from cartsvc.carts.validation import ItemChange, NewItem, validate_changes
from cartsvc.errors import CurrencyMismatch, InvalidRequest, LimitExceeded
from tests.support import strategies
from tests.support.carts import (
    LATER,
    LIMITS,
    a_cart,
    added,
    additions,
    bytes_of,
    changed,
    pointers,
    priced,
)

if TYPE_CHECKING:
    from collections.abc import Callable


# ---- limits: what the request alone breaks ----

ALONE: list[tuple[str, Callable[[int], NewItem], int, str]] = [
    ("max_quantity", lambda n: NewItem("a", n), 999, "/quantity"),
    ("max_options", lambda n: NewItem("a", 1, {f"o{i}": "" for i in range(n)}), 10, "/options"),
    ("max_option_name", lambda n: NewItem("a", 1, {"ü" * n: ""}), 64, "/options"),
    ("max_option_value", lambda n: NewItem("a", 1, {"a/b~c": "ü" * n}), 256, "/options/a~1b~0c"),
    ("max_unit_price", lambda n: priced("a", 1, n), 10**10, "/unit_price"),
]


@pytest.mark.parametrize(("limit", "line", "default", "pointer"), ALONE, ids=[each[0] for each in ALONE])
def test_limits_of_one_line(limit: str, line: Callable[[int], NewItem], default: int, pointer: str) -> None:
    """Each limit of one line is the contract's, can be set, allows itself and rejects one more."""
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
def test_valid_product_ids(product_id: str) -> None:
    """1 to 128 characters, printable or not."""
    assert additions(NewItem(product_id, 1)).items[0].product_id == product_id


@pytest.mark.parametrize(
    "product_id", ["", "x" * 129, "a\n", "a\nb", "\t", "\x00", "\x7f", "\x85", "\ud800", "a\udfffb"]
)
def test_invalid_product_ids(product_id: str) -> None:
    """Nothing that is too long, or has a control character, or cannot be encoded."""
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem(product_id, 1))
    assert pointers(error) == ["/product_id"]


@pytest.mark.parametrize("wrong", ["\x00", "a\x0bb", "\x1f", "\x7f", "\x80", "\x9f", "\ud800", "a\udfff", "\udc00x"])
def test_control_characters_in_options(wrong: str) -> None:
    """In its name or its value; a name that cannot be shown is not shown."""
    for options, pointer in (({wrong: "v"}, "/options"), ({"n": wrong}, "/options/n")):
        with pytest.raises(InvalidRequest) as error:
            additions(NewItem("a", 1, options))
        assert pointers(error) == [pointer]
        str(error.value).encode()


@pytest.mark.parametrize("wrong", ["\n", "a\rb", "a\t"])
def test_line_breaks_in_options(wrong: str) -> None:
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


def test_option_names_equal_in_nfc() -> None:
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


def test_a_stored_text_can_be_sent_back() -> None:
    """What NFC has made longer than its limit is allowed as it is stored, and makes the same item."""
    for character in ("\ufb2c", "\u1ec7\u0327"):
        length = 64 // len(character) * len(character)
        line = NewItem(
            character * (128 // len(character)), 1, {character * (length // len(character)): character * 128}
        )
        (item,) = additions(line).items
        assert len(item.product_id) > 128
        assert additions(NewItem(item.product_id, 1, dict(item.options))).items == (item,)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6))
def test_any_stored_text_can_be_sent_back(text: str) -> None:
    """Whatever characters were sent, up to the limit."""
    rule = PRODUCT_ID.up_to(len(text))
    assert rule.allows(text)
    assert rule.allows(strategies.nfc(text))


@pytest.mark.parametrize(
    "product_id", ["x" * 129, "\u00e9" * 129, "e\u0301" * 65, "\u05e9\u05bc\u05c1" * 129, "x" + "\u0331" * 384]
)
def test_a_long_text_is_allowed_only_as_nfc_makes_it(product_id: str) -> None:
    """Only combining characters of a text in NFC exceed the limit, and at most threefold."""
    with pytest.raises(InvalidRequest):
        additions(NewItem(product_id, 1))


def test_two_option_names_equal_in_nfc() -> None:
    """The second one is the fault, with its own code."""
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("a", 1, {"\u00e9": "1", "e\u0301": "2"}))
    assert [(fault.pointer, fault.code) for fault in error.value.faults] == [("/options/e\u0301", "duplicate")]


def test_faults_have_codes_and_numbers() -> None:
    """A page words its own messages: it gets the limit, the value and the currency, each where it applies."""
    line = NewItem("", 1000, {"x" * 65: "", "\0": "", "n": "x" * 257, "m": "\0"}, -1, "eur", "/items/3")
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("a", 0, unit_price=10**10 + 1, pointer="/items/2"), line, NewItem("b", 1, currency="USD"))
    assert [(fault.pointer, fault.code, fault.limit, fault.value, fault.currency) for fault in error.value.faults] == [
        ("/items/2/quantity", "invalid_value", UNSET, 0, UNSET),
        ("/items/2/unit_price", "max_unit_price", 10**10, 10**10 + 1, UNSET),
        ("/items/2/currency", "currency_required", UNSET, UNSET, UNSET),
        ("/items/3/product_id", "invalid_value", UNSET, UNSET, UNSET),
        ("/items/3/quantity", "max_quantity", 999, 1000, UNSET),
        ("/items/3/options", "max_option_name", 64, 65, UNSET),
        ("/items/3/options", "invalid_value", UNSET, UNSET, UNSET),
        ("/items/3/options/n", "max_option_value", 256, 257, UNSET),
        ("/items/3/options/m", "invalid_value", UNSET, UNSET, UNSET),
        ("/items/3/unit_price", "invalid_value", UNSET, -1, UNSET),
        ("/items/3/currency", "invalid_value", UNSET, UNSET, UNSET),
        ("/unit_price", "currency_without_price", UNSET, UNSET, UNSET),
        ("/currency", "currency_mismatch", UNSET, UNSET, "eur"),
    ]


def test_limits_of_the_whole_request_are_named_beside_other_faults() -> None:
    """The items that are right by themselves are added up all the same."""
    lines = [
        NewItem("b", 500, pointer="/items/0"),
        NewItem("a", 0, pointer="/items/1"),
        NewItem("b", 500, pointer="/items/2"),
    ]
    with pytest.raises(InvalidRequest) as error:
        additions(*lines)
    assert [(fault.pointer, fault.code, fault.item_id) for fault in error.value.faults] == [
        ("/items/1/quantity", "invalid_value", UNSET),
        ("/items/2/quantity", "max_quantity", "b"),
    ]


def test_no_character_grows_more_than_threefold() -> None:
    """What is stored is bounded: no character of Unicode becomes more than NFC_GROWTH ones."""
    most = max(len(strategies.nfc(chr(code))) for code in range(sys.maxunicode + 1))
    assert most == NFC_GROWTH


def test_what_grows_is_followed_by_characters_that_do_not_count() -> None:
    """So a text in NFC has no more characters that count than the text that was sent."""
    added = {each for code in range(sys.maxunicode + 1) for each in strategies.nfc(chr(code))[1:]}
    assert {each for each in added if not unicodedata.combining(each)} == set(GROWN)


@pytest.mark.parametrize("version", [1, MAX_VERSION - 2, MAX_VERSION - 1, MAX_VERSION])
def test_version_stops_at_its_maximum(version: int) -> None:
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


@pytest.mark.parametrize("currency", ["", "eur", "EU", "EURO", "EÜR", "E1R", "EUR\n", " EUR", "E R", "\ud800UR"])
def test_a_currency_is_three_capital_letters(currency: str) -> None:
    """On a line, for the whole request, and in a change."""
    with pytest.raises(InvalidRequest) as error:
        additions(priced("a", 1, 5, currency, pointer="/items/0"))
    assert pointers(error) == ["/items/0/currency"]
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("a", 1), currency=currency)
    assert pointers(error) == ["/currency"]
    with pytest.raises(InvalidRequest) as error:
        validate_changes([ItemChange(unit_price=5, currency=currency)], limits=LIMITS)
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
def test_invalid_lines(line: NewItem, expected: list[str]) -> None:
    """No quantity below 1, no negative price, no price without its currency, no currency without its price."""
    with pytest.raises(InvalidRequest) as error:
        additions(line)
    assert pointers(error) == expected


def test_currency_of_the_request() -> None:
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
    """2^53-1 exactly is a subtotal, one more is rejected; unpriced items do not hide the sum."""
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
def test_invalid_changes(change: ItemChange, expected: list[str]) -> None:
    """An empty or wrong change is rejected; all its faults are listed at once."""
    with pytest.raises(InvalidRequest) as error:
        validate_changes([change], limits=LIMITS)
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
def test_valid_changes(change: ItemChange) -> None:
    """Both ends of each range."""
    validate_changes([change], limits=LIMITS)


# ---- limits: what the request breaks together with the cart ----


def test_quantities_add_up_to_the_limit() -> None:
    """999 in the cart are allowed, 1000 are rejected."""
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
    """2^53-1 with the cart is allowed, one more is rejected, by adding and by setting."""
    limits = Limits(max_unit_price=MAX_SUBTOTAL)
    cart = a_cart(priced("a", 1, MAX_SUBTOTAL - 5), NewItem("b", 1), limits=limits)
    full = added(cart, priced("c", 5, 1), limits=limits)
    assert subtotal(remove_item(full, "b", revision=LATER).items) == MAX_SUBTOTAL
    rejected_calls: list[Callable[[], object]] = [
        lambda: added(cart, priced("c", 6, 1), limits=limits),
        lambda: added(full, NewItem("c", 1), limits=limits),
        lambda: changed(full, "b", ItemChange(unit_price=1, currency="EUR"), limits=limits),
        lambda: changed(full, "c", ItemChange(quantity=6), limits=limits),
        lambda: changed(full, "a", ItemChange(quantity=2), limits=limits),
    ]
    for rejected in rejected_calls:
        with pytest.raises(LimitExceeded) as error:
            rejected()
        assert pointers(error) == [""]


def test_the_bytes_add_up_to_the_limit() -> None:
    """As many bytes as the limit are allowed, one more is rejected, by adding and by setting."""
    cart = a_cart(NewItem("a", 1), NewItem("b", 1))
    fuller = added(cart, NewItem("c" * 50, 1))
    limits = Limits(max_cart_bytes=bytes_of(*fuller.items))
    assert added(cart, NewItem("c" * 50, 1), limits=limits) == fuller
    rejected_calls: list[Callable[[], object]] = [
        lambda: added(cart, NewItem("c" * 51, 1), limits=limits),
        lambda: added(fuller, NewItem("a", 299), limits=limits),
        lambda: changed(fuller, "a", ItemChange(quantity=300), limits=limits),  # takes two bytes more than 1
    ]
    for rejected in rejected_calls:
        with pytest.raises(LimitExceeded) as error:
            rejected()
        assert pointers(error) == [""]


def test_a_cart_has_one_currency() -> None:
    """A second one is rejected by adding and by setting, also where the item had no price; free things count too."""
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


def test_pointer_of_a_second_currency() -> None:
    """Also when a later line speaks of the same item without a price."""
    cart = a_cart(priced("a", 1, 5))
    with pytest.raises(CurrencyMismatch) as error:
        added(cart, priced("b", 1, 5, "USD", pointer="/items/0"), NewItem("b", 1, pointer="/items/1"))
    assert pointers(error) == ["/items/0/currency"]


def test_several_limits_are_named_at_once() -> None:
    """The cart's rejected_calls are all named too."""
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
        lambda: replace(OVER, additions(NewItem("a", 100), limits=LOWER), limits=LOWER, revision=LATER),
    ],
)
def test_cart_over_a_lowered_limit_is_usable(change: Callable[[], Cart]) -> None:
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
def test_cart_over_a_lowered_limit_cannot_grow(change: Callable[[], Cart], expected: list[str]) -> None:
    """What would grow it further past the limit is rejected."""
    with pytest.raises(LimitExceeded) as error:
        change()
    assert pointers(error) == expected
