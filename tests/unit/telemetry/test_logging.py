"""Holds the log of a store to its promises: a line when a failure begins, a line when it is over, and no user id."""

from __future__ import annotations

import logging
import os
import re
import resource
import shutil
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from cartsvc.errors import OutcomeUnknown, RecordUnreadable, StoreError, StoreFull
from cartsvc.stores.lmdb import LmdbStore
from cartsvc.stores.urls import LmdbConfig, ValkeyConfig, parse_store_url
from cartsvc.stores.valkey import ValkeyStore
from cartsvc.telemetry.logging import LoggedStore
from tests.support.clock import FakeClock
from tests.support.memory_store import MemoryStore
from tests.support.records import a_record, put, putting, remove
from tests.support.servers import serve
from tests.support.services import FakeSeconds
from tests.support.store_contract import StoreContract
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from cartsvc.carts.record import Record
    from tests.support.valkeys import Valkey

ALICE = "alice@shop.example"
DIGEST = "33da9a7fa10b5975"


class Flaky(MemoryStore):
    """A memory store that raises ``error`` while there is one, from ``cause``."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock, limit=2**30)
        self.failing: dict[str, Exception] = {}  # by the call's name

    def fail(self, error: Exception, cause: Exception | None = None, *, on: str = "get update ping delete") -> None:
        """Let these calls fail from now on."""
        error.__cause__ = cause
        self.failing = dict.fromkeys(on.split(), error)

    def recover(self) -> None:
        """Let no call fail."""
        self.failing = {}

    def get(self, user_id: str) -> Record | None:
        """Get it."""
        self._raise("get")
        return super().get(user_id)

    def update(self, user_id: str, change: Callable[[Record | None], Any]) -> Any:
        """Update it."""
        self._raise("update")
        return super().update(user_id, change)

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Delete it."""
        self._raise("delete")
        return super().delete(user_id)

    def ping(self) -> None:
        """Succeed."""
        self._raise("ping")

    def _raise(self, call: str) -> None:
        if call in self.failing:
            raise self.failing[call]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time_ns() // 1_000_000)


@pytest.fixture
def seconds() -> FakeSeconds:
    return FakeSeconds()


@pytest.fixture
def inner(clock: FakeClock) -> Flaky:
    return Flaky(clock)


