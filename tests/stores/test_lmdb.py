"""Holds the LMDB store to the contract of all stores, and to its own promises: processes, crashes, room, files."""

# ruff: noqa: SLF001 - how the store keeps its books, and what its file takes, is what is tested here

from __future__ import annotations

import errno
import os
import random
import resource
import stat
import threading
import time
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

import lmdb
import pytest
from msgspec import structs

from cartsvc.carts import record as records
from cartsvc.carts.record import MergeMark, Record
from cartsvc.errors import RecordUnreadable, StoreError, StoreFull, StoreUnusable
from cartsvc.stores import open_store as open_place
from cartsvc.stores.lmdb import LmdbStore
from cartsvc.stores.urls import LmdbConfig, parse_store_url
from tests.support.clock import FakeClock
from tests.support.lmdb_child import Child, add_one, name
from tests.support.records import DAY, RejectedError, a_record, put, remove
from tests.support.store_contract import StoreContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MINUTE = 60_000
MIB = 2**20
SMALL = 4 * MIB  # the smallest map there is
SIZES = {"small": (50, 400), "mixed": (50, 60_000), "large": (5_000, 64_000)}  # bytes of a record
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


class TestLmdbStore(StoreContract):
    """The contract, held by the LMDB store."""

    THREADS = 8
    ADDS = 60

    @pytest.fixture
    def store(self, clock: FakeClock, tmp_path: Path) -> Iterator[LmdbStore]:
        """Closed after a look into its books."""
        store = opened(tmp_path / "carts", clock)
        yield store
        assert_books_are_right(store)
        store.close()


@pytest.fixture
def clock() -> FakeClock:
    # At the beginning of a minute, so that the tests below know what is in it.
    return FakeClock(29_455_384 * MINUTE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "carts"


@pytest.fixture
def store(path: Path, clock: FakeClock) -> Iterator[LmdbStore]:
    store = opened(path, clock)
    yield store
    assert_books_are_right(store)
    store.close()


@pytest.fixture
def small(path: Path, clock: FakeClock) -> Iterator[LmdbStore]:
    store = opened(path, clock, map_size=SMALL)
    yield store
    assert_books_are_right(store)
    store.close()


def opened(path: Path, clock: FakeClock, *, map_size: int = 2**26, readers: int = 100) -> LmdbStore:
    """A store that leaves the disk alone."""
    return LmdbStore(LmdbConfig(str(path), "off", map_size), clock=clock, max_readers=readers)


def tables(store: LmdbStore) -> tuple[dict[bytes, bytes], list[bytes]]:
    """All records' bytes, and all keys of the index."""
    with store._env.begin() as txn:
        with txn.cursor(db=store._records) as cursor:
            kept = dict(cursor)
        with txn.cursor(db=store._expiry_index) as cursor:
            return kept, list(cursor.iternext(values=False))


def assert_books_are_right(store: LmdbStore) -> None:
    """Each record that can be decoded is in the index under its minute; what else is there is of no living record."""
    kept, due = tables(store)
    wanted = set()
    for key, data in kept.items():
        try:
            wanted.add((records.decode(data).expires_at // MINUTE).to_bytes(8, "big") + key)
        except RecordUnreadable:
            continue
    assert wanted <= set(due)


def of_size(clock: FakeClock, size: int, *, lives: int = DAY) -> Record:
    """A record of about so many bytes."""
    return a_record(clock, lives=lives, note="x" * size)


def fill(store: LmdbStore, clock: FakeClock, size: tuple[int, int] = (1000, 1000)) -> dict[str, Record]:
    """Put records in until one is refused; returns those that were not."""
    chance, kept = random.Random(1), {}  # noqa: S311 - not for secrets
    for n in count():
        record = of_size(clock, chance.randint(*size))
        try:
            put(store, f"fill-{n}", record)
        except StoreFull:
            return kept
        kept[f"fill-{n}"] = record
    raise AssertionError


# ---- files and settings ----


@pytest.mark.parametrize(("sync", "flags"), [("on", (True, True)), ("lazy", (True, False)), ("off", (False, False))])
def test_carts_are_there_after_a_restart(path: Path, sync: str, flags: tuple[bool, bool]) -> None:
    """However commits wait for the disk; LMDB is asked for just that."""
    clock = FakeClock()
    config = parse_store_url(f"lmdb://{path}?sync={sync}&map_size=64MiB")
    assert isinstance(config, LmdbConfig)
    store = open_place(config, clock=clock, memory_limit=0, max_readers=10, timeout=1)
    assert isinstance(store, LmdbStore)
    asked = store._env.flags()
    assert (asked["sync"], asked["metasync"]) == flags
    kept = {f"u{n}": put(store, f"u{n}", a_record(clock, note=f"{n}" * 1000)) for n in range(20)}
    remove(store, "u7")
    del kept["u7"]
    store.close()
    store = open_place(config, clock=clock, memory_limit=0, max_readers=10, timeout=1)
    assert dict(store.scan()) == kept
    store.close()


def test_nobody_else_can_read_the_carts(path: Path, store: LmdbStore) -> None:
    """The directory that was made, and each file in it, is the owner's alone."""
    put(store, "u", a_record(FakeClock()))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}
    assert modes == {"data.mdb": 0o600, "lock.mdb": 0o600, "guard": 0o600}


def test_the_file_is_sparse(path: Path, store: LmdbStore) -> None:
    """A large map takes no disk until carts fill it."""
    put(store, "u", a_record(FakeClock()))
    assert (path / "data.mdb").stat().st_blocks * 512 < MIB


def _a_file(path: Path) -> Path:
    path.write_text("")
    return path


def _below_a_file(path: Path) -> Path:
    return _a_file(path) / "carts"


def _another_file_inside(path: Path) -> Path:
    path.mkdir()
    (path / "data.mdb").write_bytes(b"something else" * 1000)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_a_file, "cannot be used for carts: File exists."),
        (_below_a_file, "cannot be used for carts: Not a directory."),
        (_another_file_inside, "cannot be opened: "),
    ],
)
def test_what_is_no_place_for_carts_is_refused(path: Path, make: Callable[[Path], Path], says: str) -> None:
    """The message names the path and the reason; the guard is let go."""
    config = make(path)
    for _ in range(2):
        with pytest.raises(StoreUnusable) as raised:
            opened(config, FakeClock())
        assert str(raised.value).startswith(f"{config} {says}")


