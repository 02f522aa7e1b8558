"""Tests that what a response shows can be sent back, and that several items change at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import werkzeug.test

from tests.support.api_client import cart_of, make_client, pointers, problem, state

if TYPE_CHECKING:
    from tests.support.api_client import Client

TEE = {
    "product_id": "tee",
    "quantity": 2,
    "options": {"size": "M"},
    "unit_price": 1999,
    "currency": "EUR",
    "metadata": {"print": "Hi"},
}
BARE = {"product_id": "caf\u00e9 \ufb2c", "quantity": 1}


@pytest.fixture
def cart(client: Client) -> Client:
    """A client, and alice's cart with an item with everything and one without a price."""
    client.put("/cart/alice", json={"items": [TEE, BARE], "metadata": {"note": "x"}})
    return client


def test_an_item_can_be_sent_back_to_every_call(cart: Client) -> None:
    """As GET shows it: to set it, to change it, to put it, and to put it back after it was removed."""
    before = state(cart)
    whole, items = before[1], before[1]["items"]
    for item in items:
        path = f"/cart/alice/items/{item['item_id']}"
        assert cart.patch(path, json=item).json == whole
        assert cart.get(path).json == item
    assert cart.patch("/cart/alice/items", json={"items": items}).json == whole
    assert cart.put("/cart/alice", json=whole).json == whole
    assert state(cart) == before
    for item in items:
        cart.delete(f"/cart/alice/items/{item['item_id']}")
        back = cart.post("/cart/alice", json=item).json["items"][-1]
        assert back | {"added_at": None} == item | {"added_at": None}
    cart.delete("/cart/alice")
    added = cart.post("/cart/alice/items", json={"items": items})
    assert [each | {"added_at": None} for each in added.json["items"]] == [each | {"added_at": None} for each in items]


def test_a_merged_cart_can_be_put_back(cart: Client) -> None:
    """Its adjustments are ignored."""
    merged = cart.post("/cart/bob/merge", json={"from_user_id": "alice"})
    assert merged.json["adjustments"] == []
    assert cart.put("/cart/bob", json=merged.json).json == cart_of(merged)


def test_an_item_has_the_currency_of_its_price(cart: Client) -> None:
    """Null without a price, also in a cart that has one."""
    assert [item["currency"] for item in cart.get("/cart/alice").json["items"]] == ["EUR", None]


def test_the_top_level_currency_of_several_items(client: Client) -> None:
    """POST .../items takes it as PUT does: for items that specify none."""
    items = [{"product_id": "a", "quantity": 1, "unit_price": 5}, {"product_id": "b", "quantity": 1}]
    response = client.post("/cart/alice/items", json={"items": items, "currency": "EUR"})
    assert (response.status_code, response.json["currency"]) == (200, "EUR")
    refused = client.post("/cart/alice/items", json={"items": [items[0] | {"currency": "USD"}], "currency": "EUR"})
    assert (problem(refused), pointers(refused)) == ((422, "invalid-request"), ["/items/0/currency"])
    assert refused.json["errors"][0]["code"] == "currency_mismatch"


def test_a_text_at_its_limit_can_be_sent_back(client: Client) -> None:
    """Although NFC has made it longer than the limit."""
    long = {"product_id": "\ufb2c" * 128, "quantity": 1, "options": {"\ufb2c" * 64: "\ufb2c" * 256}}
    shown = client.post("/cart/alice", json=long).json["items"][0]
    assert len(shown["product_id"]) == 3 * 128
    # The document states the limit of what clients choose, so the checking client would not send this.
    response = werkzeug.test.Client(client.application).put("/cart/alice", json={"items": [shown]})
    assert (response.status_code, response.json["items"]) == (200, [shown])


# ---- several items at once ----


def test_several_items_change_at_once(cart: Client) -> None:
    """Quantities, prices, metadata, variants and removals, in one version; a retry with its key is a replay."""
    tee, bare = (item["item_id"] for item in cart.get("/cart/alice").json["items"])
    changes = [
        {"item_id": tee, "quantity": 5, "options": {"size": "L"}, "metadata": {}},
        {"item_id": bare, "quantity": 0},
    ]
    headers = {"Idempotency-Key": "k", "If-Match": cart.get("/cart/alice").headers["ETag"]}
    response = cart.patch("/cart/alice/items", json={"items": changes}, headers=headers)
    assert (response.status_code, response.json["version"]) == (200, 2)
    (item,) = response.json["items"]
    assert (item["quantity"], item["options"], item["metadata"], item["unit_price"]) == (5, {"size": "L"}, {}, 1999)
    assert item["item_id"] != tee
    again = cart.patch("/cart/alice/items", json={"items": changes}, headers=headers)
    assert (again.headers["Idempotency-Replayed"], again.json) == ("true", response.json)


