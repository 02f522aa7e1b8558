"""Stores that several processes share, torn apart: workers and servers die under load, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http_clients import NO_ANSWER, SECONDS, Client, Persistent, at_once
from tests.support.load import (
    CHANCE,
    ROOM,
    UNKNOWN,
    Load,
    adds,
    check_pauses_and_restarts,
    quantities,
    stored,
)
from tests.support.servers import serve
from tests.support.valkeys import valkey
from tests.system.conftest import store_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Server

pytestmark = pytest.mark.usefixtures("soak_round")

SEALED = "urn:cartsvc:problem:cart-sealed"
ABORTED = "urn:cartsvc:problem:merge-aborted"
MERGED = "urn:cartsvc:problem:cart-merged"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
THREADS = {"CARTSVC_THREADS": "4"}


@pytest.fixture(scope="module", params=["lmdb", "valkey", "postgresql"])
def two_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Return two servers on one store, for the module, on each kind of store that several servers share.

    Each test has a cart of its own.
    """
    with (
        store_of(request.param, request, tmp_path_factory.mktemp("two")) as url,
        serve(CARTSVC_STORE_URL=url, WEB_CONCURRENCY="1", **ROOM) as first,
        serve(CARTSVC_STORE_URL=url, WEB_CONCURRENCY="1", **ROOM) as second,
    ):
        yield [first, second]


def merges(client: Persistent, number: int) -> Iterator[tuple[str, str]]:
    """Sign in for ever: add to a new guest's cart, and merge it into a user's; some give up at the first trouble.

    Two clients share each user. One of them moves on to the next one, and merges the last one into that.
    """
    for turn in count():
        user_id, guest = f"user-{number // 2}-{turn // 6}", f"guest-{number}-{turn}"
        for each in (user_id, guest):
            product = f"sku-{each}-{number}-{turn}"
            added = until_accepted(client, f"/cart/{each}", {"product_id": product, "quantity": 1}, f"add-{product}")
            assert quantities(added)[product] == 1
            yield each, product
        merge = f"/cart/{user_id}/merge", {"from_user_id": guest}
        if CHANCE.random() < 0.5:
            until_accepted(client, *merge, f"merge-{guest}")
        else:
            client.try_once("POST", *merge)
        if number % 2 and turn % 6 == 5:
            following = f"user-{number // 2}-{turn // 6 + 1}"
            until_accepted(client, f"/cart/{following}/merge", {"from_user_id": user_id}, f"merge-{user_id}")


def until_accepted(client: Persistent, path: str, body: object, key: str) -> dict[str, Any]:
    """POST this until it is accepted: while a cart is being merged, and when a merge was aborted, it is not.

    Return the cart; an empty dict for a guest that is closed, because its cart was merged.
    """
    deadline = time.monotonic() + SECONDS
    while True:
        response = client.call("POST", path, body, Idempotency_Key=key)
        if response.status == 200:
            cart: dict[str, Any] = response.body
            return cart
        if (response.status, response.body["type"]) == (409, MERGED):
            return {}
        assert (response.status, response.body["type"]) in {(409, SEALED), (409, ABORTED)}, response
        assert time.monotonic() < deadline, response
        time.sleep(0.25)


