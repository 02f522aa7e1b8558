"""Tests of rejections because of the state of the cart or by the framework, and of a store that fails."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from cartsvc import errors
from cartsvc.api.problems import PROBLEM_BY_ERROR, PROBLEM_BY_STATUS
from cartsvc.carts.cart import Limits
from tests.support.api_client import Client, RaisingStore, make_client, pointers, problem

SKU = {"product_id": "sku-1", "quantity": 2}
PRICED = SKU | {"unit_price": 1999, "currency": "EUR"}
BIG = {"product_id": "big", "quantity": 1, "options": {"x": "y" * 256}}
HUGE = {"unit_price": 10**10, "currency": "EUR"}

READS = [("GET", "/cart/alice", None), ("GET", "/cart/alice/items/sku-1", None)]
GROWS = [
    ("POST", "/cart/alice", SKU),
    ("PUT", "/cart/alice", {"items": [SKU]}),
    ("POST", "/cart/alice/items", {"items": [SKU]}),
    ("PATCH", "/cart/alice/items/sku-1", {"quantity": 1}),
    ("POST", "/cart/alice/merge", {"from_user_id": "bob"}),
]
SHRINKS = [("DELETE", "/cart/alice", None), ("DELETE", "/cart/alice/items/sku-1", None)]


# ---- 409 ----


@pytest.mark.parametrize(
    ("limits", "call", "slug", "wrong"),
    [
        ({}, ("POST", "", SKU | {"quantity": 998}), "limit-exceeded", "/quantity"),
        ({}, ("POST", "", PRICED | {"currency": "USD"}), "currency-mismatch", "/currency"),
        ({"max_items": 1}, ("POST", "", BIG), "limit-exceeded", ""),
        ({"max_cart_bytes": 300}, ("POST", "", BIG), "limit-exceeded", ""),
        ({"max_quantity": 10**9}, ("POST", "", SKU | HUGE | {"quantity": 900_719}), "limit-exceeded", ""),
        ({}, ("POST", "/items", {"items": [BIG, SKU | {"quantity": 998}]}), "limit-exceeded", "/items/1/quantity"),
        (
            {},
            ("POST", "/items", {"items": [BIG, PRICED | {"currency": "USD"}]}),
            "currency-mismatch",
            "/items/1/currency",
        ),
        ({"max_items": 2}, ("POST", "/items", {"items": [BIG, BIG | {"options": {}}]}), "limit-exceeded", "/items/1"),
        ({"max_cart_bytes": 300}, ("POST", "/items", {"items": [BIG]}), "limit-exceeded", ""),
        ({}, ("PATCH", "/items/sku-1", {"unit_price": 5, "currency": "USD"}), "currency-mismatch", "/currency"),
        ({"max_quantity": 10**9}, ("PATCH", "/items/sku-1", {"quantity": 10**9} | HUGE), "limit-exceeded", ""),
    ],
)
def test_conflicts(limits: dict[str, int], call: tuple[str, str, Any], slug: str, wrong: str) -> None:
    """What is right by itself and wrong with the cart as it is: 409, with its place, and the cart as it was."""
    method, rest, body = call
    client = make_client(limits=Limits(**limits))
    before = client.put("/cart/alice", json={"items": [PRICED]})
    refused = client.open(f"/cart/alice{rest}", method=method, json=body)
    assert (problem(refused), pointers(refused)) == ((409, slug), [wrong])
    after = client.get("/cart/alice")
    assert (after.json, after.headers["ETag"]) == (before.json, before.headers["ETag"])


@pytest.mark.parametrize("rest", ["", "/items"])
def test_a_limit_is_reached_and_not_passed(client: Client, rest: str) -> None:
    """Exactly the limit fits, one more does not; nothing is clamped to it."""
    for quantity, status in ((998, 200), (2, 409), (1, 200), (1, 409)):
        line = SKU | {"quantity": quantity}
        response = client.post(f"/cart/alice{rest}", json={"items": [line]} if rest else line)
        assert response.status_code == status
    assert client.get("/cart/alice").json["total_quantity"] == 999


def test_500_items_fit() -> None:
    """The default limit of items, and of what one PUT can hold."""
    client = make_client()
    lines = [{"product_id": f"p{number}", "quantity": 1} for number in range(500)]
    assert client.put("/cart/alice", json={"items": lines}).json["item_count"] == 500
    assert problem(client.post("/cart/alice", json=SKU)) == (409, "limit-exceeded")
    assert client.post("/cart/alice", json=lines[0]).json["total_quantity"] == 501
    lines.append(SKU)
    assert problem(client.put("/cart/alice", json={"items": lines})) == (422, "invalid-request")


# ---- what the framework refuses ----


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/nope", "/carts/alice", "/cart/alice/nope", "/healthz/x", "/favicon.ico", "/.env"])
def test_unknown_routes(client: Client, method: str, path: str) -> None:
    """404 as a problem with its own type, not that of an absent cart or item."""
    response = client.open(path, method=method)
    assert response.status_code == 404
    if method != "HEAD":
        assert problem(response) == (404, "not-found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/cart", "OPTIONS POST"),
        ("/cart/alice/merge", "OPTIONS POST"),
        ("/cart/alice", "DELETE GET HEAD OPTIONS PATCH POST PUT"),
        ("/cart/alice/items", "OPTIONS PATCH POST"),
        ("/cart/alice/items/sku-1", "DELETE GET HEAD OPTIONS PATCH"),
        ("/healthz", "GET HEAD OPTIONS"),
        ("/readyz", "GET HEAD OPTIONS"),
        ("/openapi.json", "GET HEAD OPTIONS"),
        ("/swagger-ui", "GET HEAD OPTIONS"),
        ("/", "GET HEAD OPTIONS"),
    ],
)
def test_methods_that_are_not_allowed(client: Client, path: str, allowed: str) -> None:
    """Trap: the default error handler drops the headers of an error. 405 has Allow, and it is right."""
    methods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - set(allowed.split())
    for method in sorted(methods):
        response = client.open(path, method=method, json={})
        assert response.status_code == 405
        assert sorted(response.allow) == allowed.split()
        if method != "HEAD":
            assert problem(response) == (405, "method-not-allowed")


def test_a_method_that_is_not_allowed_is_told_before_a_wrong_user_id(client: Client) -> None:
    """405 for a path without such a method, whatever the ids in it."""
    assert problem(client.patch("/cart/%00/merge", json={})) == (405, "method-not-allowed")


# ---- a store that fails ----

_UNAVAILABLE, _IN_DOUBT, _FULL = errors.StoreError(), errors.OutcomeUnknown(), errors.StoreFull()


@pytest.mark.parametrize(("method", "path", "body"), READS + GROWS + SHRINKS)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("secret at /srv/cartsvc/store.py"), (500, "internal-error", None)),
        (RecursionError("secret"), (500, "internal-error", None)),
        (UnicodeDecodeError("utf-8", b"secret", 0, 1, "secret"), (500, "internal-error", None)),
        (KeyError("secret"), (500, "internal-error", None)),
        (errors.RecordUnreadable(), (500, "record-unreadable", None)),
        (_UNAVAILABLE, (503, "store-unavailable", "1")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_store_failures(
    method: str, path: str, body: object, error: Exception, expected: tuple[int, str, str | None]
) -> None:
    """Each is a problem by the one table; 503 has Retry-After; what belongs into the log only is not shown.

    Trap: the default error handler drops the headers of an error, Retry-After too.
    """
    response = _client_of(error).open(path, method=method, json=body)
    assert (*problem(response), response.headers.get("Retry-After")) == expected
    assert b"secret" not in response.data


@pytest.mark.parametrize(("method", "path", "body"), GROWS + SHRINKS)
def test_an_answer_that_was_lost(method: str, path: str, body: object) -> None:
    """503 of its own kind for a write in doubt: it claims neither, and has Retry-After."""
    response = _client_of(_IN_DOUBT).open(path, method=method, json=body)
    assert (*problem(response), response.headers.get("Retry-After")) == (503, "outcome-unknown", "1")
    assert "Idempotency-Key" in response.json["detail"]
    assert "Nothing was changed" not in response.json["detail"]


def test_readiness_says_what_is_wrong_with_the_store() -> None:
    """A store that fails is not ready, and the reason is the one that /openapi.json has for /readyz."""
    response = _client_of(_UNAVAILABLE).get("/readyz")
    assert (*problem(response), response.headers.get("Retry-After")) == (503, "store-unavailable", "1")


@pytest.mark.parametrize(("method", "path", "body"), GROWS)
def test_a_full_store(method: str, path: str, body: object) -> None:
    """507 for whatever would make a record grow."""
    response = _client_of(_FULL).open(path, method=method, json=body)
    assert problem(response) == (507, "store-full")


def test_what_is_wrong_with_the_request_is_told_first() -> None:
    """An unavailable store hides no 4xx that the request alone causes."""
    client = _client_of(_UNAVAILABLE)
    assert client.post("/cart/alice", json={}).status_code == 422
    assert client.post("/cart/..", json=SKU).status_code == 422
    assert client.post("/cart/alice", data=b"x").status_code == 415
    assert client.patch("/cart/alice/items/x", json={"quantity": -1}).status_code == 422
    assert client.put("/cart/alice", json={"items": [SKU | {"quantity": 0}]}).status_code == 422


def test_the_memory_store_full() -> None:
    """CARTSVC_MEMORY_LIMIT ends in 507, never in a lost cart: carts can be read, reduced and deleted."""
    client = make_client(memory_limit=2**20)
    statuses: list[int] = []
    while not statuses or statuses[-1] == 200:
        statuses.append(client.post(f"/cart/user-{len(statuses)}", json=BIG | {"quantity": 9}).status_code)
    assert statuses[-1] == 507
    assert len(statuses) > 10
    for number in range(len(statuses) - 1):
        assert client.get(f"/cart/user-{number}").json["total_quantity"] == 9
    item = client.get("/cart/user-0").json["items"][0]["item_id"]
    more = {"items": [BIG | {"product_id": f"new-{number}"} for number in range(9)]}
    assert problem(client.post("/cart/user-0/items", json=more)) == (507, "store-full")
    assert client.patch(f"/cart/user-0/items/{item}", json={"quantity": 1}).json["total_quantity"] == 1
    assert client.delete(f"/cart/user-0/items/{item}").json["item_count"] == 0
    for number in range(100, 200):  # neighbours, because room is counted in pages of several carts
        assert client.delete(f"/cart/user-{number}").status_code == 204
    assert client.post(f"/cart/user-{len(statuses) - 1}", json=BIG).status_code == 200


# ---- the table itself ----


def test_every_error_has_its_problem() -> None:
    """No exception of the tree that a request can meet is left without a status; slugs name one thing each."""
    for error in _leaves(errors.CartsvcError):
        if error not in {errors.SettingsError, errors.StoreUnusable}:  # these stop the start
            assert any(base in PROBLEM_BY_ERROR for base in error.__mro__), error
    kinds = {*PROBLEM_BY_ERROR.values(), *PROBLEM_BY_STATUS.values()}
    assert len({kind.slug for kind in kinds}) == len(kinds)


def _leaves(error: type[Exception]) -> list[type[Exception]]:
    below = [leaf for each in error.__subclasses__() for leaf in _leaves(each)]
    return below or [error]


@cache
def _client_of(error: Exception) -> Client:
    """Return a client of an app that meets this error in each call of its store, and has no other state."""
    return make_client(store=RaisingStore(error))
