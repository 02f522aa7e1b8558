"""Tests of metadata over HTTP: on items and on carts, in every call that takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.api_client import make_client, pointers, problem, state

if TYPE_CHECKING:
    from tests.support.api_client import Client

SKU = {"product_id": "sku-1", "quantity": 2}
NOTE = {"note": "Ring\ntwice", "über": "\u202e"}


def test_metadata_is_always_shown(client: Client) -> None:
    """{} when there is none: of an absent cart, of a cart, and of its items."""
    assert client.get("/cart/alice").json["metadata"] == {}
    made = client.post("/cart/alice", json=SKU).json
    assert (made["metadata"], made["items"][0]["metadata"]) == ({}, {})
    assert client.get("/cart/alice/items/sku-1").json["metadata"] == {}


def test_every_call_takes_the_metadata_of_items(client: Client) -> None:
    """A given object replaces the earlier; left out and null keep it."""
    path = "/cart/alice"
    calls = [
        ("POST", path, lambda given: SKU | given),
        ("PUT", path, lambda given: {"items": [SKU | given]}),
        ("POST", f"{path}/items", lambda given: {"items": [SKU | given]}),
        ("PATCH", f"{path}/items/sku-1", lambda given: {"quantity": 1} | given),
        ("PATCH", f"{path}/items", lambda given: {"items": [{"item_id": "sku-1", "quantity": 1} | given]}),
    ]
    for method, path, body in calls:
        for given, expected in (
            ({"metadata": NOTE}, NOTE),
            ({}, NOTE),
            ({"metadata": None}, NOTE),
            ({"metadata": {}}, {}),
        ):
            response = client.open(path, method=method, json=body(given))
            assert response.json["items"][0]["metadata"] == expected
            assert response.json["item_count"] == 1


def test_the_metadata_of_a_cart(client: Client) -> None:
    """PATCH sets it and needs a cart; PUT takes it too, and keeps it unless it is given."""
    assert problem(client.patch("/cart/alice", json={"metadata": NOTE})) == (404, "cart-not-found")
    client.post("/cart/alice", json=SKU)
    response = client.patch("/cart/alice", json={"metadata": NOTE})
    assert (response.json["metadata"], response.json["version"], response.json["total_quantity"]) == (NOTE, 2, 2)
    assert (response.headers["ETag"], response.json) == state(client)
    for given, expected in (({}, NOTE), ({"metadata": None}, NOTE), ({"metadata": {"a": "b"}}, {"a": "b"})):
        assert client.put("/cart/alice", json={"items": []} | given).json["metadata"] == expected
    assert client.patch("/cart/alice", json={"metadata": {}}).json["metadata"] == {}


def test_a_wrong_change_of_a_cart(client: Client) -> None:
    """422: metadata is all that can be changed, and must be given."""
    client.post("/cart/alice", json=SKU)
    before = state(client)
    for body, expected in (
        ({}, ["/metadata"]),
        ({"metadata": None}, ["/metadata"]),
        ({"metadata": []}, ["/metadata"]),
        ({"metadata": {"a": 1, "b": "\0"}, "items": []}, ["/metadata/a", "/items", "/metadata/b"]),
        ({"metadata": {"": "x"}}, ["/metadata"]),
    ):
        refused = client.patch("/cart/alice", json=body)
        assert (problem(refused), pointers(refused)) == ((422, "invalid-request"), expected)
    assert state(client) == before


def test_the_limits_of_metadata_are_settings() -> None:
    """CARTSVC_MAX_METADATA and CARTSVC_MAX_METADATA_VALUE, of items and of carts, also in the document."""
    client = make_client(environ={"CARTSVC_MAX_METADATA": "1", "CARTSVC_MAX_METADATA_VALUE": "2"})
    client.post("/cart/alice", json=SKU | {"metadata": {"a": "xx"}})
    for metadata, fault in (
        ({"a": "", "b": ""}, {"pointer": "/metadata", "code": "max_metadata", "limit": 1, "value": 2}),
        ({"a": "xxx"}, {"pointer": "/metadata/a", "code": "max_metadata_value", "limit": 2, "value": 3}),
    ):
        for refused in (
            client.post("/cart/alice", json=SKU | {"metadata": metadata}),
            client.patch("/cart/alice", json={"metadata": metadata}),
        ):
            (found,) = refused.json["errors"]
            assert found.pop("detail").startswith(
                ("Metadata has at most 1 members", "A value in metadata has at most 2")
            )
            assert found == fault
    schemas = client.contract.document["components"]["schemas"]
    for name in ("ItemInput", "ItemUpdate", "ItemsUpdateItem", "CartInput", "CartUpdate"):
        metadata = schemas[name]["properties"]["metadata"]
        assert (metadata["maxProperties"], metadata["additionalProperties"]["maxLength"]) == (1, 2)


def test_a_cart_that_metadata_makes_too_large() -> None:
    """409 with the numbers: metadata takes part of CARTSVC_MAX_CART_BYTES."""
    client = make_client(environ={"CARTSVC_MAX_CART_BYTES": "1024"})
    client.post("/cart/alice", json=SKU | {"metadata": {"a": "x" * 500}})
    refused = client.patch("/cart/alice", json={"metadata": {"b": "y" * 500}})
    assert problem(refused) == (409, "limit-exceeded")
    (fault,) = refused.json["errors"]
    assert (fault["code"], fault["limit"], fault["value"] > 1024) == ("max_cart_bytes", 1024, True)
