"""Tests of the operations on whole carts: their responses, and what the cart contains afterwards."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.api_client import make_client, pointers, problem
from tests.support.memory_store import MemoryStore

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from tests.support.api_client import Client
    from tests.support.clock import FakeClock

DAY = 86_400_000  # milliseconds
SKU = {"product_id": "sku-1", "quantity": 2}
PRICED = SKU | {"unit_price": 1999, "currency": "EUR"}


def test_an_absent_cart_reads_as_one_without_items(client: Client) -> None:
    """Version 0, no items, null times, no ETag; what is true of no items at all is the same as in an empty cart."""
    response = client.get("/cart/alice")
    assert response.status_code == 200
    assert response.json == {
        "user_id": "alice",
        "version": 0,
        "items": [],
        "item_count": 0,
        "total_quantity": 0,
        "currency": None,
        "subtotal": 0,
        "metadata": {},
        "created_at": None,
        "updated_at": None,
        "expires_at": None,
    }
    assert "ETag" not in response.headers


def test_reading_creates_nothing(clock: FakeClock) -> None:
    """However a cart or an item is read, the store stays as empty as it was."""
    store = MemoryStore(clock=clock, limit=2**20)
    client = make_client(store=store, clock=clock)
    for path in ("/cart/alice", "/cart/alice/items/sku-1"):
        client.get(path)
        client.head(path)
        client.get(path, headers={"If-None-Match": "*"})
    assert list(store.scan()) == []
    assert client.put("/cart/alice", json={"items": []}).status_code == 201


def test_adding_makes_the_cart(clock: FakeClock) -> None:
    """The first POST returns 200 with the whole cart."""
    client = make_client(clock=clock)
    response = client.post("/cart/alice", json=PRICED | {"options": {"size": "M", "colour": "red"}})
    assert response.status_code == 200
    assert response.json == {
        "user_id": "alice",
        "version": 1,
        "items": [
            {
                "item_id": "~" + _digest("sku-1", [["colour", "red"], ["size", "M"]]),
                "product_id": "sku-1",
                "options": {"colour": "red", "size": "M"},
                "quantity": 2,
                "unit_price": 1999,
                "currency": "EUR",
                "line_total": 3998,
                "metadata": {},
                "added_at": "2026-01-02T03:04:05.678Z",
            }
        ],
        "item_count": 1,
        "total_quantity": 2,
        "currency": "EUR",
        "subtotal": 3998,
        "metadata": {},
        "created_at": "2026-01-02T03:04:05.678Z",
        "updated_at": "2026-01-02T03:04:05.678Z",
        "expires_at": "2026-02-01T03:04:05.678Z",
    }
    assert client.get("/cart/alice").json == response.json


def test_like_items_add_up(client: Client) -> None:
    """The same product with the same options, in whatever order they stand, is one item; with others it is another."""
    red = SKU | {"options": {"colour": "red", "size": "M"}}
    client.post("/cart/alice", json=red)
    client.post("/cart/alice", json=SKU)
    client.post("/cart/alice", json=SKU | {"options": {"size": "M", "colour": "red"}, "quantity": 3})
    assert _items(client, "options", "quantity") == [({"colour": "red", "size": "M"}, 5), ({}, 2)]


def test_no_options_are_no_options(client: Client) -> None:
    """Options that are left out, null and empty say the same."""
    for options in ({}, {"options": None}, {"options": {}}):
        client.post("/cart/alice", json=SKU | options)
    assert _items(client, "item_id", "quantity") == [("sku-1", 6)]


def test_items_keep_the_order_of_their_first_adding(client: Client) -> None:
    """Adding more of an item, or setting it, does not move it."""
    for product in "cab":
        client.post("/cart/alice", json={"product_id": product, "quantity": 1})
    client.post("/cart/alice/items", json={"items": [{"product_id": each, "quantity": 1} for each in "bad"]})
    client.patch("/cart/alice/items/c", json={"quantity": 9})
    assert _items(client, "product_id", "quantity") == [("c", 9), ("a", 2), ("b", 2), ("d", 1)]


def test_the_last_stated_price_wins(client: Client) -> None:
    """Of two adds, and of two lines in one request; a line without a price leaves the one there is."""
    client.post("/cart/alice", json=PRICED)
    client.post("/cart/alice", json=PRICED | {"unit_price": 5})
    assert client.post("/cart/alice", json=SKU).json["subtotal"] == 6 * 5
    lines = [PRICED | {"unit_price": 7}, PRICED | {"unit_price": 8}, SKU]
    assert client.post("/cart/alice/items", json={"items": lines}).json["subtotal"] == 12 * 8


def test_a_subtotal_needs_every_price(client: Client) -> None:
    """One item without a price makes the subtotal null; the currency stays."""
    client.post("/cart/alice", json=PRICED)
    cart = client.post("/cart/alice", json={"product_id": "free", "quantity": 1}).json
    assert (cart["subtotal"], cart["currency"]) == (None, "EUR")
    cart = client.patch("/cart/alice/items/free", json={"unit_price": 0, "currency": "EUR"}).json
    assert (cart["subtotal"], cart["currency"]) == (3998, "EUR")


def test_a_cart_without_prices_takes_any_currency(client: Client) -> None:
    """The last price that goes takes the currency with it."""
    client.post("/cart/alice", json=PRICED)
    assert client.delete("/cart/alice/items/sku-1").json["currency"] is None
    assert client.post("/cart/alice", json=PRICED | {"currency": "USD"}).json["currency"] == "USD"


@pytest.mark.parametrize(
    ("product_id", "options", "item_id"),
    [
        ("sku-1", {}, "sku-1"),
        ("a" * 128, {}, "a" * 128),
        ("A.b_c-9", {}, "A.b_c-9"),
        (".", {}, None),
        ("..", {}, None),
        ("...", {}, "..."),
        ("with space", {}, None),
        ("a/b", {}, None),
        ("a~b", {}, None),
        ("größe", {}, None),
        ("🛒", {"größe": "🛒"}, None),
        ("sku-1", {"b": "2", "a": "1"}, None),
        ("sku-1", {'quo"te': "back\\slash"}, None),
    ],
)
def test_item_ids_are_deterministic(
    client: Client, product_id: str, options: dict[str, str], item_id: str | None
) -> None:
    """The product_id itself if it can be used in a URL as it is, otherwise ~ and 16 digits of the documented hash."""
    expected = item_id or "~" + _digest(product_id, [[name, options[name]] for name in sorted(options)])
    item = {"product_id": product_id, "options": options, "quantity": 1}
    assert client.post("/cart/alice", json=item).json["items"][0]["item_id"] == expected
    assert client.get(f"/cart/alice/items/{expected}").json["product_id"] == product_id


def test_put_makes_a_cart_and_then_replaces_it(client: Client) -> None:
    """201 when it was absent, otherwise 200; the cart holds exactly these items in this order."""
    first = client.put("/cart/alice", json={"items": [{"product_id": each, "quantity": 1} for each in "abc"]})
    assert (first.status_code, first.json["version"]) == (201, 1)
    second = client.put("/cart/alice", json={"items": [{"product_id": each, "quantity": 2} for each in "dca"]})
    assert (second.status_code, second.json["version"]) == (200, 2)
    assert _items(client, "product_id", "quantity") == [("d", 2), ("c", 2), ("a", 2)]


def test_put_adds_up_like_items(client: Client) -> None:
    """Like items inside one request are one item, at the place of the first."""
    lines = [PRICED, {"product_id": "b", "quantity": 1}, SKU]
    assert client.put("/cart/alice", json={"items": lines}).status_code == 201
    assert _items(client, "product_id", "quantity", "unit_price") == [("sku-1", 4, 1999), ("b", 1, None)]


def test_put_takes_no_items(client: Client) -> None:
    """A cart can be put empty: it is there then, and has an ETag."""
    response = client.put("/cart/alice", json={"items": []})
    assert (response.status_code, response.json["version"], response.json["items"]) == (201, 1, [])
    assert "ETag" in client.get("/cart/alice").headers
    assert client.delete("/cart/alice").status_code == 204


def test_put_currency_stands_for_items_that_state_none(client: Client) -> None:
    """The currency of the cart applies to each price without one."""
    body = {"currency": "EUR", "items": [SKU | {"unit_price": 5}, PRICED | {"product_id": "b"}]}
    assert client.put("/cart/alice", json=body).json["currency"] == "EUR"
    refused = client.put("/cart/alice", json=body | {"currency": "USD"})
    assert (problem(refused), pointers(refused)) == ((422, "invalid-request"), ["/items/1/currency"])


def test_put_may_change_the_currency(client: Client) -> None:
    """The previous contents are replaced, so their currency does not matter."""
    client.post("/cart/alice", json=PRICED)
    response = client.put("/cart/alice", json={"items": [PRICED | {"currency": "USD"}]})
    assert (response.status_code, response.json["currency"]) == (200, "USD")


def test_put_back_what_get_returned(clock: FakeClock) -> None:
    """A cart sent back as it came changes nothing: not the version, not the ETag, not a time."""
    client = make_client(clock=clock)
    client.post("/cart/alice", json=PRICED | {"options": {"size": "M"}})
    client.post("/cart/alice", json=SKU)
    clock.advance(DAY)
    before = client.get("/cart/alice")
    after = client.put("/cart/alice", json=before.json)
    assert (after.status_code, after.json, after.headers["ETag"]) == (200, before.json, before.headers["ETag"])


def test_put_back_an_edited_cart(clock: FakeClock) -> None:
    """Quantities, prices and the order of what GET returned can be edited; an item that stays keeps its added_at."""
    client = make_client(clock=clock)
    client.post("/cart/alice", json=PRICED)
    client.post("/cart/alice", json={"product_id": "b", "quantity": 1, "options": {"size": "M"}})
    before = client.get("/cart/alice")
    clock.advance(DAY)
    edited = before.json
    edited["items"].reverse()
    edited["items"][0]["quantity"] = 7
    edited["items"][1]["unit_price"] = 5
    after = client.put("/cart/alice", json=edited)
    assert after.status_code == 200
    assert after.headers["ETag"] != before.headers["ETag"]
    assert _items(client, "product_id", "quantity", "unit_price", "added_at") == [
        ("b", 7, None, "2026-01-02T03:04:05.678Z"),
        ("sku-1", 2, 5, "2026-01-02T03:04:05.678Z"),
    ]
    assert (after.json["version"], after.json["currency"]) == (3, "EUR")
    assert after.json["updated_at"] == "2026-01-03T03:04:05.678Z"


def test_an_absent_cart_can_be_put_back(client: Client) -> None:
    """The response to a GET of an absent cart can be filled in and sent, too."""
    body = client.get("/cart/alice").json
    body["items"].append(SKU)
    assert client.put("/cart/alice", json=body).status_code == 201


@pytest.mark.parametrize("value", [None, True, 0, 3.7, "x", [], {}, {"deep": [1]}], ids=json.dumps)
def test_read_only_members_are_ignored(client: Client, value: object) -> None:
    """Whatever value they have, in the cart and in its items, and wherever items are sent."""
    cart = ("user_id", "version", "item_count", "total_quantity", "subtotal", "created_at", "updated_at", "expires_at")
    item = dict.fromkeys(("item_id", "line_total", "added_at"), value)
    put = client.put("/cart/alice", json=dict.fromkeys(cart, value) | {"items": [SKU | item]})
    assert (put.status_code, put.json["user_id"], put.json["version"]) == (201, "alice", 1)
    client.post("/cart/alice", json=SKU | item)
    client.post("/cart/alice/items", json={"items": [SKU | item]})
    assert _items(client, "item_id", "quantity") == [("sku-1", 6)]
    client.patch("/cart/alice/items/sku-1", json={"quantity": 1} | item)
    assert _items(client, "item_id", "quantity") == [("sku-1", 1)]


def test_null_means_not_stated(client: Client) -> None:
    """Null stands for leaving a member out wherever that is allowed, and is as wrong as that where it is not."""
    silent = {"options": None, "unit_price": None, "currency": None}
    assert client.post("/cart/alice", json=PRICED).status_code == 200
    assert client.post("/cart/alice", json=SKU | silent).json["subtotal"] == 4 * 1999
    assert client.post("/cart/alice/items", json={"items": [SKU | silent]}).json["subtotal"] == 6 * 1999
    changed = client.patch("/cart/alice/items/sku-1", json={"quantity": 1, "unit_price": None, "currency": None})
    assert changed.json["subtotal"] == 1999
    repriced = client.patch("/cart/alice/items/sku-1", json={"quantity": None, "unit_price": 5, "currency": "EUR"})
    assert repriced.json["subtotal"] == 5
    assert client.put("/cart/alice", json={"items": [SKU | silent], "currency": None}).json["currency"] is None
    for member in ("product_id", "quantity"):
        for body in ({**SKU, member: None}, {name: SKU[name] for name in SKU if name != member}):
            refused = client.post("/cart/alice", json=body)
            assert (problem(refused), pointers(refused)) == ((422, "invalid-request"), [f"/{member}"])


def test_delete_removes_the_cart(client: Client) -> None:
    """204, and 404 from then on; the cart reads as absent, and a new one begins at version 1."""
    client.post("/cart/alice", json=SKU)
    assert client.delete("/cart/alice").status_code == 204
    assert problem(client.delete("/cart/alice")) == (404, "cart-not-found")
    assert client.get("/cart/alice").json["version"] == 0
    assert client.post("/cart/alice", json=SKU).json["version"] == 1


def test_deleting_what_was_never_there(client: Client) -> None:
    """404, and the cart is still absent."""
    assert problem(client.delete("/cart/alice")) == (404, "cart-not-found")
    assert client.get("/cart/alice").json["version"] == 0


def test_carts_do_not_meet(client: Client) -> None:
    """A change of one user's cart affects no other; user ids are case-sensitive."""
    client.post("/cart/alice", json=SKU)
    client.post("/cart/Alice", json=SKU | {"quantity": 5})
    client.delete("/cart/bob")
    assert _items(client, "quantity") == [(2,)]


