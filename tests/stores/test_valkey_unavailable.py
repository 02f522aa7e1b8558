"""Test the Valkey store on servers that reject, are full, restart or were replaced."""

# ruff: noqa: SLF001 - a command is stopped on its way, and a name made to lead elsewhere

from __future__ import annotations

import shutil
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import RedisError

from cartsvc.carts.record import MergeMark, Record
from cartsvc.errors import StoreError, StoreFull
from cartsvc.stores.urls import ValkeyConfig
from cartsvc.stores.valkey import ValkeyStore
from tests.support.clock import real_now
from tests.support.records import DAY, a_record, adding, at_once, put, remove
from tests.support.server_store import (
    AMPLE,
    CALLS,
    SECONDS,
    THREADS,
    TIME,
    end_twice,
    kind_of,
    quantity,
)
from tests.support.valkey_store import configured, opened
from tests.support.valkeys import eventually, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis

    from tests.support.clock import FakeClock
    from tests.support.valkeys import Valkey


# ---- a server that cannot ----


@contextmanager
def replica(client: Redis) -> Iterator[None]:
    """Make the server a replica of a primary that is unavailable."""
    client.execute_command("REPLICAOF", "127.0.0.1", 1)
    try:
        yield
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def cut_off_replica(client: Redis) -> Iterator[None]:
    """Make it a replica that rejects reads too."""
    with configured(client, replica_serve_stale_data="no"), replica(client):
        yield


@contextmanager
def crowded(client: Redis) -> Iterator[None]:
    """Let no more clients connect."""
    for each in client.client_list():
        if each["id"] != str(client.client_id()):
            client.client_kill_filter(_id=each["id"])
    with configured(client, maxclients=1):
        yield


@contextmanager
def busy(client: Redis) -> Iterator[None]:
    """Run a script of another client that does not end."""
    port = client.connection_pool.connection_kwargs["port"]
    other = type(client)(port=port, protocol=2, retry=None)

    def run() -> None:
        with pytest.raises(RedisError):
            other.eval("while true do end", 0)

    with configured(client, busy_reply_threshold=1):
        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                client.ping()
            except RedisError:
                break
            assert time.monotonic() < deadline
        try:
            yield
        finally:
            client.script_kill()
            thread.join()
            other.close()


@contextmanager
def no_replicas(client: Redis) -> Iterator[None]:
    """Require replicas that do not exist."""
    with configured(client, min_replicas_to_write=1):
        yield


# State, words in the error's cause, and whether records can still be read.
STATES: dict[str, tuple[Callable[[Redis], Any], str, bool]] = {
    "replica": (replica, "replica", True),
    "cut off": (cut_off_replica, "replica", False),
    "crowded": (crowded, "max number of clients", False),
    "busy": (busy, "BUSY", False),
    "no replicas": (no_replicas, "NOREPLICAS", True),
}


@pytest.mark.parametrize(("state", "expected", "readable"), STATES.values(), ids=STATES)
def test_server_that_rejects_is_unavailable(
    server: Valkey, admin: Redis, state: Callable[[Redis], Any], expected: str, *, readable: bool
) -> None:
    """Writes and pings raise StoreError and change nothing; afterwards the same store works as before."""
    with opened(server.url, timeout=AMPLE) as store:
        before = put(store, "u", a_record(real_now))
        with state(admin):
            for call in (store.ping, lambda: store.update("u", adding(real_now)), lambda: remove(store, "u")):
                with pytest.raises(StoreError) as caught:
                    call()
                assert type(caught.value) is StoreError
                assert caught.match("Nothing was changed")
                assert isinstance(caught.value.__cause__, RedisError)
                assert expected in repr(caught.value.__cause__.args)
            if readable:
                assert store.get("u") == before
            else:
                assert kind_of(lambda: store.get("u")) is StoreError
        assert store.get("u") == before
        store.ping()
        store.update("u", adding(real_now))


