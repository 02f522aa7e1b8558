"""Races at a real gunicorn: conditional writes, keys and merges that many clients send at the same moment.

All tests have one server of each worker class, so each has carts of its own.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from tests.support.http_clients import SECONDS, Client, Response, at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.servers import Server

CLIENTS = 16
ROUNDS = 15
ONE = {"items": [{"product_id": "sku-1", "quantity": 1}]}


def race(
    server: Server, prepare: Callable[[Client, int], None], write: Callable[[Client, int, int], Response]
) -> list[list[Response]]:
    """What 16 clients are answered, round by round.

    Before each round ``prepare(client, round)`` runs once; then all of them call ``write(client, number, round)`` at
    the same moment, each on the connection it has used before.
    """
    with Client(server.url) as steward:
        rounds = iter(range(ROUNDS))
        together = threading.Barrier(CLIENTS, action=lambda: prepare(steward, next(rounds)))

        def take_part(client: Client, number: int) -> list[Response]:
            responses = []
            for turn in range(ROUNDS):
                together.wait(SECONDS)
                responses.append(write(client, number, turn))
            return responses

        of_clients = at_once(CLIENTS, server.url, take_part)
    return [list(turn) for turn in zip(*of_clients, strict=True)]


def cart(server: Server, user_id: str) -> dict[str, int]:
    """The cart as it is now."""
    with Client(server.url) as client:
        found: dict[str, int] = client.call("GET", f"/cart/{user_id}").body
        return found


def test_one_of_16_conditional_writes_wins(shared_server: Server) -> None:
    """All name the state they have seen: one is answered 200, and fifteen 412 with the winner's cart and its ETag."""
    tags = {}

    def prepare(client: Client, turn: int) -> None:
        tags[turn] = client.call("PUT", f"/cart/changed-{turn}", ONE).headers["ETag"]

    def write(client: Client, number: int, turn: int) -> Response:
        body = {"quantity": 2 + number}
        return client.call("PATCH", f"/cart/changed-{turn}/items/sku-1", body, If_Match=tags[turn])

    for turn, responses in enumerate(race(shared_server, prepare, write)):
        assert Counter(response.status for response in responses) == {200: 1, 412: 15}
        winner = next(response for response in responses if response.status == 200)
        for response in responses:
            shown = response.body if response is winner else response.body["cart"]
            assert (shown, response.headers["ETag"]) == (winner.body, winner.headers["ETag"])
        assert cart(shared_server, f"changed-{turn}") == winner.body


def test_one_of_16_makes_the_cart(shared_server: Server) -> None:
    """If-None-Match: * on PUT: one is answered 201, and fifteen 412."""

    def write(client: Client, number: int, turn: int) -> Response:
        body = {"items": [{"product_id": "sku-1", "quantity": 1 + number}]}
        return client.call("PUT", f"/cart/made-{turn}", body, If_None_Match="*")

    for turn, responses in enumerate(race(shared_server, lambda _client, _turn: None, write)):
        assert Counter(response.status for response in responses) == {201: 1, 412: 15}
        assert cart(shared_server, f"made-{turn}") == next(
            response.body for response in responses if response.status == 201
        )


def test_16_with_one_key_are_one(shared_server: Server) -> None:
    """All are answered 200 with the same cart; one of them did it, and the others say that it was done."""

    def write(client: Client, _number: int, turn: int) -> Response:
        body = {"product_id": "sku-1", "quantity": 3}
        return client.call("POST", f"/cart/added-{turn}", body, Idempotency_Key=f"key-{turn}")

    for turn, responses in enumerate(race(shared_server, lambda _client, _turn: None, write)):
        now = cart(shared_server, f"added-{turn}")
        assert (now["total_quantity"], now["version"]) == (3, 1)
        assert [(response.status, response.body) for response in responses] == [(200, now)] * CLIENTS
        assert Counter(response.headers["Idempotency-Replayed"] for response in responses) == {None: 1, "true": 15}


def test_16_merges_with_one_key_are_one(shared_server: Server) -> None:
    """A sign-in that is sent 16 times at once moves the items once; so does one without a key."""

    def prepare(client: Client, turn: int) -> None:
        client.call("PUT", f"/cart/guest-{turn}", ONE)
        client.call("PUT", f"/cart/user-{turn}", ONE)

    def write(client: Client, _number: int, turn: int) -> Response:
        body = {"from_user_id": f"guest-{turn}"}
        conditions = {"Idempotency-Key": "k"} if turn % 2 else {}
        return client.call("POST", f"/cart/user-{turn}/merge", body, **conditions)

    for turn, responses in enumerate(race(shared_server, prepare, write)):
        assert [(response.status, response.body["total_quantity"]) for response in responses] == [(200, 2)] * CLIENTS
        assert cart(shared_server, f"user-{turn}")["total_quantity"] == 2
        assert cart(shared_server, f"guest-{turn}")["version"] == 0
        replayed = Counter(response.headers["Idempotency-Replayed"] for response in responses)
        assert replayed == ({None: 1, "true": 15} if turn % 2 else {None: 16})