def kill_worker(server: Server) -> None:
    """Kill one of its workers, any of them."""
    os.kill(CHANCE.choice(server.workers()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("store_url", "environment"),
    [
        ("memory", {}),
        ("valkey", {}),
        ("postgresql", {}),
        ("lmdb", THREADS),
        pytest.param("valkey", THREADS, marks=pytest.mark.soak),
        pytest.param("postgresql", THREADS, marks=pytest.mark.soak),
    ],
    ids=["memory-gevent", "valkey-gevent", "postgresql-gevent", "lmdb-threads", "valkey-threads", "postgresql-threads"],
    indirect=["store_url"],
)
def test_workers_that_are_killed_lose_nothing(store_url: str, environment: dict[str, str]) -> None:
    """Each add under a key is in its cart exactly once, whichever worker died over it; and no answer is a 5xx."""
    with serve("--workers", "2", CARTSVC_STORE_URL=store_url, **environment) as server:
        load = Load(server.url, adds)
        with load():
            for _ in range(2):
                load.wait_for(CHANCE.randrange(10, 100))
                kill_worker(server)
            load.wait_for(CHANCE.randrange(10, 100))
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
            load.wait_for(50)

        assert load.met().keys() == {NO_ANSWER}
        assert stored(server.url, load.carts()) == load.carts()


@pytest.mark.parametrize("store_url", ["memory", "valkey"], indirect=True)
def test_merges_conserve_items_when_workers_die_of_their_writes(store_url: str) -> None:
    """Each item is in one cart, once, wherever a worker died in a merge; and no cart stays sealed for ever."""
    chaos = ("--workers", "2", "tests.support.apps.crashing_app:app")
    with serve(*chaos, CARTSVC_STORE_URL=store_url) as server:
        load = Load(server.url, merges)
        with load():
            load.wait_until(lambda: server.log().count("was sent SIGKILL") >= 6)

        assert load.met().keys() == {NO_ANSWER}
        with closing(Persistent(server.url)) as client:
            line = {"product_id": "last", "quantity": 1}
            ends = {user_id: until_accepted(client, f"/cart/{user_id}", line, "last") for user_id in load.carts()}
        closed = {user_id for user_id, cart in ends.items() if not cart}
        assert all(user_id.startswith("guest-") for user_id in closed)
        found = sum((Counter(cart) for cart in stored(server.url, load.carts()).values()), Counter())
        assert found.pop("last") == len(ends) - len(closed)
        assert found == {product: 1 for cart in load.carts().values() for product in cart}


@pytest.mark.parametrize("sync", ["on", pytest.param("lazy", marks=pytest.mark.soak), "off"])
def test_a_server_that_is_killed_loses_nothing(sync: str, tmp_path: Path) -> None:
    """All processes die under load, and another server goes on in the same directory: each add is there, once.

    What was written stays with the system when a process dies, whatever ``sync`` says; that is for power cuts.
    """
    with serve("--workers", "2", CARTSVC_STORE_URL=f"lmdb://{tmp_path}/carts?sync={sync}") as server:
        load = Load(server.url, adds)
        with load():
            load.wait_for(CHANCE.randrange(20, 200))
            server.kill()
            server.start()
            load.wait_for(50)

        assert load.met().keys() == {NO_ANSWER}
        assert stored(server.url, load.carts()) == load.carts()


def test_a_valkey_that_is_paused_killed_and_restarted_loses_nothing() -> None:
    """Meanwhile the answer is 503 with Retry-After; then the service goes on by itself, and each add is there, once."""
    with valkey(*DURABLE) as store, store.client() as operator:

        def hold_writes(load: Load) -> None:
            operator.client_pause(1000, all=False)
            load.wait_to_meet(UNKNOWN)

        check_pauses_and_restarts(store, store.url, hold_writes)


def test_two_servers_on_one_store_are_one(two_servers: list[Server]) -> None:
    """What one of them was told the other one shows at once; and each takes the other one's ETags."""
    first, second = two_servers
    with Client(first.url) as here, Client(second.url) as there:
        for total in range(1, 51, 2):
            for client, other, quantity in ((here, there, total), (there, here, total + 1)):
                written = client.add("alice")
                seen = other.call("GET", "/cart/alice")
                assert (written.status, written.body["total_quantity"]) == (200, quantity)
                assert (seen.body, seen.headers["ETag"]) == (written.body, written.headers["ETag"])

        known = seen.headers["ETag"]
        assert there.call("GET", "/cart/alice", If_None_Match=known).status == 304
        changed = here.call("PATCH", "/cart/alice/items/sku-1", {"quantity": 7}, If_Match=known)
        refused = there.call("PATCH", "/cart/alice/items/sku-1", {"quantity": 8}, If_Match=known)
        assert (changed.status, refused.status) == (200, 412)
        assert (refused.body["cart"], refused.headers["ETag"]) == (changed.body, changed.headers["ETag"])
        assert there.call("DELETE", "/cart/alice", If_Match=refused.headers["ETag"]).status == 204
        assert here.call("GET", "/cart/alice").body["version"] == 0


def add_at_once(*servers: Server) -> list[int]:
    """Let 16 clients add 20 times each to one cart, spread over the servers, and return the totals in order."""

    def add(client: Client, _: int) -> list[int]:
        responses = [client.add("bob") for _ in range(20)]
        assert [response.status for response in responses] == [200] * 20
        return [response.body["total_quantity"] for response in responses]

    totals = at_once(16, [server.url for server in servers], add)
    return sorted(total for each in totals for total in each)


def test_no_add_is_lost_between_two_servers(two_servers: list[Server]) -> None:
    """16 clients x 20 adds without keys to one cart are 320 exactly, and each is answered with a total of its own."""
    assert add_at_once(*two_servers) == list(range(1, 321))


def test_a_careless_store_would_be_found_out() -> None:
    """The promise above is not kept by a store that reads and writes in two steps."""
    with serve("tests.support.apps.racy_app:app", WEB_CONCURRENCY="1", **ROOM) as careless:
        assert add_at_once(careless) != list(range(1, 321))