@pytest.mark.parametrize("count", [1, 100])
def test_adding_several_items(client: Client, count: int) -> None:
    """1 to 100 in one request; an absent cart is created, and the version changes once."""
    lines = [{"product_id": f"p{number}", "quantity": 1} for number in range(count)]
    response = client.post("/cart/alice/items", json={"items": lines})
    assert (response.status_code, response.json["version"], response.json["item_count"]) == (200, 1, count)


@pytest.mark.parametrize("count", [0, 101])
def test_adding_too_few_or_too_many_items(client: Client, count: int) -> None:
    """Not 0 and not 101: the request alone is wrong, and nothing is added."""
    lines = [{"product_id": f"p{number}", "quantity": 1} for number in range(count)]
    refused = client.post("/cart/alice/items", json={"items": lines})
    assert (problem(refused), pointers(refused)) == ((422, "invalid-request"), ["/items"])
    assert client.get("/cart/alice").json["version"] == 0


@pytest.mark.parametrize("status", [422, 409])
def test_several_items_are_added_all_or_none(client: Client, status: int) -> None:
    """One line that is wrong, by itself or together with the cart, keeps all of them out."""
    client.post("/cart/alice", json=PRICED)
    wrong = SKU | {"quantity": 0} if status == 422 else PRICED | {"currency": "USD"}
    before = client.get("/cart/alice")
    refused = client.post("/cart/alice/items", json={"items": [{"product_id": "new", "quantity": 1}, wrong]})
    assert refused.status_code == status
    assert _state(client) == (before.headers["ETag"], before.json)


