"""Test changes of items: several at once, other variants of a product, and metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from cartsvc.carts.cart import Cart, Limits, derive_item_id, replace, set_metadata
from cartsvc.carts.update import check_items, update_items
from cartsvc.carts.validation import MAX_LINES, ItemChange, NewItem, validate_changes
from cartsvc.errors import CurrencyMismatch, InvalidRequest, ItemNotFound, LimitExceeded
from tests.support.carts import LATER, LIMITS, a_cart, added, additions, bytes_of, pointers, priced

if TYPE_CHECKING:
    from cartsvc.errors import CartsvcError

M, L, XL = ({"size": size} for size in ("M", "L", "XL"))


def tee(options: dict[str, str]) -> str:
    """Return the item_id of this variant."""
    return derive_item_id("tee", tuple(options.items()))


def change(item_id: str, **values: object) -> ItemChange:
    return structs.replace(ItemChange(item_id=item_id), **values)


def updated(cart: Cart, *changes: ItemChange, limits: Limits = LIMITS) -> Cart:
    """Return the cart after these changes, at LATER."""
    numbered = [structs.replace(each, pointer=f"/items/{number}") for number, each in enumerate(changes)]
    validated = validate_changes(numbered, limits=limits)
    check_items(cart, validated)
    return update_items(cart, validated, limits=limits, revision=LATER)


def faults_of(cart: Cart, error: type[CartsvcError], *changes: ItemChange, limits: Limits = LIMITS) -> list[object]:
    """Return pointer and code of each fault with which these changes are rejected."""
    with pytest.raises(error) as raised:
        updated(cart, *changes, limits=limits)
    faults = raised.value.faults  # type: ignore[attr-defined]
    return [(fault.pointer, fault.code) for fault in faults]


def held(cart: Cart) -> list[tuple[str, str, int, int | None]]:
    return [(i.product_id, dict(i.options).get("size", ""), i.quantity, i.unit_price) for i in cart.items]


# ---- several at once ----


def test_several_changes_are_one() -> None:
    """Each item has its own, one is removed, the rest stays; the cart has one new version."""
    cart = a_cart(priced("a", 1, 5), NewItem("b", 2), NewItem("c", 3), NewItem("d", 4))
    after = updated(
        cart,
        change("d", quantity=0),
        change("a", quantity=7),
        change("b", unit_price=3, currency="EUR", metadata={"note": "x"}),
    )
    assert held(after) == [("a", "", 7, 5), ("b", "", 2, 3), ("c", "", 3, None)]
    assert [item.metadata for item in after.items] == [(), (("note", "x"),), ()]
    assert after.version == cart.version + 1
    assert after.items[2] is cart.items[2]


def test_an_unknown_item_rejects_them_all() -> None:
    """Each unknown id is named with its place."""
    cart = a_cart(NewItem("a", 1))
    with pytest.raises(ItemNotFound) as error:
        updated(cart, change("a", quantity=2), change("x", quantity=1), change("y", quantity=0))
    assert [(each.pointer, each.item_id) for each in error.value.faults] == [
        ("/items/1/item_id", "x"),
        ("/items/2/item_id", "y"),
    ]


def test_an_item_is_changed_once_by_a_request() -> None:
    """Which of two changes counts would be a guess."""
    cart = a_cart(NewItem("a", 1), NewItem("b", 1))
    changes = [change("a", quantity=2), change("b", quantity=2), change("a", quantity=3)]
    assert faults_of(cart, InvalidRequest, *changes) == [("/items/2/item_id", "duplicate")]


@pytest.mark.parametrize(("number", "codes"), [(0, ["invalid_value"]), (101, ["max_lines"])])
def test_a_request_has_1_to_100_changes(number: int, codes: list[str]) -> None:
    """The fault is at the list."""
    assert MAX_LINES == 100
    cart = a_cart(NewItem("a", 1))
    changes = [change(f"p{each}", quantity=1) for each in range(number)]
    assert faults_of(cart, InvalidRequest, *changes) == [("/items", code) for code in codes]


def test_every_fault_of_every_change_is_named() -> None:
    """All at once, each with its code."""
    cart = a_cart(NewItem("a", 1))
    changes = [
        change("a", quantity=1000),
        change("b", quantity=-1, unit_price=5),
        change("c"),
        change("d", currency="EUR", quantity=1),
        change("e", unit_price=1, currency="EUR"),
        change("f", unit_price=10**10 + 1, currency="USD", options={"": "x"}, metadata={"n": "x" * 501}),
    ]
    assert faults_of(cart, InvalidRequest, *changes) == [
        ("/items/0/quantity", "max_quantity"),
        ("/items/1/currency", "currency_required"),
        ("/items/1/quantity", "invalid_value"),
        ("/items/2", "required"),
        ("/items/3/unit_price", "currency_without_price"),
        ("/items/5/unit_price", "max_unit_price"),
        ("/items/5/options", "invalid_value"),
        ("/items/5/metadata/n", "max_metadata_value"),
        ("/items/5/currency", "currency_mismatch"),
    ]


def test_prices_have_the_currency_of_the_cart() -> None:
    """The fault has the cart's currency; a price of an item that is removed does not count."""
    cart = a_cart(priced("a", 1, 5), NewItem("b", 1))
    dollars = {"unit_price": 1, "currency": "USD"}
    with pytest.raises(CurrencyMismatch) as error:
        updated(cart, change("a", quantity=2), change("b", **dollars))
    (fault,) = error.value.faults
    assert (fault.pointer, fault.code, fault.currency) == ("/items/1/currency", "currency_mismatch", "EUR")
    assert held(updated(cart, change("b", quantity=0, **dollars))) == [("a", "", 1, 5)]


