"""Tests of memory://: the contract of all stores, and the directory that the workers of one server share."""

from __future__ import annotations

import os
import time
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cartsvc import shared_directory
from cartsvc.errors import StoreFull, StoreUnusable
from cartsvc.shared_directory import LOCK_FILE
from cartsvc.stores import lock_store, memory, open_store, running_store
from cartsvc.stores.lmdb import LmdbStore
from cartsvc.stores.memory import MemoryDirectory, find_server
from cartsvc.stores.urls import LmdbConfig, MemoryConfig
from tests.support.clock import FakeClock
from tests.support.memory_store import MemoryStore
from tests.support.records import a_record, put
from tests.support.store_contract import StoreContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cartsvc.carts.store import CartStore

MIB = 2**20


class TestMemoryStore(StoreContract):
    """The contract, held by the memory store."""

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[MemoryStore]:
        """Closed after the test."""
        store = MemoryStore(clock=clock, limit=2**26)
        yield store
        store.close()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file system that memory:// uses in a test, so that no other server is found there."""
    monkeypatch.setattr(shared_directory, "_MEMORY", tmp_path)
    return tmp_path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def created(*, limit: int = 4 * MIB, private: bool = False) -> MemoryDirectory:
    return MemoryDirectory.create(limit, max_readers=10, private=private)


def opened(config: MemoryConfig, clock: FakeClock, *, limit: int = 4 * MIB) -> CartStore:
    return open_store(config, clock=clock, memory_limit=limit, max_readers=10, timeout=1)


def open_files() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def forgotten(directory: MemoryDirectory) -> Path:
    """Release the lock as the death of a process does, and return the path."""
    directory.leave()
    return Path(directory.path)


def room(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: size)


# ---- one server ----


def test_processes_of_one_server_share_the_carts(clock: FakeClock) -> None:
    """A worker opens the directory that the first process of the server has created."""
    directory = lock_store(MemoryConfig(), memory_limit=4 * MIB, max_readers=10)
    assert isinstance(directory, MemoryDirectory)
    config = MemoryConfig(directory.path)
    first = opened(config, clock)
    record = put(first, "alice", a_record(clock))
    first.close()
    second = opened(config, clock)
    assert second.get("alice") == record
    second.close()
    directory.close()
    assert not Path(directory.path).exists()


def test_the_directory_is_for_its_owner_only() -> None:
    """Carts of shoppers are in it."""
    directory = created()
    assert Path(directory.path).stat().st_mode & 0o077 == 0
    assert {file.stat().st_mode & 0o077 for file in Path(directory.path).iterdir()} == {0}
    directory.close()


def test_the_lock_file_has_all_its_pages() -> None:
    """It is written through a map: in a full memory a missing page would kill the process (SIGBUS)."""
    directory = created()
    status = (Path(directory.path) / "lock.mdb").stat()
    assert status.st_blocks * 512 >= status.st_size
    directory.close()


def test_the_last_process_removes_the_directory() -> None:
    """Whatever the order in which they end."""
    directory = created()
    worker = MemoryDirectory(directory.path)
    directory.close()
    assert Path(directory.path).exists()
    worker.close()
    worker.close()
    assert not Path(directory.path).exists()


def test_a_forked_process_removes_nothing() -> None:
    """It has a copy of everything, also of what removes the directory at its end."""
    directory = created()
    pid = os.fork()
    if pid == 0:
        directory.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert Path(directory.path).exists()
    directory.close()


def test_a_store_without_a_server_has_a_directory_of_its_own(place: Path, clock: FakeClock) -> None:
    """It is removed with the store, also if the store is never closed."""
    first, second = opened(MemoryConfig(), clock), opened(MemoryConfig(), clock)
    put(first, "alice", a_record(clock))
    assert second.get("alice") is None
    assert len(list(place.iterdir())) == 2
    first.close()
    assert len(list(place.iterdir())) == 1
    del second
    assert list(place.iterdir()) == []


def test_a_store_that_is_never_closed_leaves_no_open_file(clock: FakeClock) -> None:
    """The tests of a shop create many apps, and close none."""
    before = open_files()
    store = opened(MemoryConfig(), clock)
    put(store, "alice", a_record(clock))
    assert open_files() > before
    del store
    assert open_files() == before


# ---- leftovers ----


@pytest.mark.parametrize("private", [False, True])
def test_a_start_removes_what_a_killed_server_left(*, private: bool) -> None:
    """Of every kind; what another process uses stays, and so do files that are not ours."""
    used, left = created(), forgotten(created(private=private))
    other = left.with_name("cartsvc-other")
    other.mkdir()
    assert left.exists()
    created().close()
    assert (left.exists(), Path(used.path).exists(), other.exists()) == (False, True, True)
    used.close()


