"""Two servers whose clocks are 90 seconds apart, one Valkey: merges move every item once, whatever comes between."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.http_clients import Client
from tests.support.servers import serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Server

ROUNDS = 60
CLIENTS = 3
OFFSET_S = 90


class Pair(NamedTuple):
    """The server whose clock is ahead, and the one whose clock is right."""

    ahead: Server
    right: Server


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Both on one store."""
    with valkey() as store:
        app = ("--workers", "2", "tests.support.apps.skewed_clock:app")
        settings = {"CARTSVC_STORE_URL": store.url}
        with (
            serve(*app, CLOCK_OFFSET_MS=str(OFFSET_S * 1000), **settings) as ahead,
            serve(*app, CLOCK_OFFSET_MS="0", **settings) as right,
        ):
            yield Pair(ahead, right)


def add_until_accepted(url: str, user_id: str, product: str) -> bool:
    """Add one, however often a merge is in its way; return whether it was accepted before the guest was closed."""
    with Client(url) as client:
        for _ in range(500):
            response = client.call(
                "POST", f"/cart/{user_id}", {"product_id": product, "quantity": 1}, Idempotency_Key=product
            )
            if response.status == 200:
                return True
            assert response.status == 409, response
            if response.body["type"].endswith(":cart-merged"):
                return False
    pytest.fail("never accepted")


@pytest.mark.parametrize("merging", ["ahead", "right"])
def test_merges_under_clocks_90_seconds_apart(pair: Pair, merging: str) -> None:
    """A second tab adds to the source through the other server while the merge runs: no unit is lost or doubled.

    Every other source is a guest, which is closed afterwards: then what was refused is in no cart.
    """
    ours = pair.ahead if merging == "ahead" else pair.right
    other = pair.right if merging == "ahead" else pair.ahead
    chance = random.Random(merging)  # noqa: S311 - not for secrets
    told: list[tuple[int, str]] = []
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        for number in range(ROUNDS):
            guest, user = f"{'guest' if number % 2 else 'other'}-{merging}-{number}", f"user-{merging}-{number}"
            assert add_until_accepted(ours.url, guest, "first")
            tabs = [pool.submit(add_until_accepted, other.url, guest, f"tab-{each}") for each in range(CLIENTS)]
            told.append(merge(ours.url, user, guest, chance))
            added = ["first", *[f"tab-{each}" for each, tab in enumerate(tabs) if tab.result()]]
            assert number % 2 or len(added) == 1 + CLIENTS
            held = [item for url in (ours.url, other.url) for item in (items(url, guest) + items(url, user))]
            assert sorted(held) == sorted(2 * added), told[-1]
    assert {status for status, _ in told} <= {200, 409}
    assert sum(status == 200 for status, _ in told) > ROUNDS // 4


def merge(url: str, user: str, guest: str, chance: random.Random) -> tuple[int, str]:
    """Merge the guest's cart into the user's; return the status and the kind of problem."""
    with Client(url) as client:
        body = {"from_user_id": guest, "strategy": chance.choice(["sum", "max"])}
        response = client.call("POST", f"/cart/{user}/merge", body, Idempotency_Key=f"merge-{guest}")
        return response.status, response.body.get("type", "")


def items(url: str, user: str) -> list[str]:
    """Return the products of a cart, one of each."""
    with Client(url) as client:
        cart: dict[str, Any] = client.call("GET", f"/cart/{user}").body
    assert all(item["quantity"] == 1 for item in cart["items"]), cart
    return [item["product_id"] for item in cart["items"]]