def test_loading_server_is_unavailable() -> None:
    """Until it has loaded: then the records are back, and the same store goes on."""
    slowly = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no")
    with valkey(*slowly) as server, opened(server.url) as store:
        for number in range(60):
            put(store, f"u{number}", a_record(real_now, note="x" * 2000))
        with server.client() as client:
            client.save()
        server.kill()
        server.start(until=lambda client: client.info("persistence")["loading"])
        for name in ("ping", "get", "update", "erase"):
            assert kind_of(lambda: CALLS[name](store, "u1")) is StoreError  # noqa: B023 - called at once
        assert "maxmemory" not in "".join(store.startup_warnings()), "INFO works while it loads"
        eventually(store.ping)
        assert store.update("u1", adding(real_now)) == 1
        assert len(list(store.scan())) == 60


def test_server_that_cannot_save_is_unavailable(tmp_path: Path) -> None:
    """It rejects writes as long as its snapshots fail."""
    home = tmp_path / "home"
    home.mkdir()
    with valkey("--dir", str(home)) as server, opened(server.url) as store, server.client() as client:
        before = put(store, "u", a_record(real_now))
        client.config_set("save", "3600 100000")
        shutil.rmtree(home)
        client.bgsave()
        server.wait_until(lambda client: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        assert [kind_of(store.ping), kind_of(lambda: store.update("u", adding(real_now)))] == [StoreError] * 2
        assert store.get("u") == before
        client.config_set("save", "")
        store.ping()
        store.update("u", adding(real_now))


def test_full_server_accepts_smaller_records(store: ValkeyStore, admin: Redis, clock: FakeClock) -> None:
    """Writes that grow raise StoreFull; records can be read, made smaller, and removed, and then there is room."""
    small, large = a_record(clock, note="1"), a_record(clock, note="x" * 1000)
    for user_id in ("shrinks", "buried", "removed", "stays"):
        put(store, user_id, large)
    marked = Record("marked", None, (), (MergeMark("m", "s", False, clock(), clock()),), None, clock() + DAY)  # noqa: FBT003
    with configured(admin, maxmemory=1, maxmemory_policy="noeviction"):
        for call in (
            store.ping,
            lambda: put(store, "new", small),
            lambda: put(store, "new", marked),
            lambda: put(store, "stays", a_record(clock, note="x" * 1001)),
        ):
            assert kind_of(call) is StoreFull
        admin.script_flush()  # it is given again even now
        put(store, "shrinks", small)
        put(store, "buried", Record("t", None, (), (), None, clock() + DAY))
        put(store, "buried", marked)
        remove(store, "removed")
        assert {user_id: record.cart for user_id, record in store.scan()} == {
            "shrinks": small.cart,
            "buried": None,
            "stays": large.cart,
        }
        store.delete("stays")
    store.ping()
    put(store, "new", small)


def test_killed_server_is_unavailable_until_restarted() -> None:
    """With an append-only file no acknowledged write is lost; old connections fail no request."""
    with valkey("--appendonly", "yes", "--appendfsync", "always") as server, opened(server.url, timeout=TIME) as store:
        end_twice(server, store)


def test_restart_fails_no_request() -> None:
    """All idle connections were cut."""
    with valkey() as server, opened(server.url) as store:
        at_once(THREADS, lambda number: store.get(f"u{number}"))
        server.kill()
        server.start()
        at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
        assert [quantity(store, f"u{number}") for number in range(THREADS)] == [1] * THREADS


def test_new_primary_of_the_same_name(server: Valkey, admin: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """After READONLY the name is resolved again, because it may point to another server."""
    with valkey() as promoted, opened(server.url) as store:
        at_once(THREADS, lambda _: store.ping())
        admin.execute_command("REPLICAOF", "127.0.0.1", promoted.port)
        try:
            config = store._client.connection_pool.connection_kwargs
            monkeypatch.setitem(config, "port", promoted.port)
            assert kind_of(store.ping) is StoreError
            at_once(THREADS, lambda _: store.update("u", adding(real_now)))
        finally:
            admin.execute_command("REPLICAOF", "NO", "ONE")


def test_host_without_an_address_is_unavailable() -> None:
    """A name without an address; and names that a URL rejects: with an empty part, or one that is too long."""
    for host in ("a..b", "x" * 64, "nowhere.invalid"):
        store = ValkeyStore(ValkeyConfig(hosts=((host, 6379),)), clock=real_now, timeout=AMPLE)
        assert kind_of(store.ping) is StoreError
        store.close()