def test_a_closed_store_lets_its_directory_go(path: Path) -> None:
    """So does one that could not be opened: then a server in another container may come."""
    opened(path, FakeClock()).close()
    with Child("guard", path, "another container") as other:
        assert other.read_line() == "in"
    (path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        opened(path, FakeClock())
    with Child("guard", path, "another container") as other:
        assert other.read_line() == "in"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_directory_that_cannot_be_written_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Not root's, or read-only: the message says which."""

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreUnusable) as raised:
        opened(path, FakeClock())
    assert str(raised.value) == f"{path} cannot be used for carts: {os.strerror(code)}."


def test_a_second_opening_in_one_process_is_refused(path: Path, store: LmdbStore) -> None:
    """LMDB's locks would break; the first one goes on."""
    with pytest.raises(StoreUnusable, match="already open in this process"):
        opened(path, FakeClock())
    store.ping()


# ---- processes ----


@pytest.mark.parametrize("carts", [1, 7])
def test_processes_lose_no_add(path: Path, store: LmdbStore, carts: int) -> None:
    """Five processes add from one start on: the totals are exact, and so is the sum of the answers."""
    adds, processes = 700, 5
    with ExitStack() as stack:
        children = [stack.enter_context(Child("add", path, 2**26, adds, carts)) for _ in range(processes)]
        assert [child.read_line() for child in children] == ["ready"] * processes
        for child in children:
            child.send_line()
        answers = sum(int(child.read_line()) for child in children)
    each = adds * processes // carts
    assert {user: _version(store, user) for user, _ in store.scan()} == {name(n): each for n in range(carts)}
    assert answers == carts * each * (each + 1) // 2


def test_opening_and_closing_disturbs_nobody(path: Path) -> None:
    """Processes come and go while others write, and come when nobody is there: no add is lost, none fails."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child("reopen", path, 100)) for _ in range(4)]
        assert [child.read_line() for child in children] == ["ready"] * 4
        for child in children:
            child.send_line()
        assert [child.read_line() for child in children] == ["done"] * 4
    store = opened(path, FakeClock())
    assert _version(store, name(0)) == 400
    store.close()


def test_a_process_killed_in_a_write_leaves_all_as_it_was(path: Path, store: LmdbStore) -> None:
    """Who waits for it goes on, and its change is not there; nor is anything half done."""
    store.update("u", add_one(0))
    before = store.get("u")
    answers: list[int] = []
    with Child("write", path, "u") as child:
        assert child.read_line() == "in"
        waiting = threading.Thread(target=lambda: answers.append(store.update("u", add_one(0))))
        waiting.start()
        assert store.get("u") == before
        child.kill()
        waiting.join(20)
    assert answers == [2]
    store.update("u", add_one(0))
    assert _version(store, "u") == 3


def test_a_read_waits_for_no_write(path: Path, store: LmdbStore) -> None:
    """While another process is in the middle of a write, one sees what was there before; and after it what it wrote."""
    store.update("u", add_one(0))
    with Child("write", path, "u") as child:
        assert child.read_line() == "in"
        assert _version(store, "u") == 1
        assert [user for user, _ in store.scan()] == ["u"]
        child.send_line()
        assert child.read_line() == "done"
        assert _version(store, "u") == 2


def test_a_store_opened_before_a_fork_refuses(path: Path) -> None:
    """The child must open its own, as the log says; the parent's goes on as if nothing had been."""
    said = f"StoreError: {StoreError()}"
    with Child("fork", path) as child:
        assert [child.read_line() for _ in range(5)] == [said] * 4 + ["1"]


