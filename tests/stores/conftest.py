"""Fixtures of the tests on one Valkey server. Other stores override ``clock`` and ``store``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.clock import FakeClock
from tests.support.proxy import proxy
from tests.support.valkey_store import (
    PASSWORD,
    opened,
    real_now,
)
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from cartsvc.stores.valkey import ValkeyStore
    from tests.support.proxy import Proxy
    from tests.support.valkeys import Valkey


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    """Return a server that every test leaves usable."""
    with valkey() as running:
        yield running


@pytest.fixture
def admin(server: Valkey) -> Iterator[Redis]:
    """Return a client of a server without records, cached scripts and command counts."""
    with server.client() as client:
        client.flushall()
        client.script_flush()
        client.config_resetstat()
        yield client


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that begins at the server's time."""
    return FakeClock(real_now())


@pytest.fixture
def store(server: Valkey, admin: Redis, clock: FakeClock) -> Iterator[ValkeyStore]:  # noqa: ARG001 - it empties the server
    """Return a store on the server."""
    with opened(server.url, clock) as store:
        yield store


@pytest.fixture
def between(server: Valkey, admin: Redis) -> Iterator[Proxy]:  # noqa: ARG001 - it empties the server
    """Return a proxy to the server."""
    with proxy(server.port) as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Iterator[Valkey]:
    """Return a server with a password; ``shop`` has the rights that the store needs, ``guest`` may only read."""
    with valkey() as running:
        with running.client() as client:
            client.config_set("requirepass", PASSWORD)
            needed = ["+get", "+eval", "+evalsha", "+del", "+scan", "+set", "+getrange", "+select"]
            client.execute_command("ACL", "SETUSER", "shop", "on", f">{PASSWORD}", "~cart:*", *needed)
            client.execute_command("ACL", "SETUSER", "guest", "on", f">{PASSWORD}", "~cart:*", "+get", "+select")
        yield running