def test_a_start_removes_a_directory_that_was_never_locked(place: Path) -> None:
    """A server that was killed while it created its directory has left no lock; a fresh one may still create it."""
    fresh, old = place / "cartsvc-memory-fresh", place / "cartsvc-memory-old"
    for each in (fresh, old):
        each.mkdir()
    os.utime(old, times=(time.time() - 61,) * 2)
    created().close()
    assert (fresh.exists(), old.exists()) == (True, False)


def test_a_start_follows_no_link(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a directory that all users may write to, a link could name any directory."""
    target = tmp_path_factory.mktemp("target")
    (target / LOCK_FILE).touch()
    (place / "cartsvc-memory-link").symlink_to(target)
    created().close()
    assert (target / LOCK_FILE).exists()


def test_a_directory_of_another_user_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is theirs."""
    left = forgotten(created())
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        created().close()
    assert left.exists()


def test_a_start_takes_no_directory_that_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another start, in the middle, neither removes it nor takes it for that of a running server."""
    create_files, others = memory._create_files, []  # noqa: SLF001 - no other moment is in the middle

    def start_another(path: str, size: int, max_readers: int) -> None:
        create_files(path, size, max_readers)
        monkeypatch.setattr(memory, "_create_files", create_files)
        others.append(created())
        assert find_server() == others[0].path

    monkeypatch.setattr(memory, "_create_files", start_another)
    directory = created()
    (other,) = others
    assert (Path(directory.path) / "data.mdb").exists()
    assert Path(other.path).exists()
    for each in (directory, other):
        each.close()


def test_the_carts_of_a_server_that_stopped_are_not_there(clock: FakeClock) -> None:
    """An empty store in their place would look as if all carts were gone."""
    directory = created()
    directory.close()
    with pytest.raises(StoreUnusable, match="contains no carts: its server has stopped"):
        opened(MemoryConfig(directory.path), clock)
    assert not Path(directory.path).exists()


# ---- room ----


def test_the_limit_bounds_the_file(clock: FakeClock) -> None:
    """Half of it is for carts."""
    store = opened(MemoryConfig(), clock, limit=2 * MIB)
    assert isinstance(store, LmdbStore)

    def fits(number: int) -> bool:
        try:
            put(store, f"user-{number}", a_record(clock, note="x" * 10_000))
        except StoreFull:
            return False
        return True

    assert 60 < sum(1 for _ in takewhile(fits, count())) < 110
    store.close()


def test_the_limit_shrinks_to_the_room_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MiB is left to other files."""
    room(monkeypatch, 64 * MIB)
    directory = created(limit=512 * MIB)
    assert directory.size == 63 * MIB
    directory.close()


def test_without_room_there_is_no_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file system, and no directory is left."""
    room(monkeypatch, 2 * MIB - 1)
    with pytest.raises(StoreUnusable, match=rf"{place} has 2097151 bytes left, and memory:// needs at least 2097152"):
        created()
    assert list(place.iterdir()) == []


def test_without_dev_shm_the_temporary_directory_is_used(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(shared_directory, "_MEMORY", temporary / "absent")
    monkeypatch.setattr(shared_directory.tempfile, "tempdir", str(temporary))
    directory = created()
    assert Path(directory.path).parent == temporary
    directory.close()


# ---- commands ----


def test_a_command_finds_the_server_beside_it() -> None:
    """A private directory is no server's, and one that a killed server left has no server."""
    server, private = created(), created(private=True)
    assert running_store(MemoryConfig()) == MemoryConfig(server.path)
    server.close()
    left = forgotten(created())
    with pytest.raises(StoreUnusable, match="no server with CARTSVC_STORE_URL=memory:// runs here as this user"):
        find_server()
    assert left.exists()
    private.close()


def test_of_several_servers_one_has_to_be_named() -> None:
    """The error lists their URLs."""
    servers = sorted([created(), created()], key=lambda each: each.path)
    with pytest.raises(StoreUnusable, match="2 servers run here") as error:
        find_server()
    assert str(error.value).endswith(" ".join(f"memory://{each.path}" for each in servers))
    named = MemoryConfig(servers[0].path)
    assert running_store(named) == named
    for each in servers:
        each.close()


def test_other_stores_are_found_by_their_url() -> None:
    """Without a search."""
    config = LmdbConfig("/var/lib/cartsvc")
    assert running_store(config) is config