@pytest.fixture
def store(inner: Flaky, seconds: FakeSeconds) -> LoggedStore:
    return LoggedStore(inner, monotonic=seconds)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged since the last call."""
    caplog.set_level(logging.DEBUG)

    def taken() -> list[str]:
        messages = caplog.messages
        assert all(each.exc_info is None for each in caplog.records)
        caplog.clear()
        return messages

    return taken


class TestContract(StoreContract):
    """The suite of all stores: a wrapper changes nothing, though an outage is going on that never ends."""

    THREADS = 8
    ADDS = 40
    PART = 4

    @pytest.fixture(params=["well", "in an outage"])
    def store(self, clock: FakeClock, request: pytest.FixtureRequest) -> LoggedStore:
        """The store under test."""
        inner = Flaky(clock)
        store = LoggedStore(inner, monotonic=lambda: 0.0)
        if request.param == "in an outage":
            inner.fail(StoreError(), ConnectionError(), on="ping")
            attempt(store.ping)
            inner.recover()
        return store


def attempt(call: Callable[[], object]) -> bool:
    """Make the call, and return whether it succeeded."""
    try:
        call()
    except (StoreError, RecordUnreadable):
        return False
    return True


def calls(store: LoggedStore, clock: FakeClock) -> list[bool]:
    """Make each kind of call for Alice, twice; returns which of them succeeded."""
    each = (
        lambda: store.get(ALICE),
        lambda: put(store, ALICE, a_record(clock, note="1" * 500)),
        store.ping,
        lambda: remove(store, ALICE),
    )
    return [attempt(call) for _ in range(2) for call in each]


# ---- each kind of failure, on real stores ----


def _set(admin: Redis, name: str, value: object) -> None:
    admin.config_set(name, value)


def _kill_clients(admin: Redis) -> None:
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def _lock(_: Valkey, admin: Redis) -> None:
    _set(admin, "requirepass", "geheim")
    _kill_clients(admin)


def _lose_disk(server: Valkey, admin: Redis) -> None:
    home = Path(admin.config_get("dir")["dir"]) / "home"
    home.mkdir()
    _set(admin, "dir", str(home))
    _set(admin, "save", "3600 100000")
    shutil.rmtree(home)
    admin.bgsave()
    server.wait_until(lambda client: client.info("persistence")["rdb_last_bgsave_status"] == "err")


# How the server is hurt and healed, and what the log has of it.
FAULTS: dict[str, tuple[Callable[[Valkey, Redis], object], Callable[[Valkey, Redis], object], str]] = {
    "refused": (lambda server, _: server.kill(), lambda server, _: server.start(), "store unavailable: .*onnect"),
    "timed out": (lambda server, _: server.pause(), lambda server, _: server.resume(), "store unavailable: .*[Tt]ime"),
    "NOAUTH": (_lock, lambda _, admin: _set(admin, "requirepass", ""), "store unavailable: NOAUTH Auth"),
    "NOPERM": (
        lambda _, admin: admin.execute_command("ACL", "SETUSER", "default", "-evalsha"),
        lambda _, admin: admin.execute_command("ACL", "SETUSER", "default", "+evalsha"),
        "store unavailable: NOPERM .*'evalsha'",
    ),
    "READONLY": (
        lambda _, admin: admin.execute_command("REPLICAOF", "127.0.0.1", 1),
        lambda _, admin: admin.execute_command("REPLICAOF", "NO", "ONE"),
        "store unavailable: READONLY ",
    ),
    "MISCONF": (_lose_disk, lambda _, admin: _set(admin, "save", ""), "store unavailable: MISCONF "),
    "OOM": (
        lambda _, admin: _set(admin, "maxmemory", 1),
        lambda _, admin: _set(admin, "maxmemory", 0),
        "store full: OOM .*'maxmemory'",
    ),
    "WRONGTYPE": (
        lambda _, admin: (admin.delete(f"cart:{ALICE}"), admin.hset(f"cart:{ALICE}", "sku", 1)),
        lambda _, admin: admin.delete(f"cart:{ALICE}"),
        f"record unreadable, digest {DIGEST}: WRONGTYPE ",
    ),
    "unreadable": (
        lambda _, admin: admin.set(f"cart:{ALICE}", "{}"),
        lambda _, admin: admin.delete(f"cart:{ALICE}"),
        f"record unreadable, digest {DIGEST}: The stored record",
    ),
}


@pytest.mark.server
@pytest.mark.parametrize(("hurt", "heal", "words"), FAULTS.values(), ids=FAULTS)
def test_a_failure_of_valkey_is_two_lines(
    clock: FakeClock,
    seconds: FakeSeconds,
    lines: Callable[[], list[str]],
    *,
    hurt: Callable[[Valkey, Redis], object],
    heal: Callable[[Valkey, Redis], object],
    words: str,
) -> None:
    """One when it begins, with the driver's words, and one when it is over; none of them has a user id."""
    with (
        valkey("--enable-protected-configs", "yes") as server,
        server.client(retry=None) as admin,
        _opened(server.url) as plain,
    ):
        store = LoggedStore(plain, monotonic=seconds)
        assert all(calls(store, clock))
        assert lines() == []
        hurt(server, admin)
        failed = calls(store, clock).count(False)
        seconds.advance(12.5)
        failed += calls(store, clock).count(False)
        assert failed >= 4
        (begun,) = lines()
        assert re.match(words, begun), begun
        heal(server, admin)
        _until_well(store, clock)
        seconds.advance(5)
        assert all(calls(store, clock))
        (over,) = lines()
        assert over.startswith("over after 12.5 s, failed calls: ")
        assert over.endswith(begun)
        assert ALICE not in begun