# ---- the product ----


def test_the_product_of_an_item_stays() -> None:
    """Its own product may be given, in any Unicode form; another one is a fault."""
    cart = a_cart(NewItem("caf\u00e9", 1))
    item_id = cart.items[0].item_id
    for own in ("caf\u00e9", "cafe\u0301"):
        assert updated(cart, change(item_id, quantity=2, product_id=own)).items[0].quantity == 2
    assert faults_of(cart, InvalidRequest, change(item_id, quantity=2, product_id="cafe")) == [
        ("/items/0/product_id", "immutable")
    ]


# ---- another variant ----


def test_a_variant_takes_the_place_of_the_other() -> None:
    """With the id of its options; all else is as it was, and the options are stored in NFC."""
    cart = a_cart(NewItem("a", 1), priced("tee", 2, 5, options=M, metadata={"print": "Hi"}), NewItem("b", 1))
    after = updated(cart, change(tee(M), options={"gro\u0308\u00dfe": "L"}))
    assert [item.product_id for item in after.items] == ["a", "tee", "b"]
    moved = structs.replace(
        cart.items[1],
        item_id=derive_item_id("tee", (("gr\u00f6\u00dfe", "L"),)),
        options=(("gr\u00f6\u00dfe", "L"),),
    )
    assert after.items[1] == moved


def test_no_options_are_a_variant_too() -> None:
    """An empty object takes the options away; the item's own options change nothing."""
    cart = a_cart(NewItem("tee", 2, M))
    assert updated(cart, change(tee(M), options={})).items[0].item_id == "tee"
    assert updated(cart, change(tee(M), options=M)) is cart


@pytest.mark.parametrize("moved_first", [True, False])
def test_equal_variants_are_added_up(moved_first: bool) -> None:  # noqa: FBT001 - a parameter
    """At the earlier place; the item that had this id keeps its price, its time, and its members of metadata."""
    lines = [
        priced("tee", 2, 5, options=M, metadata={"a": "1", "b": "1"}),
        priced("tee", 3, 7, options=L, metadata={"b": "2"}),
    ]
    cart = added(
        a_cart(*(lines[:1] if moved_first else lines[1:]), NewItem("z", 1)), *(lines[::-1] if moved_first else lines)
    )
    cart = updated(cart, change(tee(M), quantity=2), change(tee(L), quantity=3))
    own = next(item for item in cart.items if item.item_id == tee(L))
    after = updated(cart, change(tee(M), options=L))
    assert held(after) == [("tee", "L", 5, 7), ("z", "", 1, None)]
    assert (after.items[0].added_at, after.items[0].metadata) == (own.added_at, (("a", "1"), ("b", "2")))


def test_values_of_the_change_win_over_those_of_the_equal_variant() -> None:
    """A new quantity is added; a new price and new metadata replace what the other one had."""
    cart = a_cart(priced("tee", 2, 5, options=M), priced("tee", 3, 7, options=L, metadata={"b": "2"}))
    values = {"options": L, "quantity": 1, "unit_price": 9, "currency": "EUR", "metadata": {"c": "3"}}
    after = updated(cart, change(tee(M), **values))
    assert held(after) == [("tee", "L", 4, 9)]
    assert after.items[0].metadata == (("c", "3"),)


def test_variants_can_be_exchanged() -> None:
    """Changes apply to the cart as it is: none of them meets what another one makes."""
    cart = a_cart(NewItem("tee", 2, M), NewItem("tee", 3, L), NewItem("tee", 4, XL))
    after = updated(cart, change(tee(M), options=L), change(tee(L), options=M), change(tee(XL), quantity=0))
    assert held(after) == [("tee", "L", 2, None), ("tee", "M", 3, None)]


def test_a_removed_variant_is_not_added() -> None:
    """The item that moves there is alone."""
    cart = a_cart(NewItem("tee", 2, M), NewItem("tee", 3, L))
    assert held(updated(cart, change(tee(M), options=L), change(tee(L), quantity=0))) == [("tee", "L", 2, None)]


def test_equal_variants_keep_the_limits() -> None:
    """The quantity is that of both, and so are the members of metadata."""
    members = [{f"{letter}{number}": "" for number in range(11)} for letter in "ab"]
    cart = a_cart(NewItem("tee", 500, M), NewItem("tee", 500, L))
    assert faults_of(cart, LimitExceeded, change(tee(M), options=L)) == [("/items/0/quantity", "max_quantity")]
    cart = a_cart(NewItem("tee", 1, M, metadata=members[0]), NewItem("tee", 1, L, metadata=members[1]))
    assert faults_of(cart, LimitExceeded, change(tee(M), options=L)) == [("/items/0/metadata", "max_metadata")]


