"""Tests of guests: ids for shoppers without an account, which cannot be guessed and cost nothing."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

from cartsvc.errors import StoreError
from tests.support.api_client import RaisingStore, make_client
from tests.support.memory_store import MemoryStore

if TYPE_CHECKING:
    from tests.support.api_client import Client
    from tests.support.clock import FakeClock

SKU = {"product_id": "sku-1", "quantity": 2}
SECRET = re.compile(r"guest-([A-Za-z0-9_-]+)")


def test_a_guest(client: Client) -> None:
    """201, an id that begins with guest-, no token without authentication, and where its cart is.

    Location is relative, so it holds under any path prefix that a proxy adds.
    """
    response = client.post("/cart")
    assert response.status_code == 201
    assert response.json == {"user_id": response.json["user_id"], "token": None}
    assert SECRET.fullmatch(response.json["user_id"])
    location = response.headers["Location"]
    for prefix in ("", "/shopcart", "/a/b"):
        assert urljoin(f"https://x{prefix}/cart", location) == f"https://x{prefix}/cart/{response.json['user_id']}"
    assert response.headers["Cache-Control"] == "no-store"
    assert "ETag" not in response.headers


def test_a_guest_has_a_cart_like_any_other(client: Client) -> None:
    """It is absent until the first add, and its URL is Location."""
    made = client.post("/cart")
    location = urljoin("/cart", made.headers["Location"])
    assert client.get(location).json["version"] == 0
    added = client.post(location, json=SKU)
    assert (added.status_code, added.json["user_id"]) == (200, made.json["user_id"])
    assert client.get(location).json == added.json


def test_nobody_guesses_a_guest(client: Client) -> None:
    """At least 122 bits: so long, of an alphabet all of which is used at every place, and never twice."""
    secrets = []
    for _ in range(300):
        match = SECRET.fullmatch(client.post("/cart").json["user_id"])
        assert match is not None
        secrets.append(match[1])
    assert len({len(secret) for secret in secrets}) == 1
    assert len(set(secrets)) == len(secrets)
    # Of 64 characters that are as likely as each other, 300 draws show fewer than 50 with a chance below 1 in 10^9.
    lively = [len({secret[place] for secret in secrets}) for place in range(len(secrets[0]))]
    alphabet = len(set("".join(secrets)))
    places = sum(seen >= 50 for seen in lively)
    assert places * math.log2(alphabet) >= 122


def test_making_guests_allocates_nothing(clock: FakeClock) -> None:
    """Guests that never add anything cannot fill the store; it is not even asked."""
    store = MemoryStore(clock=clock, limit=2**20)
    client = make_client(store=store, clock=clock)
    guest = client.post("/cart").json["user_id"]
    client.get(f"/cart/{guest}")
    assert list(store.scan()) == []
    client.post(f"/cart/{guest}", json=SKU)
    assert [user_id for user_id, _ in store.scan()] == [guest]
    assert make_client(store=RaisingStore(StoreError()), clock=clock).post("/cart").status_code == 201


@pytest.mark.parametrize(
    ("environ", "user_id", "expires_at"),
    [
        ({}, "guest-1", "2026-01-09T03:04:05.678Z"),
        ({}, "alice", "2026-02-01T03:04:05.678Z"),
        ({}, "guest", "2026-02-01T03:04:05.678Z"),
        ({}, "Guest-1", "2026-02-01T03:04:05.678Z"),
        ({"CARTSVC_GUEST_TTL": "60"}, "guest-1", "2026-01-02T03:05:05.678Z"),
        ({"CARTSVC_GUEST_TTL": "60"}, "alice", "2026-02-01T03:04:05.678Z"),
        ({"CARTSVC_CART_TTL": "60"}, "guest-1", "2026-01-09T03:04:05.678Z"),
        ({"CARTSVC_CART_TTL": "60"}, "alice", "2026-01-02T03:05:05.678Z"),
    ],
)
def test_how_long_a_guests_cart_lives(clock: FakeClock, environ: dict[str, str], user_id: str, expires_at: str) -> None:
    """7 days after its last write, where a user's cart lives 30; only CARTSVC_GUEST_TTL changes that."""
    client = make_client(environ=environ, clock=clock)
    assert client.post(f"/cart/{user_id}", json=SKU).json["expires_at"] == expires_at
    assert client.put(f"/cart/{user_id}", json={"items": []}).json["expires_at"] == expires_at


def test_an_expired_guest_is_absent(clock: FakeClock) -> None:
    """To the millisecond; adding makes a new cart under the same id."""
    client = make_client(environ={"CARTSVC_GUEST_TTL": "60"}, clock=clock)
    guest = urljoin("/cart", client.post("/cart").headers["Location"])
    client.post(guest, json=SKU)
    clock.advance(59_999)
    assert client.get(guest).json["version"] == 1
    clock.advance(1)
    assert client.get(guest).json["version"] == 0
    assert client.post(guest, json=SKU).json["total_quantity"] == 2


def test_a_key_makes_no_guest_twice_the_same(client: Client) -> None:
    """POST /cart takes no Idempotency-Key: there is no cart yet that could remember it, and a guest costs nothing."""
    headers = {"Idempotency-Key": "k", "If-Match": '"x"', "If-None-Match": "*"}
    responses = [client.post("/cart", headers=headers) for _ in range(2)]
    assert [response.status_code for response in responses] == [201, 201]
    assert responses[0].json["user_id"] != responses[1].json["user_id"]
    assert client.post("/cart", headers={"Idempotency-Key": "no key"}).status_code == 201


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"json": {}},
        {"data": b"nope", "content_type": "text/plain"},
        {"data": b"{", "content_type": "application/json"},
    ],
    ids=["nothing", "object", "text", "broken"],
)
def test_a_guest_needs_no_body(client: Client, sent: dict[str, object]) -> None:
    """Whatever is sent along is not looked at."""
    assert client.post("/cart", **sent).status_code == 201