def test_one_cart_is_merged_into_one_of_16(shared_server: Server) -> None:
    """16 targets reach for one source: one of them gets it, and no other gets any of it."""

    def prepare(client: Client, turn: int) -> None:
        client.call("PUT", f"/cart/source-{turn}", ONE)

    def write(client: Client, number: int, turn: int) -> Response:
        return client.call("POST", f"/cart/target-{turn}-{number}/merge", {"from_user_id": f"source-{turn}"})

    for turn, responses in enumerate(race(shared_server, prepare, write)):
        assert {response.status for response in responses} <= {200, 409}
        assert {response.body["type"] for response in responses if response.status == 409} <= {
            "urn:cartsvc:problem:cart-sealed"
        }
        got = [response.body["total_quantity"] for response in responses if response.status == 200]
        assert (sum(got), cart(shared_server, f"source-{turn}")["version"]) == (1, 0)
        there = [cart(shared_server, f"target-{turn}-{number}")["total_quantity"] for number in range(CLIENTS)]
        assert sum(there) == 1


def test_reading_changing_and_writing_loses_nothing(shared_server: Server) -> None:
    """8 clients x 10 increments by PATCH under If-Match; a 412 carries all that the next try needs."""
    with Client(shared_server.url) as steward:
        steward.call("PUT", "/cart/alice", ONE)

    def increment(client: Client, _: int) -> int:
        refused = 0
        seen = client.call("GET", "/cart/alice")
        now, tag = seen.body, seen.headers["ETag"]
        for _ in range(10):
            while True:
                body = {"quantity": now["items"][0]["quantity"] + 1}
                response = client.call("PATCH", "/cart/alice/items/sku-1", body, If_Match=tag)
                tag = response.headers["ETag"]
                if response.status == 200:
                    now = response.body
                    break
                assert response.status == 412
                now = response.body["cart"]
                refused += 1
        return refused

    refused = at_once(8, shared_server.url, increment)

    now = cart(shared_server, "alice")
    assert (now["total_quantity"], now["version"]) == (81, 81)
    assert sum(refused) > 0  # or nothing has raced


def test_merges_in_both_directions_conserve_items(shared_server: Server) -> None:
    """Merges race each other's direction with adds between: every accepted add is in one of the carts, once.

    No answer is a 5xx, nobody waits for ever, and no cart is left sealed.
    """
    told: list[Counter[tuple[int, str]]] = []
    turns = 4
    for turn in range(turns):
        pair = [f"left-{turn}", f"right-{turn}"]

        def take_part(client: Client, number: int, pair: list[str] = pair) -> Counter[tuple[int, str]]:
            seen: Counter[tuple[int, str]] = Counter()
            target, source = pair if number % 2 else pair[::-1]
            for each in range(5):
                if number < 8:
                    response = client.call("POST", f"/cart/{target}/merge", {"from_user_id": source})
                    seen[response.status, response.body.get("type", "merged")] += 1
                    continue
                body = {"product_id": f"sku-{each}", "quantity": 1}
                for _ in range(1000):
                    response = client.call("POST", f"/cart/{target}", body, Idempotency_Key=f"key-{number}-{each}")
                    seen[response.status, response.body.get("type", "added")] += 1
                    if response.status != 409:
                        break
            return seen

        told += at_once(CLIENTS, shared_server.url, take_part)

        carts = [cart(shared_server, user_id) for user_id in pair]
        assert sum(each["total_quantity"] for each in carts) == 8 * 5
        with Client(shared_server.url) as client:  # a seal would refuse this
            assert [client.add(user_id).status for user_id in pair] == [200, 200]

    sealed, aborted = (f"urn:cartsvc:problem:{slug}" for slug in ("cart-sealed", "merge-aborted"))
    of_all = sum(told, Counter())
    assert of_all.keys() <= {(200, "merged"), (200, "added"), (409, sealed), (409, aborted)}
    assert of_all[200, "added"] == turns * 8 * 5
    assert of_all[200, "merged"] > 0