# ---- metadata ----


def test_metadata_is_no_part_of_identity() -> None:
    """Equal items with other metadata are one item: given metadata replaces the earlier, none keeps it."""
    cart = a_cart(NewItem("a", 1, metadata={"z": "last\r\n\tline", "a": "e\u0301"}))
    (item,) = cart.items
    assert (item.item_id, item.metadata) == ("a", (("a", "e\u0301"), ("z", "last\r\n\tline")))
    for metadata, expected in ((None, item.metadata), ({}, ()), ({"b": ""}, (("b", ""),))):
        (after,) = added(cart, NewItem("a", 1, metadata=metadata)).items
        assert (after.quantity, after.metadata) == (2, expected)


def test_metadata_of_equal_lines() -> None:
    """The last line of a request that gives metadata counts."""
    lines = [NewItem("a", 1, metadata=each) for each in ({"n": "1"}, {"n": "2"}, None)]
    assert [(item.quantity, item.metadata) for item in additions(*lines).items] == [(3, (("n", "2"),))]


ALONE = [
    ("max_metadata", lambda n: {f"n{each}": "" for each in range(n)}, 20, "/metadata", "max_metadata"),
    ("max_metadata_value", lambda n: {"a/b": "\u00fc" * n}, 500, "/metadata/a~1b", "max_metadata_value"),
]


@pytest.mark.parametrize(("limit", "metadata", "default", "pointer", "code"), ALONE, ids=[each[0] for each in ALONE])
def test_limits_of_metadata(limit: str, metadata: object, default: int, pointer: str, code: str) -> None:
    """Each limit is the contract's, can be set, allows itself and rejects one more, with both numbers."""
    for limits, most in ((LIMITS, default), (Limits(**{limit: 3}), 3)):
        assert getattr(limits, limit) == most
        additions(NewItem("a", 1, metadata=metadata(most)), limits=limits)
        with pytest.raises(InvalidRequest) as error:
            additions(NewItem("a", 1, metadata=metadata(most + 1), pointer="/items/7"), limits=limits)
        (fault,) = error.value.faults
        assert (fault.pointer, fault.code, fault.limit, fault.value) == ("/items/7" + pointer, code, most, most + 1)


@pytest.mark.parametrize(
    ("metadata", "pointer"),
    [({"": "v"}, ""), ({"x" * 65: "v"}, ""), ({"a\n": "v"}, ""), ({"n": "\0"}, "/n"), ({"n": "\ud800"}, "/n")],
)
def test_texts_of_metadata(metadata: dict[str, str], pointer: str) -> None:
    """Names have 1 to 64 characters on one line; values have no control characters but tabs and line breaks."""
    with pytest.raises(InvalidRequest) as error:
        additions(NewItem("a", 1, metadata=metadata))
    assert pointers(error) == ["/metadata" + pointer]


def test_metadata_of_the_cart() -> None:
    """It replaces the earlier; the same again changes nothing; the items stay."""
    cart = a_cart(NewItem("a", 1))
    after = set_metadata(cart, (("note", "ring twice"),), limits=LIMITS, revision=LATER)
    assert (after.metadata, after.items, after.version) == ((("note", "ring twice"),), cart.items, 2)
    assert set_metadata(after, after.metadata, limits=LIMITS, revision=LATER) is after
    assert added(after, NewItem("a", 1)).metadata == after.metadata


def test_metadata_takes_room_in_the_cart() -> None:
    """That of an item and that of the cart both count towards the bytes of a cart."""
    cart = a_cart(NewItem("a", 1))
    pairs = (("note", "x" * 100),)
    exact = bytes_of(*cart.items) + len(b"\x91\x92") + len(b"\xa4note") + len(b"\xd9\x64") + 100
    set_metadata(cart, pairs, limits=Limits(max_cart_bytes=exact), revision=LATER)
    with pytest.raises(LimitExceeded) as error:
        set_metadata(cart, pairs, limits=Limits(max_cart_bytes=exact - 1), revision=LATER)
    assert [(each.code, each.limit, each.value) for each in error.value.faults] == [
        ("max_cart_bytes", exact - 1, exact)
    ]
    described = set_metadata(cart, pairs, limits=LIMITS, revision=LATER)
    with pytest.raises(LimitExceeded):
        replace(
            described, additions(NewItem("a", 1), NewItem("b", 1)), limits=Limits(max_cart_bytes=exact), revision=LATER
        )
    with pytest.raises(LimitExceeded):
        replace(
            a_cart(NewItem("a", 1, metadata=dict(pairs))),
            additions(NewItem("a", 1), NewItem("b", 1)),
            limits=Limits(max_cart_bytes=exact),
            revision=LATER,
        )
    with pytest.raises(LimitExceeded):
        added(described, NewItem("b", 1), limits=Limits(max_cart_bytes=exact))
    with pytest.raises(LimitExceeded):
        updated(cart, change("a", metadata=dict(pairs)), limits=Limits(max_cart_bytes=80))
