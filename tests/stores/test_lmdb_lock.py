"""Holds the guard on an LMDB directory to who may come in beside whom."""

# ruff: noqa: SLF001 - who we are is faked here: two containers are a test of their own

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cartsvc.errors import StoreUnusable
from cartsvc.stores import lmdb_lock, lock_store
from cartsvc.stores.lmdb_lock import DirectoryLock
from cartsvc.stores.urls import LmdbConfig, ValkeyConfig
from tests.support.lmdb_child import Child

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "carts"


def test_it_makes_the_directory(path: Path) -> None:
    """For its owner alone; what is there already is left as it is."""
    DirectoryLock(str(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "guard").stat().st_mode) == 0o600
    path.chmod(0o750)
    DirectoryLock(str(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_processes_that_see_each_other_share_it(path: Path) -> None:
    """A server before its fork, its workers, and a command beside them; in one process several times too."""
    held = lock_store(LmdbConfig(str(path)), memory_limit=0, max_readers=1)
    with Child("guard", path, "") as worker, Child("guard", path, "") as command:
        assert [worker.read_line(), command.read_line()] == ["in", "in"]
        DirectoryLock(str(path)).close()
    assert isinstance(held, DirectoryLock)
    held.close()


def test_valkey_has_no_guard() -> None:
    """It serves all."""
    assert lock_store(ValkeyConfig((("host", 6379),)), memory_limit=0, max_readers=1) is None


def test_another_container_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While anybody is in: the message names the path, the other one's host, and a way out. After that it may."""
    monkeypatch.setattr(lmdb_lock.socket, "gethostname", lambda: "first-host")
    first = DirectoryLock(str(path))
    for _ in range(2):  # who was refused has changed nothing
        with Child("guard", path, "somebody else") as other:
            assert other.read_line() == (
                f"{path} is in use by a server in another container or on another machine (first-host). LMDB's carts "
                "are for the processes of one container or machine: stop that server, or keep the carts in Valkey."
            )
    with Child("guard", path, "") as command:
        assert command.read_line() == "in"
        first.close()
        with Child("guard", path, "somebody else") as other:
            assert other.read_line().startswith(str(path))
    with Child("guard", path, "somebody else") as other:
        assert other.read_line() == "in"
        with pytest.raises(StoreUnusable, match="in use by a server in another container"):
            DirectoryLock(str(path))
        other.send_line()
        assert other.read_line() == "out"
        DirectoryLock(str(path)).close()


def test_a_killed_server_holds_nothing(path: Path) -> None:
    """What it wrote stays in the file and keeps nobody away."""
    with Child("guard", path, "somebody else, with a very long name " + "x" * 300) as other:
        assert other.read_line() == "in"
        other.kill()
    held = DirectoryLock(str(path))
    with Child("guard", path, "somebody else") as another:
        assert another.read_line().startswith(str(path))
    held.close()


@pytest.mark.parametrize("left", [b"", b"\xff\xfe", b"\0" * 10_000, b"no more than one word"])
def test_whatever_is_in_the_file_does_no_harm(path: Path, left: bytes) -> None:
    """It counts only while somebody holds the lock."""
    path.mkdir(parents=True)
    (path / "guard").write_bytes(left)
    first, second = DirectoryLock(str(path)), DirectoryLock(str(path))
    first.close()
    second.close()


def test_who_came_in_while_the_locks_were_changed_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going from the exclusive lock to the shared one is not atomic: somebody else may be alone in between."""
    real, others = fcntl.flock, ExitStack()

    def flock(file: int, how: int) -> None:
        if how == fcntl.LOCK_SH:
            monkeypatch.setattr(fcntl, "flock", real)
            real(file, fcntl.LOCK_UN)
            other = others.enter_context(Child("guard", path, "somebody else"))
            assert other.read_line() == "in"
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with others, pytest.raises(StoreUnusable, match="in use by a server in another container"):
        DirectoryLock(str(path))


def test_of_two_that_come_at_once_one_is_refused(path: Path) -> None:
    """Whichever is faster; never are both in."""
    for _ in range(5):
        with Child("guard", path, "one") as one, Child("guard", path, "another") as another:
            assert sorted(each.read_line() == "in" for each in (one, another)) == [False, True]


def test_a_server_can_start_on_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file keeps its size: nothing is cut off that would have to be found again."""
    DirectoryLock(str(path)).close()
    size = (path / "guard").stat().st_size
    monkeypatch.setattr(os, "ftruncate", None)
    DirectoryLock(str(path)).close()
    assert (path / "guard").stat().st_size == size


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOLCK])
@pytest.mark.parametrize("call", ["pwrite", "flock"])
def test_what_the_disk_refuses_is_said(path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """Without a traceback, and without a file left open."""
    closed: list[int] = []
    close = os.close

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    def count(file: int) -> None:
        closed.append(file)
        close(file)

    monkeypatch.setattr(*((os, "pwrite") if call == "pwrite" else (fcntl, "flock")), refuse)
    monkeypatch.setattr(os, "close", count)
    with pytest.raises(StoreUnusable) as raised:
        DirectoryLock(str(path))
    assert str(raised.value) == f"{path} cannot be used for carts: {os.strerror(code)}."
    assert len(closed) == 1


def _elsewhere(name: str) -> Callable[[Path], Path]:
    real = Path.readlink
    return lambda path: Path("pid:[1]") if str(path) == name else real(path)


def test_who_one_is_goes_by_the_pid_namespace_and_the_running_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the host's name, which may change while a server runs; where there is no /proc, that must do."""
    ours = lmdb_lock._identity()
    monkeypatch.setattr(lmdb_lock.socket, "gethostname", lambda: "renamed")
    assert lmdb_lock._identity() == ours
    with monkeypatch.context() as patch:
        patch.setattr(Path, "readlink", _elsewhere("/proc/self/ns/pid"))
        assert lmdb_lock._identity() != ours
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda _: "another boot\n")
        assert lmdb_lock._identity() != ours

    def refuse(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert lmdb_lock._identity() == "renamed"
