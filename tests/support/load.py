"""Clients that add to carts while servers are killed, and what must be stored afterwards."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from threading import Event
from typing import TYPE_CHECKING, Any

from tests.support.http_clients import SECONDS, Client, Persistent
from tests.support.servers import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tests.support.server_store import Restartable

AWAY = (503, "urn:cartsvc:problem:store-unavailable", "1")
UNKNOWN = (503, "urn:cartsvc:problem:outcome-unknown", "1")
CLIENTS = 8
ROOM = {"CARTSVC_MAX_QUANTITY": "1000000"}  # for many adds to one item
CHANCE = random.Random()  # noqa: S311 - not for secrets
# Adds of one client to one cart. Two clients share it, and a cart remembers 32 keyed writes, so no key is forgotten
# before its client has a response.
EACH = 20


class Load:
    """Clients at work, spread over the servers. Each repeats ``plays(client, number)`` until the load ends.

    It yields a user_id and a product when an add is accepted. ``accepted`` has a list of them for each client.
    """

    def __init__(
        self, urls: str | Sequence[str], plays: Callable[[Persistent, int], Iterator[tuple[str, str]]]
    ) -> None:
        places = [urls] if isinstance(urls, str) else urls
        self.clients = [Persistent(places[number % len(places)]) for number in range(CLIENTS)]
        self.accepted: list[list[tuple[str, str]]] = [[] for _ in range(CLIENTS)]
        self._plays = plays
        self._stopped = Event()

    @contextmanager
    def __call__(self) -> Iterator[Load]:
        """Let the clients work until the block ends. An error of a client ends the block, and is raised."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            self._working = [pool.submit(self._work, number) for number in range(CLIENTS)]
            try:
                yield self
            finally:
                self._stopped.set()
                for each in self._working:
                    each.result()

    def wait_for(self, more: int) -> None:
        """Return once this number of further adds was accepted."""
        until = self._count() + more
        self.wait_until(lambda: self._count() >= until)

    def wait_to_meet(self, trouble: tuple[object, ...]) -> None:
        """Return once a client has met this again."""
        until = self.met()[trouble] + 1
        self.wait_until(lambda: self.met()[trouble] >= until)

    def met(self) -> Counter[tuple[object, ...]]:
        """Return what all clients got instead of a success, with numbers."""
        return sum((Counter(dict(client.met)) for client in self.clients), Counter())

    def carts(self) -> dict[str, dict[str, int]]:
        """Return what must be stored: each accepted add once, by user_id."""
        found: dict[str, dict[str, int]] = {}
        for accepted in self.accepted:
            for user_id, product in accepted:
                assert found.setdefault(user_id, {}).setdefault(product, 1) == 1
        return found

    def _work(self, number: int) -> None:
        with closing(self.clients[number]) as client:
            for added in self._plays(client, number):
                self.accepted[number].append(added)
                if self._stopped.is_set():
                    break

    def _count(self) -> int:
        return sum(map(len, self.accepted))

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Return once this condition holds."""
        deadline = time.monotonic() + 2 * SECONDS
        while not holds():
            assert not any(each.done() for each in self._working), "a client has ended"
            assert time.monotonic() < deadline, self.met()
            time.sleep(0.01)


def adds(client: Persistent, number: int) -> Iterator[tuple[str, str]]:
    """Add without end, each product once, under a key each, to carts that two clients share.

    Each response must show all that this client has added to the cart, once.
    """
    for cart in count():
        user_id = f"user-{number // 2}-{cart}"
        promised: dict[str, int] = {}
        for each in range(EACH):
            product = f"sku-{number}-{each}"
            body = {"product_id": product, "quantity": 1}
            response = client.call("POST", f"/cart/{user_id}", body, Idempotency_Key=f"key-{number}-{each}")
            assert response.status == 200, response
            promised[product] = 1
            assert quantities(response.body).items() >= promised.items()
            yield user_id, product


def adds_unchecked(client: Persistent, number: int) -> Iterator[tuple[str, str]]:
    """Add without end, and accept a response that shows fewer adds than before."""
    for each in count():
        user_id, product = f"user-{number}-{each // EACH}", f"sku-{each}"
        body = {"product_id": product, "quantity": 1}
        assert client.call("POST", f"/cart/{user_id}", body, Idempotency_Key=f"key-{each}").status == 200
        yield user_id, product


def quantities(cart: dict[str, Any]) -> dict[str, int]:
    """Return the quantities in this cart, by item_id."""
    return {item["item_id"]: item["quantity"] for item in cart["items"]}


def stored(url: str, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return what is in these carts now."""
    with Client(url) as client:
        return {user_id: quantities(client.call("GET", f"/cart/{user_id}").body) for user_id in user_ids}


def check_pauses_and_restarts(store: Restartable, url: str, hold_writes: Callable[[Load], None]) -> None:
    """Pause, kill and restart the store's server under load.

    Meanwhile the response is 503 with Retry-After; then the service goes on, and each add is stored once.
    ``hold_writes`` lets reads pass and writes wait, until the load has met it.
    """

    def readiness() -> tuple[object, ...]:
        response = probe.try_once("GET", "/readyz")
        assert response is not None
        return response.status, response.body.get("type"), response.headers["Retry-After"]

    environment = {"CARTSVC_STORE_URL": url, "CARTSVC_STORE_TIMEOUT": "0.3", "WEB_CONCURRENCY": "2"}
    with serve(**environment) as server, closing(Persistent(server.url)) as probe:
        load = Load(server.url, adds)
        with load():
            load.wait_for(CHANCE.randrange(20, 100))
            store.pause()
            load.wait_to_meet(AWAY)
            assert readiness() == AWAY
            store.resume()
            load.wait_for(CHANCE.randrange(20, 100))

            hold_writes(load)
            load.wait_for(CHANCE.randrange(20, 100))

            store.kill()
            load.wait_to_meet(AWAY)
            assert readiness() == AWAY
            store.start()
            load.wait_for(CHANCE.randrange(20, 100))
            assert readiness() == (200, None, None)

        assert load.met().keys() == {AWAY, UNKNOWN}
        assert stored(server.url, load.carts()) == load.carts()
