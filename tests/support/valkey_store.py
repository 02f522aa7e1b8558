"""ValkeyStore in tests: opened on a server that a test pauses, limits or puts behind a proxy."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cartsvc.errors import StoreError
from cartsvc.stores.urls import ValkeyConfig, parse_store_url
from cartsvc.stores.valkey import ValkeyStore
from tests.support.proxy import Fate
from tests.support.store_contract import adding, at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from cartsvc.carts.store import CartStore
    from tests.support.proxy import Proxy
    from tests.support.valkeys import Valkey

AMPLE = 10  # seconds, where no wait is expected
TIME = 0.5  # seconds per request
MARGIN = 0.4  # seconds more on a busy machine; less than another TIME
SECONDS = 20  # for what must happen soon
THREADS = 8
WRITE = "EVALSHA"
PASSWORD = "geheim-p@ss:w/rd"  # noqa: S105 - of a server that runs only during a test
IN_A_URL = "geheim-p%40ss%3Aw%2Frd"

LOST = pytest.mark.parametrize(
    ("fate", "done"),
    [(Fate.CUT_BEFORE, False), (Fate.CUT_AFTER, True), (Fate.SILENT, True)],
    ids=str,
)

CALLS: dict[str, Callable[[CartStore, str], object]] = {
    "get": lambda store, user_id: store.get(user_id),
    "update": lambda store, user_id: store.update(user_id, adding(real_now)),
    "ping": lambda store, _: store.ping(),
    "erase": lambda store, user_id: store.delete(user_id),
    "scan": lambda store, _: list(store.scan()),
}


def real_now() -> int:
    """Return the time of the server, at which a fake clock begins because the server expires records by its own."""
    return time.time_ns() // 1_000_000


@contextmanager
def opened(url: str, clock: Callable[[], int] = real_now, *, timeout: float = AMPLE) -> Iterator[ValkeyStore]:
    """Open a store on this URL."""
    config = parse_store_url(url)
    assert isinstance(config, ValkeyConfig)
    store = ValkeyStore(config, clock=clock, timeout=timeout)
    try:
        yield store
    finally:
        store.close()


def url_of(between: Proxy) -> str:
    """Return the URL of the server behind this proxy."""
    return f"valkey://127.0.0.1:{between.port}"


def quantity(store: CartStore, user_id: str = "u") -> int:
    """Return the quantity of the only item of this cart; 0 without a cart."""
    record = store.get(user_id)
    return record.cart.items[0].quantity if record is not None and record.cart is not None else 0


def kind_of(call: Callable[[], object]) -> type[Exception] | None:
    """Return the class of the StoreError that it raises."""
    try:
        call()
    except StoreError as error:
        return type(error)
    return None


def know_the_scripts(store: CartStore) -> None:
    """Make the server cache both scripts: for a larger record, and for one that is not larger."""
    for _ in range(2):
        store.update("script", adding(real_now))


@contextmanager
def paused(server: Valkey) -> Iterator[None]:
    """Pause the server until the block ends."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


def all_fail_in_time(call: Callable[[int], object]) -> list[type[Exception] | None]:
    """Call it in eight threads at once and return what each raised; all return in time."""
    raised: list[type[Exception] | None] = [None] * THREADS
    took = [0.0] * THREADS

    def work(number: int) -> None:
        began = time.monotonic()
        raised[number] = kind_of(lambda: call(number))
        took[number] = time.monotonic() - began

    at_once(THREADS, work)
    assert max(took) < TIME + MARGIN
    return raised


@contextmanager
def configured(client: Redis, **values: object) -> Iterator[None]:
    """Change these settings of the server until the block ends."""
    names = {name.replace("_", "-"): value for name, value in values.items()}
    before = {name: client.config_get(name)[name] for name in names}
    try:
        for name, value in names.items():
            client.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            client.config_set(name, value)
