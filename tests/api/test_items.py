"""Tests of the calls on single items of a cart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.api_client import Client, make_client, pointers, problem

if TYPE_CHECKING:
    from tests.support.clock import FakeClock

SKU = {"product_id": "sku-1", "quantity": 2}
PRICED = SKU | {"unit_price": 1999, "currency": "EUR"}
ITEM = "/cart/alice/items/sku-1"
CALLS = [("GET", None), ("PATCH", {"quantity": 1}), ("DELETE", None)]


@pytest.fixture
def cart(client: Client) -> Client:
    """A client, and alice's cart with two items, one of them with a price."""
    client.put("/cart/alice", json={"items": [PRICED, {"product_id": "b", "quantity": 1, "options": {"size": "M"}}]})
    return client


def test_get_item(clock: FakeClock) -> None:
    """The item as the cart shows it, under the cart's ETag."""
    client = make_client(clock=clock)
    client.post("/cart/alice", json=PRICED)
    response = client.get(ITEM)
    assert (response.status_code, response.json) == (
        200,
        {
            "item_id": "sku-1",
            "product_id": "sku-1",
            "options": {},
            "quantity": 2,
            "unit_price": 1999,
            "currency": "EUR",
            "line_total": 3998,
            "metadata": {},
            "added_at": "2026-01-02T03:04:05.678Z",
        },
    )
    cart = client.get("/cart/alice")
    assert cart.json["items"] == [response.json]
    assert response.headers["ETag"] == cart.headers["ETag"]


def test_every_item_is_found_by_its_id(cart: Client) -> None:
    """Also those whose id is a digest."""
    for item in cart.get("/cart/alice").json["items"]:
        assert cart.get(f"/cart/alice/items/{item['item_id']}").json == item


@pytest.mark.parametrize(("method", "body"), CALLS)
def test_an_absent_cart_has_no_items(client: Client, method: str, body: object) -> None:
    """404 of its own kind, unlike that of an absent item; nothing is created."""
    assert problem(client.open(ITEM, method=method, json=body)) == (404, "cart-not-found")
    assert client.get("/cart/alice").json["version"] == 0


@pytest.mark.parametrize(("method", "body"), CALLS)
@pytest.mark.parametrize("item_id", ["sku-2", "SKU-1", "~0000000000000000", "%00", "..", "%ff", "a" * 1000, "é"])
def test_an_absent_item(cart: Client, method: str, body: object, item_id: str) -> None:
    """404 for whatever is no id of an item in the cart; the cart stays as it is."""
    before = cart.get("/cart/alice").headers["ETag"]
    absent = cart.open(f"/cart/alice/items/{item_id}", method=method, json=body)
    assert problem(absent) == (404, "item-not-found")
    assert cart.get("/cart/alice").headers["ETag"] == before


def test_patch_quantity(cart: Client) -> None:
    """The response is the whole cart; the price stays."""
    response = cart.patch(ITEM, json={"quantity": 999})
    assert (response.status_code, response.json["version"], response.json["total_quantity"]) == (200, 2, 1000)
    assert response.json["items"][0]["line_total"] == 999 * 1999
    assert cart.get("/cart/alice").json == response.json


def test_patch_price(cart: Client) -> None:
    """A price comes with its currency; the quantity stays."""
    item = cart.patch(ITEM, json={"unit_price": 0, "currency": "EUR"}).json["items"][0]
    assert (item["quantity"], item["unit_price"]) == (2, 0)


def test_patch_both(cart: Client) -> None:
    """Quantity and price change together."""
    item = cart.patch(ITEM, json={"quantity": 3, "unit_price": 7, "currency": "EUR"}).json["items"][0]
    assert (item["quantity"], item["unit_price"], item["line_total"]) == (3, 7, 21)


@pytest.mark.parametrize("price", [{}, {"unit_price": 5, "currency": "EUR"}, {"unit_price": None}])
def test_patch_to_zero_removes(cart: Client, price: dict[str, object]) -> None:
    """A quantity of 0 removes the item, whatever the price."""
    response = cart.patch(ITEM, json={"quantity": 0} | price)
    assert (response.status_code, [item["product_id"] for item in response.json["items"]]) == (200, ["b"])
    assert problem(cart.patch(ITEM, json={"quantity": 0})) == (404, "item-not-found")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, [""]),
        ({"quantity": None}, [""]),
        ({"item_id": "x"}, [""]),
        ({"currency": "EUR"}, ["/unit_price", ""]),
        ({"unit_price": 5}, ["/currency"]),
        ({"quantity": -1}, ["/quantity"]),
        ({"quantity": 1000}, ["/quantity"]),
        ({"quantity": 1, "unit_price": -1, "currency": "eur"}, ["/unit_price", "/currency"]),
        ({"product_id": "sku-1"}, [""]),
        ({"quantity": "3"}, ["/quantity"]),  # and not that nothing is to be changed
        ({"quantity": 1, "product_id": "other"}, ["/product_id"]),
        ({"quantity": 1, "options": {"": "x"}, "metadata": {"n": "\0"}}, ["/options", "/metadata/n"]),
        ({"quantity": "1", "unit_price": -1, "currency": "EUR", "zap": 1}, ["/quantity", "/zap", "/unit_price"]),
    ],
)
def test_patch_refuses(cart: Client, body: dict[str, object], wrong: list[str]) -> None:
    """An empty or wrong change is 422 and leaves the cart unchanged."""
    before = cart.get("/cart/alice")
    refused = cart.patch(ITEM, json=body)
    assert (problem(refused), pointers(refused)) == ((422, "invalid-request"), wrong)
    assert cart.get("/cart/alice").json == before.json


def test_a_wrong_change_is_told_before_an_absent_item(client: Client) -> None:
    """What the request alone breaks is 422, also when there is no such cart."""
    assert problem(client.patch(ITEM, json={"quantity": 1000})) == (422, "invalid-request")


def test_patch_to_what_it_is_changes_nothing(cart: Client) -> None:
    """The same quantity and price: the same version and ETag."""
    before = cart.get("/cart/alice")
    response = cart.patch(ITEM, json={"quantity": 2, "unit_price": 1999, "currency": "EUR"})
    assert (response.status_code, response.json, response.headers["ETag"]) == (200, before.json, before.headers["ETag"])


def test_delete_item(cart: Client) -> None:
    """200 with the cart that is left; then 404."""
    response = cart.delete(ITEM)
    assert (response.status_code, response.json["version"], response.json["item_count"]) == (200, 2, 1)
    assert problem(cart.delete(ITEM)) == (404, "item-not-found")


def test_a_cart_whose_last_item_went_is_empty_and_not_absent(cart: Client) -> None:
    """It keeps its version, its times and an ETag, and DELETE still finds it."""
    for item in cart.get("/cart/alice").json["items"]:
        last = cart.delete(f"/cart/alice/items/{item['item_id']}")
    assert (last.json["version"], last.json["items"], last.json["subtotal"]) == (3, [], 0)
    assert last.json["created_at"] is not None
    assert cart.get("/cart/alice").headers["ETag"] == last.headers["ETag"]
    assert cart.delete("/cart/alice").status_code == 204