# ---- readers ----


def test_readers_of_killed_processes_give_their_places_back(path: Path, clock: FakeClock) -> None:
    """With all places taken a read is refused as the store being away; killed readers are found out at once."""
    store = opened(path, clock, readers=2)
    with Child("read", path) as child, store._env.begin():
        assert child.read_line() == "in"
        for _ in range(2):
            with pytest.raises(StoreError):
                store.get("u")
        child.kill()
        assert store.get("u") is None
    store.close()


def test_a_killed_reader_keeps_no_pages(
    path: Path, store: LmdbStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it lives nothing it may read is used again; half a minute after its end the file grows no more."""

    def growth() -> int:
        before = store._env.info()["last_pgno"]
        for _ in range(100):
            put(store, "u", of_size(clock, 3000))
        return store._env.info()["last_pgno"] - before

    growth()
    assert growth() == 0
    with Child("read", path) as child:
        assert child.read_line() == "in"
        assert growth() > 100
        child.kill()
    assert growth() > 100
    later = time.monotonic() + 31
    monkeypatch.setattr(time, "monotonic", lambda: later)
    growth()
    assert growth() == 0


def test_a_new_process_forgets_killed_readers(path: Path, store: LmdbStore) -> None:
    """It looks for them when it opens the store."""
    with Child("read", path) as child:
        assert child.read_line() == "in"
        child.kill()
        assert str(child.pid) in store._env.readers()
        with Child("write", path, "u") as other:
            assert other.read_line() == "in"
            assert str(child.pid) not in store._env.readers()


# ---- expiry ----


def test_each_write_clears_a_few(store: LmdbStore, clock: FakeClock) -> None:
    """Eight at a time, whatever the write does; a read clears nothing."""
    for n in range(40):
        put(store, f"short-{n}", a_record(clock, lives=10))
    clock.advance(MINUTE)
    store.get("short-0")
    assert list(store.scan()) == []
    assert [len(each) for each in tables(store)] == [40, 40]
    put(store, "long", a_record(clock))
    assert [len(each) for each in tables(store)] == [33, 33]
    store.update("long", lambda there: (there, None))
    remove(store, "nobody")
    assert [len(each) for each in tables(store)] == [17, 17]
    with pytest.raises(RejectedError):
        store.update("long", _refuse)
    assert [len(each) for each in tables(store)] == [17, 17]
    for _ in range(2):
        remove(store, "nobody")
    assert [len(each) for each in tables(store)] == [1, 1]


def test_a_purge_clears_all_of_the_minutes_that_are_over(store: LmdbStore, clock: FakeClock) -> None:
    """However many there are; it says how many. One of the running minute waits."""
    for n in range(700):
        put(store, f"short-{n}", a_record(clock, lives=10))
    put(store, "later", a_record(clock, lives=MINUTE + 5))
    long = put(store, "long", a_record(clock))
    clock.advance(MINUTE + 10)
    assert store.purge_expired() == 700
    assert store.purge_expired() == 0
    assert set(tables(store)[0]) == {b"later", b"long"}
    assert dict(store.scan()) == {"long": long}
    clock.advance(MINUTE)
    assert store.purge_expired() == 1


def test_a_record_stands_in_the_index_once(store: LmdbStore, clock: FakeClock) -> None:
    """However often its time changes; when it goes, its entry goes."""
    for lives in (10, MINUTE, 20, 5 * MINUTE, DAY, 30):
        put(store, "u", a_record(clock, lives=lives))
        assert len(tables(store)[1]) == 1
    remove(store, "u")
    assert tables(store) == ({}, [])
    put(store, "u", a_record(clock))
    store.delete("u")
    assert tables(store) == ({}, [])


def test_an_expired_record_that_cannot_be_decoded_is_cleared(
    store: LmdbStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its minute is known from the index. Empty bytes are such a record too."""
    with monkeypatch.context() as patch:
        patch.setattr(records, "encode", lambda _: b"")
        put(store, "u", a_record(clock, lives=10))
    with pytest.raises(RecordUnreadable):
        store.get("u")
    clock.advance(MINUTE)
    remove(store, "nobody")
    assert tables(store) == ({}, [])


# ---- room ----


def test_a_full_store_can_be_read_and_emptied(small: LmdbStore, clock: FakeClock) -> None:
    """Nothing is lost; all but growing works; what is removed makes room again."""
    kept = fill(small, clock)
    assert dict(small.scan()) == kept
    assert {user: small.get(user) for user in kept} == kept
    user, *others = kept
    with pytest.raises(StoreFull):
        put(small, user, of_size(clock, 10_000))
    assert dict(small.scan()) == kept
    kept[user] = put(small, user, of_size(clock, 900))
    mark = MergeMark("m" * 20, "s" * 20, True, clock(), clock() + DAY)  # noqa: FBT003 - the struct's own field

    def mark_absent_carts() -> None:
        for n in range(1000):
            kept[f"new-{n}"] = put(small, f"new-{n}", Record("t", None, (), (mark,), None, clock() + DAY))

    with pytest.raises(StoreFull):
        mark_absent_carts()
    kept[user] = put(small, user, structs.replace(kept[user], tag="marked", merge_marks=(mark,)))
    with pytest.raises(StoreFull):
        small.ping()
    for each in others:
        remove(small, each)
        del kept[each]
    small.ping()
    assert dict(small.scan()) == kept
    assert len(fill(small, clock)) > 0.9 * len(others)


@sizes
def test_at_the_limit_only_growing_is_refused(small: LmdbStore, clock: FakeClock, size: tuple[int, int]) -> None:
    """Thousands of carts come, shrink and go in a full store, whatever its free pages look like by then."""
    chance, new = random.Random(2), count()  # noqa: S311 - not for secrets
    kept = fill(small, clock, size)
    for _ in range(4000):
        user, what = chance.choice(list(kept)), chance.random()
        if what < 0.3:
            remove(small, user)
            del kept[user]
        elif what < 0.5:
            kept[user] = put(small, user, of_size(clock, chance.randint(1, _note(kept[user]))))
        else:
            record = of_size(clock, chance.randint(*size))
            try:
                put(small, user := f"new-{next(new)}", record)
            except StoreFull:
                continue
            kept[user] = record
    assert dict(small.scan()) == kept
    for user in kept:
        remove(small, user)
    assert tables(small) == ({}, [])


@sizes
def test_a_reader_in_the_way_of_a_full_store_costs_no_cart(
    path: Path, small: LmdbStore, clock: FakeClock, size: tuple[int, int]
) -> None:
    """A stuck process may make even a removal find no room; once it is killed, the next one does at once."""
    kept = fill(small, clock, size)
    removed = 0
    with Child("read", path) as child:
        assert child.read_line() == "in"
        for user in list(kept):
            try:
                remove(small, user)
            except StoreFull:
                break
            del kept[user]
            removed += 1
        assert removed >= 30
        assert dict(small.scan()) == kept
        child.kill()
    for user in kept:
        remove(small, user)
    assert list(small.scan()) == []


def test_what_has_expired_counts_as_room(small: LmdbStore, clock: FakeClock) -> None:
    """A ping of a full store takes what the next write would clear for free room."""
    fill(small, clock)
    clock.advance(DAY - 1)
    with pytest.raises(StoreFull):
        small.ping()
    clock.advance(MINUTE + 1)
    small.ping()


def test_a_disk_that_is_gone_is_a_store_away(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ping says so, and not that something is wrong with the service."""

    def gone(_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(os, "statvfs", gone)
    with pytest.raises(StoreError) as raised:
        store.ping()
    assert type(raised.value) is StoreError
    assert isinstance(raised.value.__cause__, FileNotFoundError)


def test_what_has_expired_makes_room(small: LmdbStore, clock: FakeClock) -> None:
    """A cart that finds no room clears expired ones, more than it needs; what it cleared stays cleared."""
    kept = fill(small, clock, (300, 300))
    for user in list(kept)[:2000]:
        put(small, user, of_size(clock, 290, lives=10))
        del kept[user]
    clock.advance(MINUTE)
    small._max_pages -= 150  # as if tombstones had taken them
    refused = 0
    while True:
        try:
            put(small, "new", of_size(clock, 1000))
        except StoreFull:
            refused += 1
        else:
            break
        assert refused < 8
    assert refused > 1
    assert set(dict(small.scan())) == {*kept, "new"}


def test_a_smaller_map_leaves_all_that_is_there(path: Path, clock: FakeClock) -> None:
    """More than it may hold by now: nothing is lost, nothing grows, and removing works until things fit again."""
    store = opened(path, clock, map_size=8 * SMALL)
    kept = fill(store, clock)
    store.close()
    store = opened(path, clock, map_size=SMALL)
    assert dict(store.scan()) == kept
    users = list(kept)
    with pytest.raises(StoreFull):
        put(store, "new", of_size(clock, 1000))
    for user in users[: len(users) * 19 // 20]:
        remove(store, user)
        del kept[user]
    kept["new"] = put(store, "new", of_size(clock, 1000))
    assert dict(store.scan()) == kept
    store.close()


def test_a_larger_map_of_another_process_is_taken_over(path: Path, small: LmdbStore, clock: FakeClock) -> None:
    """A process goes on with its smaller limit, and sees what the other one wrote beyond its own map."""
    kept = fill(small, clock)
    with Child("add", path, 16 * SMALL, 24_000, 12_000) as child:
        assert child.read_line() == "ready"
        child.send_line()
        assert child.read_line() == str(12_000 + 24_000)
    assert small._env.info()["map_size"] == SMALL
    assert small._env.stat()["psize"] * small._env.info()["last_pgno"] > SMALL
    assert _version(small, name(0)) == 2
    assert len(list(small.scan())) == 12_000 + len(kept)
    with pytest.raises(StoreFull):
        put(small, "new", of_size(clock, 1000))
    for user in kept:
        remove(small, user)
    assert len(list(small.scan())) == 12_000


@pytest.fixture(params=[MIB, MIB + 100], ids=["refused", "cut short"])
def no_room(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Give files the room they want again; until then their writes are refused past a size, or cut short at it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.param, limits[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_a_full_store(
    path: Path, store: LmdbStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, no_room: Callable[[], None]
) -> None:
    """No cart is lost, and removing works; once there is room again, so does the rest."""
    full = os.statvfs_result([0 if n == 4 else each for n, each in enumerate(os.statvfs(path))])  # f_bavail
    store.ping()
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: full)
        kept = fill(store, clock, (5000, 9000))
        with pytest.raises(StoreFull):
            store.ping()
        remove(store, kept.popitem()[0])
        for user in list(kept)[: len(kept) // 4]:
            remove(store, user)
            del kept[user]
        store.ping()
    assert len(kept) > 75
    assert dict(store.scan()) == kept
    for user in list(kept)[::2]:
        remove(store, user)
        del kept[user]
    assert dict(store.scan()) == kept
    no_room()
    for n in range(200):
        kept[f"new-{n}"] = put(store, f"new-{n}", of_size(clock, 9000))
    assert dict(store.scan()) == kept


def test_a_write_cut_short_by_another_fault_is_a_store_away(store: LmdbStore, clock: FakeClock) -> None:
    """The disk has room: so it is not that the store is full, and nothing is changed."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB + 100, limits[1]))
    try:
        with pytest.raises(StoreError) as raised:
            put(store, "u", of_size(clock, 2 * MIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert type(raised.value) is StoreError
    assert list(store.scan()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_driver_stays_inside(store: LmdbStore, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """No room is one of ours, and anything else another."""

    class Broken:
        def begin(self, **_: object) -> object:
            if code == errno.ENOSPC:
                raise lmdb.DiskError("mdb_txn_begin", code)
            raise lmdb.Error("mdb_txn_begin", code)

        def reader_check(self) -> int:
            return 0

    expected = StoreFull if code == errno.ENOSPC else StoreError
    with monkeypatch.context() as patch:
        patch.setattr(store, "_env", Broken())
        for call in (lambda: store.get("u"), lambda: remove(store, "u"), lambda: list(store.scan()), store.ping):
            with pytest.raises(StoreError) as raised:
                call()
            assert type(raised.value) is expected


def _version(store: LmdbStore, user_id: str) -> int:
    record = store.get(user_id)
    assert record is not None
    assert record.cart is not None
    return record.cart.version


def _note(record: Record) -> int:
    assert record.cart is not None
    return len(record.cart.items[0].product_id)


def _refuse(_: Record | None) -> tuple[Record | None, None]:
    raise RejectedError
