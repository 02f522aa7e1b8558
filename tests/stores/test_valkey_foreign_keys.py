"""Keys of other programs under the prefix of ours, on a real server: one cart of its own, named, and removable."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cartsvc import create_app
from cartsvc.errors import RecordUnreadable, StoreError
from cartsvc.stores import open_store
from cartsvc.stores.urls import parse_store_url
from tests.support.flask_cli import flask, run_here
from tests.support.records import a_record, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis

    from cartsvc.carts.store import CartStore
    from tests.support.valkeys import Valkey

pytestmark = pytest.mark.usefixtures("nothing_set")

# How another program may have made the key of this name.
FOREIGN: dict[bytes, Callable[[Redis, bytes], object]] = {
    b"hash": lambda admin, key: admin.hset(key, "sku-1", 2),
    b"list": lambda admin, key: admin.rpush(key, "sku-1"),
    b"set": lambda admin, key: admin.sadd(key, "sku-1"),
    b"text": lambda admin, key: admin.set(key, "{}"),
    b"empty": lambda admin, key: admin.set(key, ""),
    "ü/x".encode(): lambda admin, key: admin.set(key, "1"),
    b"\xff\x1b[31m": lambda admin, key: admin.hset(key, "a", "b"),
    b"": lambda admin, key: admin.set(key, "1"),
    b"/": lambda admin, key: admin.hset(key, "a", "b"),
    b"n" * 300: lambda admin, key: admin.set(key, "1"),
}
NAMES = {b"hash", b"list", b"set", b"text", b"empty"}  # that are user ids


@pytest.fixture
def admin(server: Valkey) -> Iterator[Redis]:
    """A client of the test's own; the server has 20 carts and every foreign key."""
    with server.client() as client:
        client.flushall()
        with opened(server) as store:
            for number in range(20):
                put(store, f"user-{number}", a_record(clock))
        for name, make in FOREIGN.items():
            make(client, b"cart:" + name)
        client.set("LIMITS:LIMITER/user-1", 1)
        yield client


