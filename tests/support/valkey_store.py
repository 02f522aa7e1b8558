"""ValkeyStore in tests: opened on a server that a test pauses, limits or puts behind a proxy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cartsvc.stores.urls import ValkeyConfig, parse_store_url
from cartsvc.stores.valkey import ValkeyStore
from tests.support.clock import real_now
from tests.support.records import adding
from tests.support.server_store import (
    AMPLE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from cartsvc.carts.store import CartStore
    from tests.support.proxy import Proxy

WRITE = "EVALSHA"


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


def know_the_scripts(store: CartStore) -> None:
    """Make the server cache both scripts: for a larger record, and for one that is not larger."""
    for _ in range(2):
        store.update("script", adding(real_now))


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