@contextmanager
def _opened(url: str) -> Iterator[ValkeyStore]:
    place = parse_store_url(url)
    assert isinstance(place, ValkeyConfig)
    store = ValkeyStore(place, clock=lambda: time.time_ns() // 1_000_000, timeout=0.3)
    yield store
    store.close()


def _until_well(store: LoggedStore, clock: FakeClock) -> None:
    deadline = time.monotonic() + 20
    while not all(calls(store, clock)):
        assert time.monotonic() < deadline


def test_a_full_disk_is_two_lines(
    tmp_path: Path,
    clock: FakeClock,
    seconds: FakeSeconds,
    lines: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LMDB's words; it is over when carts grow again, and not when they are removed."""
    plain = LmdbStore(LmdbConfig(str(tmp_path), "off", 2**26), clock=clock, max_readers=10)
    store = LoggedStore(plain, monotonic=seconds)
    full = os.statvfs_result([0 if n == 4 else each for n, each in enumerate(os.statvfs(tmp_path))])  # f_bavail
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda _: full)
            results = [
                attempt(partial(put, store, f"{ALICE}-{number}", a_record(clock, note="x" * 9000)))
                for number in range(200)
            ]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (results[0], results[-1]) == (True, False)
    (begun,) = lines()
    assert begun.startswith("store full: mdb_txn_commit: ")
    for number in range(3):
        remove(store, f"{ALICE}-{number}")
        seconds.advance(5)
    assert lines() == []
    for _ in range(2):
        put(store, f"{ALICE}-3", a_record(clock, note="x" * 10_000))
        remove(store, f"{ALICE}-3")
        seconds.advance(5)
    assert lines() == [f"over after 15.0 s, failed calls: {results.count(False)}: {begun}"]
    plain.close()


@pytest.mark.server
def test_what_a_server_repeats_of_a_command_is_left_out(seconds: FakeSeconds, lines: Callable[[], list[str]]) -> None:
    """A server that does not know a command returns its arguments: a key, or a password."""
    with valkey("--rename-command", "EVALSHA", "") as server, _opened(server.url) as plain:
        store = LoggedStore(plain, monotonic=seconds)
        with pytest.raises(StoreError) as raised:
            store.update(ALICE, putting(a_record(lambda: time.time_ns() // 1_000_000)))
        assert ALICE in str(raised.value.__cause__), "this test can fail"
        (line,) = lines()
        assert line == "store unavailable: ERR unknown command 'EVALSHA'"


# ---- when a line is due ----


def test_a_success_costs_no_look_at_the_clock(inner: Flaky, clock: FakeClock) -> None:
    """While no call fails, no clock is read, and nothing is locked or counted."""

    def never() -> float:
        raise AssertionError

    store = LoggedStore(inner, monotonic=never)
    store._lock = None  # type: ignore[assignment]  # noqa: SLF001 - it is not to be used
    assert all(calls(store, clock))
    assert store.delete(ALICE) is None
    assert (store.purge_expired(), list(store.scan()), store.startup_warnings()) == (0, [], [])


def test_each_kind_has_its_line(store: LoggedStore, inner: Flaky, lines: Callable[[], list[str]]) -> None:
    """A second kind of failure is logged though the first one is not over, and a repeated one is not."""
    kinds = [
        (StoreError(), ResponseError("MISCONF no disk")),
        (StoreError(), ResponseError("NOREPLICAS Not enough")),
        (OutcomeUnknown(), TimeoutError("no time is left")),
        (StoreFull(), None),
    ]
    for _ in range(2):
        for error, cause in kinds:
            inner.fail(error, cause)
            attempt(lambda: store.get("u"))
    assert lines() == [
        "store unavailable: MISCONF no disk",
        "store unavailable: NOREPLICAS Not enough",
        "store unavailable: no time is left",
        f"store full: {StoreFull()}",
    ]


def test_a_failure_that_comes_and_goes_is_logged_once_a_minute(
    store: LoggedStore, inner: Flaky, seconds: FakeSeconds, clock: FakeClock, lines: Callable[[], list[str]]
) -> None:
    """At most one beginning a minute, and an end for each beginning that was logged."""
    messages: list[str] = []
    for _ in range(20):  # ten minutes, in each of which it fails twice
        inner.fail(StoreError(), ConnectionError("gone"))
        attempt(lambda: store.get("u"))
        inner.recover()
        for _ in range(2):
            calls(store, clock)
            seconds.advance(15)
        messages += lines()
    assert [line.startswith("over") for line in messages] == [False, True] * 10


def test_one_success_among_failures_ends_nothing(
    store: LoggedStore, inner: Flaky, seconds: FakeSeconds, clock: FakeClock, lines: Callable[[], list[str]]
) -> None:
    """One node of a cluster is down and the others respond: that is one outage, and it lasts until calls succeed."""
    for _ in range(100):
        inner.fail(StoreError(), ConnectionError("gone"))
        attempt(lambda: store.get("u"))
        inner.recover()
        calls(store, clock)
        seconds.advance(4)
    assert lines() == ["store unavailable: gone"]
    calls(store, clock)
    seconds.advance(1)
    calls(store, clock)
    assert lines() == ["over after 396.0 s, failed calls: 100: store unavailable: gone"]


def test_an_outage_that_nothing_has_ended_ends_before_the_next(
    store: LoggedStore, inner: Flaky, seconds: FakeSeconds, lines: Callable[[], list[str]]
) -> None:
    """Hours without a call do not count as hours of failure."""
    for number in range(2):
        inner.fail(StoreError(), ConnectionError(f"gone {number}"))
        attempt(lambda: store.get("u"))
        inner.recover()
        seconds.advance(1)
        store.get("u")
        seconds.advance(10_000)
    first = "store unavailable: gone 0"
    assert lines() == [first, f"over after 1.0 s, failed calls: 1: {first}", "store unavailable: gone 1"]


@pytest.mark.parametrize(
    ("cause", "proof"),
    [
        (ConnectionError("refused"), "get"),
        (ResponseError("READONLY a replica"), "ping"),
        (ResponseError("NOPERM this user"), "update"),
        (RuntimeError("disk"), "update"),
    ],
    ids=repr,
)
def test_a_failed_write_is_over_when_it_is_shown_to_be(
    store: LoggedStore,
    inner: Flaky,
    seconds: FakeSeconds,
    clock: FakeClock,
    lines: Callable[[], list[str]],
    *,
    cause: Exception,
    proof: str,
) -> None:
    """A replica can be read, and a user who may run a script may lack what it calls: a success there ends nothing."""
    inner.fail(StoreError(), cause, on="update")
    attempt(lambda: remove(store, "u"))
    assert len(lines()) == 1
    inner.recover()
    successes: dict[str, Callable[[], object]] = {
        "get": lambda: store.get("u"),
        "ping": store.ping,
        "update": lambda: put(store, "u", a_record(clock)),
    }
    for name, call in successes.items():
        for _ in range(2):
            call()
            store.update("u", lambda record: (record, None))  # writes nothing, and so shows no more than a get
            seconds.advance(5)
        assert bool(lines()) == (name == proof), name


def test_what_a_change_raises_is_no_failure(store: LoggedStore, inner: Flaky, lines: Callable[[], list[str]]) -> None:
    """It comes out as it is, in an outage too."""

    def refuse(_: Record | None) -> tuple[None, None]:
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError, match=r"^$"):
            store.update("u", refuse)
        assert len(lines()) == 0
        inner.fail(StoreError(), on="ping")
        attempt(store.ping)
        inner.recover()
        lines()


def test_unreadable_records_are_named_by_digests(
    store: LoggedStore, inner: Flaky, seconds: FakeSeconds, lines: Callable[[], list[str]]
) -> None:
    """One a minute, each once; the end of one is not the end of another; the remembered ones are bounded."""
    inner.fail(RecordUnreadable(), on="get")
    for users in (200, 200, 300):
        for number in range(users):
            attempt(partial(store.get, f"{ALICE}-{number}"))
        seconds.advance(60)
    begun = lines()
    assert len(begun) == len(set(begun)) == 3
    assert not [line for line in begun if "alice" in line]
    assert len(store._outages) == 256  # noqa: SLF001 - how many it remembers
    inner.recover()
    store.get("other")
    store.delete(f"{ALICE}-299")
    store.get(f"{ALICE}-298")
    assert len(store._outages) == 254  # noqa: SLF001 - as above


def test_a_user_id_in_the_drivers_words_is_left_out(
    store: LoggedStore, inner: Flaky, lines: Callable[[], list[str]]
) -> None:
    """Also as a part of a key."""
    inner.fail(StoreError(), RedisError(f"ODD the key 'cart:{ALICE}' of {ALICE}\r\nis odd"))
    attempt(lambda: store.get(ALICE))
    inner.fail(StoreError(), AuthenticationError("", status_code="NOAUTH"))
    attempt(lambda: store.get(ALICE))
    inner.fail(StoreError(), TimeoutError())
    attempt(lambda: store.get(ALICE))
    assert lines() == [
        "store unavailable: ODD the key 'cart:...' of ... is odd",
        "store unavailable: NOAUTH",
        "store unavailable: TimeoutError",
    ]


@pytest.mark.server
def test_the_calls_of_one_request_share_its_time(seconds: FakeSeconds) -> None:
    """The wrapper hands this on as well."""
    with valkey() as server, _opened(server.url) as plain:
        store = LoggedStore(plain, monotonic=seconds)
        with store.operation() as outer, plain.operation() as inside:
            assert inside is outer


# ---- in the service ----


@pytest.mark.server
def test_the_log_of_the_service_has_it() -> None:
    """One line a worker, whatever asks: a read, a write or readiness; it has no user id and no password."""
    with valkey() as there, there.client() as admin:
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">geheim", "~cart:*", "+@all")
        url = there.url.replace("://", "://shop:geheim@")
        with serve(CARTSVC_STORE_URL=url, WEB_CONCURRENCY="1") as server:
            admin.execute_command("ACL", "SETUSER", "shop", ">changed", "<geheim")
            _kill_clients(admin)
            for _ in range(3):
                for path in ("/readyz", "/cart/alice"):
                    with pytest.raises(urllib.error.HTTPError) as refused:
                        urllib.request.urlopen(f"{server.url}{path}")  # noqa: S310 - our own URL
                    assert refused.value.code == 503
                    refused.value.close()
            server.wait_for_log("store unavailable: WRONGPASS ")
            assert server.log().count("store unavailable") == 1
            assert "alice" not in server.log()
            assert "geheim" not in server.log()
