"""Test the Valkey store with sentinels: finding the primary, silent sentinels, and a failover."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from cartsvc.errors import StoreError
from tests.support.clock import real_now
from tests.support.records import adding, at_once
from tests.support.server_store import (
    AMPLE,
    MARGIN,
    THREADS,
    TIME,
    kind_of,
    paused,
)
from tests.support.store_child import Child
from tests.support.valkey_store import opened
from tests.support.valkeys import SERVICE, Watched, eventually, valkey, watched_pair

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """Return a primary and a replica that three sentinels watch; the last test makes the replica the primary."""
    with watched_pair() as running:
        yield running


def test_any_sentinel_will_do(watched: Watched) -> None:
    """One that is stopped, one that is silent, and one that knows no such service cost a share of the time at most."""
    with valkey() as stranger, socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("", 0)) as free:
        closed = free.getsockname()[1]
        free.close()
        ports = [closed, silent.getsockname()[1], stranger.port, watched.sentinels[0].port]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        with opened(f"valkey+sentinel://{hosts}/{SERVICE}", timeout=TIME) as store:
            assert store.update("u", adding(real_now)) == 1
            began = time.monotonic()
            store.close()
            assert store.update("u", adding(real_now)) == 2
            assert time.monotonic() - began < TIME / 8, "the sentinel that has responded is queried first"
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports[:3])
        with opened(f"valkey+sentinel://{hosts}/{SERVICE}", timeout=TIME) as store:
            began = time.monotonic()
            assert kind_of(store.ping) is StoreError
            assert time.monotonic() - began < TIME + MARGIN


def test_unknown_service_is_unavailable(watched: Watched) -> None:
    """The error names it."""
    with opened(watched.url.replace(SERVICE, "another"), timeout=AMPLE) as store:
        with pytest.raises(StoreError) as caught:
            store.ping()
        assert "knows no service another" in str(caught.value.__cause__)


def test_greenlets_follow_too(watched: Watched) -> None:
    """As gunicorn serves it."""
    with Child(watched.url, greenlets=True, workers=20, adds=3, carts=3) as child:
        child.wait()
        child.begin()
        assert child.result()["added"] == 60


def test_failover_of_a_silent_primary_is_followed(watched: Watched) -> None:
    """Its idle connections are closed at the first time-out, and do not cost a request each."""
    with opened(watched.url, timeout=TIME) as store:
        eventually(store.ping)
        at_once(THREADS, lambda _: store.ping())
        with paused(watched.primary):
            watched.replica.wait_until(lambda client: client.info("replication")["role"] == "master")
            assert kind_of(lambda: store.get("u")) is StoreError
            began = time.monotonic()
            eventually(lambda: store.update("u", adding(real_now)))
            assert time.monotonic() - began < 2 * TIME + MARGIN