@pytest.mark.parametrize(
    ("changes", "expected", "found"),
    [
        ([], (422, "invalid-request"), [("/items", "invalid_value")]),
        ([{"item_id": "a", "quantity": 1}] * 2, (422, "invalid-request"), [("/items/1/item_id", "duplicate")]),
        ([{"quantity": 1}], (422, "invalid-request"), [("/items/0/item_id", "required")]),
        (
            [{"item_id": "a", "zap": 1, "quantity": -1}],
            (422, "invalid-request"),
            [("/items/0/zap", "unknown_member"), ("/items/0/quantity", "invalid_value")],
        ),
        ([{"item_id": "a"}], (422, "invalid-request"), [("/items/0", "required")]),
        (
            [{"item_id": "x", "quantity": 1}, {"item_id": "y", "quantity": 1}],
            (404, "item-not-found"),
            [("/items/0/item_id", "invalid_value"), ("/items/1/item_id", "invalid_value")],
        ),
        (
            [{"item_id": "a", "quantity": 1, "product_id": "b"}],
            (422, "invalid-request"),
            [("/items/0/product_id", "immutable")],
        ),
        (
            [{"item_id": "a", "unit_price": 1, "currency": "USD"}],
            (409, "currency-mismatch"),
            [("/items/0/currency", "currency_mismatch")],
        ),
        (
            [{"item_id": f"p{number}", "quantity": 1} for number in range(101)],
            (422, "invalid-request"),
            [("/items", "max_lines")],
        ),
    ],
)
def test_several_changes_are_all_or_none(client: Client, changes: object, expected: object, found: object) -> None:
    """Each fault has its place and its code, and the cart is as before."""
    client.put("/cart/alice", json={"items": [{"product_id": "a", "quantity": 7, "unit_price": 5, "currency": "EUR"}]})
    before = state(client)
    refused = client.patch("/cart/alice/items", json={"items": changes})
    assert problem(refused) == expected
    assert [(fault["pointer"], fault["code"]) for fault in refused.json["errors"]] == found
    assert state(client) == before


def test_changes_need_a_cart(client: Client) -> None:
    """404, as for one item."""
    refused = client.patch("/cart/alice/items", json={"items": [{"item_id": "a", "quantity": 1}]})
    assert problem(refused) == (404, "cart-not-found")


# ---- all faults at once ----


def test_types_unknown_members_and_values_are_rejected_together(client: Client) -> None:
    """One response names all that is wrong, each with its code; a limit has its number and the value its own."""
    body = {
        "items": [
            {"product_id": "a", "quantity": 1000, "colour": "red"},
            {"product_id": "", "quantity": "3", "options": {"size": 1, "n": "\0"}, "unit_price": 5},
            7,
            {"quantity": 10**40, "unit_price": None, "currency": "EUR"},
        ],
        "currency": 3,
        "metadata": {"": ""},
    }
    refused = client.put("/cart/alice", json=body)
    assert problem(refused) == (422, "invalid-request")
    faults = [{name: each[name] for name in each if name != "detail"} for each in refused.json["errors"]]
    assert faults == [
        {"pointer": "/items/0/colour", "code": "unknown_member"},
        {"pointer": "/items/1/quantity", "code": "wrong_type"},
        {"pointer": "/items/1/options/size", "code": "wrong_type"},
        {"pointer": "/items/2", "code": "wrong_type"},
        {"pointer": "/items/3/product_id", "code": "required"},
        {"pointer": "/currency", "code": "wrong_type"},
        {"pointer": "/items/0/quantity", "code": "max_quantity", "limit": 999, "value": 1000},
        {"pointer": "/items/1/product_id", "code": "invalid_value"},
        {"pointer": "/items/1/options/n", "code": "invalid_value"},
        {"pointer": "/items/3/quantity", "code": "max_quantity", "limit": 999},  # a number that no client reads
        {"pointer": "/items/3/unit_price", "code": "currency_without_price"},
        {"pointer": "/metadata", "code": "invalid_value"},
    ]


def test_a_fault_in_the_path(client: Client) -> None:
    """It is told apart from the body, whose members have the same names."""
    (fault,) = client.put("/cart/a%20b", json={"items": []}).json["errors"]
    assert (fault["pointer"], fault["in"], fault["code"]) == ("/user_id", "path", "invalid_value")
    assert "in" not in client.post("/cart/alice", json={}).json["errors"][0]


# ---- order of responses ----


def test_times_have_milliseconds() -> None:
    """So that a cart made again after it was deleted is newer than the one before, whatever its version."""
    client = make_client()
    first = client.post("/cart/alice", json=BARE).json
    client.post("/cart/alice", json=BARE)
    client.delete("/cart/alice")
    second = client.post("/cart/alice", json=BARE).json
    assert [len(cart[name]) for cart in (first, second) for name in ("created_at", "updated_at", "expires_at")] == [
        24
    ] * 6
    assert (first["created_at"], 2) < (second["created_at"], second["version"])
