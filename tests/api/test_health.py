"""Tests of liveness and readiness."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from cartsvc.errors import StoreError, StoreFull
from cartsvc.stores.lmdb import LmdbStore
from cartsvc.stores.urls import LmdbConfig
from cartsvc.version import __version__
from tests.support.api_client import RaisingStore, make_client, problem
from tests.support.clock import real_now
from tests.support.records import a_record, put
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cartsvc.carts.store import CartStore
    from tests.support.api_client import Client


@pytest.mark.parametrize(
    ("path", "body"),
    [("/healthz", {"status": "ok", "version": __version__}), ("/readyz", {"status": "ok", "writes": "ok"})],
)
def test_all_is_well(client: Client, path: str, body: dict[str, str]) -> None:
    """200, and a body for people."""
    response = client.get(path)
    assert (response.status_code, response.json) == (200, body)


@contextmanager
def _lmdb(path: Path) -> Iterator[tuple[Client, Callable[[], None], Callable[[], None]]]:
    store = LmdbStore(LmdbConfig(str(path), "off", 2**22), clock=real_now, max_readers=10)
    yield make_client(store=store), lambda: _fill(store), lambda: _empty(store)
    store.close()


@contextmanager
def _valkey(_: Path) -> Iterator[tuple[Client, Callable[[], None], Callable[[], None]]]:
    with valkey("--maxmemory-policy", "noeviction") as server, server.client() as admin:
        client = make_client(environ={"CARTSVC_STORE_URL": server.url})
        yield client, lambda: admin.config_set("maxmemory", 1), lambda: admin.config_set("maxmemory", 0)


def _fill(store: CartStore) -> None:
    """Put records into it, ever smaller ones, until not even a small one has room."""
    number = count()
    for size in (9000, 900, 90, 1):
        with suppress(StoreFull):
            while True:
                put(store, f"user-{next(number)}", a_record(real_now, note="x" * size))


def _empty(store: CartStore) -> None:
    for user_id, _ in store.scan():
        store.delete(user_id)


@pytest.mark.parametrize("opened", [_lmdb, _valkey])
def test_a_full_store_is_ready(opened: Callable[[Path], Any], tmp_path: Path) -> None:
    """200 on each store, because carts can be read and reduced; the body shows that they cannot grow."""
    mug = {"product_id": "mug", "quantity": 1}
    large = {"items": [{"product_id": "x" * 100 + str(number), "quantity": 1} for number in range(100)]}
    with opened(tmp_path) as (client, fill, empty):
        assert client.post("/cart/alice", json=mug).status_code == 200
        assert client.get("/readyz").json == {"status": "ok", "writes": "ok"}
        fill()
        assert client.put("/cart/bob", json=large).status_code == 507
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json) == (200, {"status": "ok", "writes": "full"})
        assert client.get("/cart/alice").json["item_count"] == 1
        assert client.delete("/cart/alice/items/mug").status_code == 200
        empty()
        assert client.get("/readyz").json == {"status": "ok", "writes": "ok"}


def test_readiness_is_documented_without_507(client: Client) -> None:
    """The document has the two values of "writes"."""
    document = client.get("/openapi.json").get_json()
    assert set(document["paths"]["/readyz"]["get"]["responses"]) == {"200", "500", "503"}
    assert document["components"]["schemas"]["Readiness"]["properties"]["writes"]["enum"] == ["ok", "full"]


def test_a_store_that_is_away_makes_unready() -> None:
    """503 with Retry-After while the store is unavailable."""
    response = make_client(store=RaisingStore(StoreError())).get("/readyz")
    assert problem(response) == (503, "store-unavailable")
    assert response.headers["Retry-After"] == "1"


def test_a_server_that_drains_is_unready(client: Client) -> None:
    """503; it is alive, and serves carts."""
    draining = {"cartsvc.draining": True}  # gunicorn's workers leave this in the environment
    assert problem(client.get("/readyz", environ_overrides=draining)) == (503, "draining")
    for path in ("/healthz", "/cart/alice"):
        assert client.get(path, environ_overrides=draining).status_code == 200


@pytest.mark.parametrize("error", [StoreError(), RuntimeError("secret")], ids=repr)
def test_a_store_that_fails_is_no_reason_to_restart(error: Exception) -> None:
    """The process lives, whatever its store does."""
    assert make_client(store=RaisingStore(error)).get("/healthz").status_code == 200


def test_a_store_that_fails_without_a_reason_makes_unready() -> None:
    """500 is not ready either, and does not say why."""
    response = make_client(store=RaisingStore(RuntimeError("secret"))).get("/readyz")
    assert problem(response) == (500, "internal-error")
    assert b"secret" not in response.data