def clock() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def opened(server: Valkey, **options: str) -> Iterator[CartStore]:
    store = open_store(parse_store_url(server.url), clock=clock, memory_limit=0, max_readers=0, timeout=10, **options)
    yield store
    store.close()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_foreign_key_is_unreadable_for_its_cart_alone(
    server: Valkey, admin: Redis, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    """500 whatever is asked of that cart, and nothing is changed; the others and readiness are as ever."""
    monkeypatch.setenv("CARTSVC_STORE_URL", server.url)
    client = create_app().test_client()
    path, mug = f"/cart/{name.decode()}", {"product_id": "mug", "quantity": 1}
    before = admin.dump(b"cart:" + name)
    answers = [
        client.get(path),
        client.post(path, json=mug),
        client.put(path, json={"items": [mug]}),
        client.delete(path),
        client.get(f"{path}/items/mug"),
        client.patch(f"{path}/items/mug", json={"quantity": 1}),
        client.post(f"{path}/merge", json={"from_user_id": "user-1"}),
    ]
    assert {(each.status_code, each.json["type"]) for each in answers} == {
        (500, "urn:cartsvc:problem:record-unreadable")
    }
    assert admin.dump(b"cart:" + name) == before
    assert client.post("/cart/user-2", json=mug).status_code == 200
    assert client.get("/readyz").json == {"status": "ok", "writes": "ok"}


def test_a_key_that_becomes_foreign_in_a_write_is_unreadable(server: Valkey, admin: Redis) -> None:
    """Between reading and writing: what the script finds is an error of that cart as well."""

    def change(_: object) -> tuple[None, None]:
        admin.delete("cart:user-1")
        admin.hset("cart:user-1", "a", "b")
        return None, None

    with opened(server) as store, pytest.raises(RecordUnreadable):
        store.update("user-1", change)
    assert admin.hgetall("cart:user-1") == {b"a": b"b"}


def test_a_script_of_others_meets_no_record(server: Valkey, admin: Redis) -> None:
    """The counter of the rate limit takes a key of another type for a store that fails."""
    from cartsvc.stores import open_script_runner  # noqa: PLC0415 - of this test alone

    admin.hset("LIMITS:x", "a", "b")
    run = open_script_runner(parse_store_url(server.url), clock=clock, timeout=10)
    assert run is not None
    with pytest.raises(StoreError):
        run(b"return redis.call('GET', KEYS[1])", ["LIMITS:x"], [])


def test_stats_and_export_name_foreign_keys_and_go_on(server: Valkey, admin: Redis, tmp_path: Path) -> None:
    """All carts are counted and exported; each foreign key has a line that a terminal can show; the status is 1."""
    assert admin.dbsize() == 20 + len(FOREIGN) + 1
    counted = run_here("stats", url=server.url)
    assert counted.exit_code == 1
    told = json.loads(counted.stdout)
    assert (told["carts"], told["unreadable"]) == (20, len(FOREIGN))
    exported = run_here("export", str(tmp_path / "carts.jsonl"), url=server.url)
    assert exported.exit_code == 1
    assert len((tmp_path / "carts.jsonl").read_text().splitlines()) == 20
    for said in (counted.stderr, exported.stderr):
        assert said.isascii()
        assert "\x1b" not in said
        assert "LIMITS" not in said
        for start in ("hash: ", "text: ", "'\\xc3\\xbc/x': ", "'\\xff\\x1b[31m': ", "'': ", "'/': ", "'nnnnn"):
            assert said.count(f"\n{start}") + said.startswith(start) == 1, start
        assert "(WRONGTYPE Operation against a key holding the wrong kind of value)" in said
        assert "(its name is no user_id)" in said


def test_foreign_keys_can_be_removed(server: Valkey, admin: Redis) -> None:
    """All at once, or that of one user; what was removed is said, and no cart and no counter is."""
    for user, said in [
        ("hash", "hash: an unreadable record was deleted."),
        ("hash", "hash: nothing was stored."),
        ("user-1", "user-1: a cart was deleted, number of items: 0."),
    ]:
        purged = run_here("purge", "--user", user, "--yes", url=server.url)
        assert (purged.exit_code, purged.stderr.strip()) == (0, said)
    purged = run_here("purge", "--unreadable", "--yes", url=server.url)
    assert purged.exit_code == 0
    assert f"{len(FOREIGN) - 1} unreadable records deleted." in purged.stderr
    assert admin.dbsize() == 19 + 1
    assert run_here("stats", url=server.url).exit_code == 0


def test_the_command_line_has_the_drivers_words(server: Valkey, admin: Redis) -> None:
    """A server that refuses is not the same as one that is gone."""
    admin.execute_command("ACL", "SETUSER", "default", "-scan")
    try:
        refused = flask("stats", url=server.url)
    finally:
        admin.execute_command("ACL", "SETUSER", "default", "+scan")
    assert refused.returncode == 1
    assert refused.stderr.startswith(b"Error: The store is temporarily unavailable. Nothing was changed. (NOPERM ")


# ---- the prefix ----


def test_each_prefix_has_carts_of_its_own(server: Valkey, admin: Redis) -> None:
    """Two shops on one database, and the keys of another program beside them; a user may be let into one only."""
    with opened(server, key_prefix="shop-2:") as store:
        record = put(store, "user-1", a_record(clock))
        assert list(store.scan()) == [("user-1", record)]
        assert admin.exists("shop-2:user-1") == 1
    admin.execute_command("ACL", "SETUSER", "two", "on", ">password", "~shop-2:*", "+@all")
    admin.acl_log_reset()
    config = parse_store_url(server.url.replace("://", "://two:password@"))
    store = open_store(config, clock=clock, memory_limit=0, max_readers=0, timeout=10, key_prefix="shop-2:")
    store.ping()
    assert store.get("user-1") == record
    put(store, "user-1", a_record(clock))
    assert store.delete("user-1") is not None
    store.close()
    assert admin.acl_log() == []
    with opened(server) as ours:
        assert ours.get("user-1") is not None


def test_the_setting_is_the_prefix(server: Valkey, admin: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the service writes is under it."""
    admin.flushall()
    monkeypatch.setenv("CARTSVC_STORE_URL", server.url)
    monkeypatch.setenv("CARTSVC_KEY_PREFIX", "shop/3:")
    assert create_app().test_client().post("/cart/alice", json={"product_id": "mug", "quantity": 1}).status_code == 200
    assert admin.keys() == [b"shop/3:alice"]