def test_a_changed_cart_slides_its_expiry(clock: FakeClock) -> None:
    """30 days after the last write; a request that changes nothing slides nothing."""
    client = make_client(clock=clock)
    client.post("/cart/alice", json=SKU)
    clock.advance(DAY)
    client.get("/cart/alice")
    client.patch("/cart/alice/items/sku-1", json={"quantity": 2})
    assert client.get("/cart/alice").json["expires_at"] == "2026-02-01T03:04:05.678Z"
    client.patch("/cart/alice/items/sku-1", json={"quantity": 3})
    assert client.get("/cart/alice").json["expires_at"] == "2026-02-02T03:04:05.678Z"


def test_an_expired_cart_is_absent(clock: FakeClock) -> None:
    """To the millisecond, for every operation, after CARTSVC_CART_TTL."""
    client = make_client(cart_ttl_ms=60_000, clock=clock)
    client.post("/cart/alice", json=SKU)
    clock.advance(59_999)
    assert client.get("/cart/alice").json["version"] == 1
    clock.advance(1)
    assert client.get("/cart/alice").json["version"] == 0
    assert "ETag" not in client.get("/cart/alice").headers
    assert problem(client.get("/cart/alice/items/sku-1")) == (404, "cart-not-found")
    assert problem(client.patch("/cart/alice/items/sku-1", json={"quantity": 1})) == (404, "cart-not-found")
    assert problem(client.delete("/cart/alice/items/sku-1")) == (404, "cart-not-found")
    assert problem(client.delete("/cart/alice")) == (404, "cart-not-found")
    assert client.put("/cart/alice", json={"items": [SKU]}).status_code == 201


def _items(client: Client, *members: str) -> list[tuple[Any, ...]]:
    return [tuple(item[member] for member in members) for item in client.get("/cart/alice").json["items"]]


def _state(client: Client) -> tuple[str, Any]:
    response: TestResponse = client.get("/cart/alice")
    return response.headers["ETag"], response.json


def _digest(product_id: str, options: list[list[str]]) -> str:
    text = json.dumps([product_id, options], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
