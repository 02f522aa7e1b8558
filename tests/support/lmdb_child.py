"""A second process on an LMDB store, which tests race, kill or pause.

It writes a line when it is where the test needs it, and continues when it reads a line.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, Self

from cartsvc.carts.cart import Cart
from cartsvc.carts.record import Record
from cartsvc.errors import CartsvcError
from cartsvc.stores import lmdb_lock
from cartsvc.stores.lmdb import LmdbStore
from cartsvc.stores.lmdb_lock import DirectoryLock
from cartsvc.stores.urls import LmdbConfig
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

_SECONDS = 60  # for one response
# Each is forked from one process that has imported this module and has opened no store. The imports take 0.3 s.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])


class Child:
    """Runs one of the functions below in a process of its own; the table at the end has their names."""

    def __init__(self, what: str, *arguments: object) -> None:
        self._lines, its_lines = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_run, args=(its_lines, what, arguments))
        self._process.start()
        its_lines.close()  # so that reading ends when the process ends

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self._process.pid is not None
        return self._process.pid

    def read_line(self) -> str:
        """Return the next line that it writes; an empty line after its end."""
        assert self._lines.poll(_SECONDS)
        try:
            return str(self._lines.recv())
        except EOFError:
            return ""

    def send_line(self) -> None:
        """Let it continue."""
        self._lines.send("")

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.join(_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.close()
        self._lines.close()


def open_store(path: object, *, sync: str = "off", map_size: int = 2**26, max_readers: int = 100) -> LmdbStore:
    """Open the store in this directory, with a clock that does not move."""
    return LmdbStore(LmdbConfig(str(path), sync, map_size), clock=FakeClock(), max_readers=max_readers)  # type: ignore[arg-type]


def add_one(number: int) -> Callable[[Record | None], tuple[Record, int]]:
    """Return a change that counts in the cart's version."""
    now = FakeClock()()

    def change(old: Record | None) -> tuple[Record, int]:
        version = 1 if old is None or old.cart is None else old.cart.version + 1
        end = now + 86_400_000 + version * 1000
        return Record(f"{number}-{version}", Cart("e", version, (), None, now, now, end), (), (), None, end), version

    return change


def name(number: int) -> str:
    """Return the long user id of this number."""
    return f"{number:0200}"


def _add(lines: Connection, path: Path, map_size: int, adds: int, carts: int) -> None:
    """Open, wait for the start, add one to each cart in turn, and write the sum of the results."""
    store = open_store(path, map_size=map_size)
    lines.send("ready")
    lines.recv()
    lines.send(sum(store.update(name(n % carts), add_one(os.getpid())) for n in range(adds)))
    store.close()


def _write(lines: Connection, path: Path, user_id: str) -> None:
    """Pause within a write."""

    def change(old: Record | None) -> tuple[Record, int]:
        result = add_one(os.getpid())(old)
        lines.send("in")
        lines.recv()
        return result

    open_store(path).update(user_id, change)
    lines.send("done")
    lines.recv()


def _read(lines: Connection, path: Path) -> None:
    """Pause within a read."""
    with open_store(path)._env.begin():  # noqa: SLF001 - no call of the store's takes long enough
        lines.send("in")
        lines.recv()


def _reopen(lines: Connection, path: Path, times: int) -> None:
    """Open, add and close, time and again."""
    lines.send("ready")
    lines.recv()
    for _ in range(times):
        store = open_store(path)
        store.update(name(0), add_one(os.getpid()))
        store.close()
    lines.send("done")


def _fork(lines: Connection, path: Path) -> None:
    """Use a store that was opened before this process was forked."""
    store = open_store(path)
    calls: list[Callable[[], object]] = [
        lambda: store.get("u"),
        lambda: store.update("u", add_one(0)),
        lambda: list(store.scan()),
        store.ping,
    ]
    pid = os.fork()
    if not pid:
        for call in calls:
            try:
                lines.send(call())
            except CartsvcError as error:
                lines.send(f"{type(error).__name__}: {error}")
        os._exit(0)
    os.waitpid(pid, 0)
    lines.send(store.update("u", add_one(0)))


def _guard(lines: Connection, path: Path, identity: str) -> None:
    """Lock the directory with this identity, as another container does; an empty ``identity`` is the real one."""
    if identity:
        lmdb_lock._identity = lambda: identity  # type: ignore[assignment]  # noqa: SLF001 - a container in a test is another test
    try:
        held = DirectoryLock(str(path))
    except CartsvcError as error:
        lines.send(str(error))
        return
    lines.send("in")
    lines.recv()
    held.close()
    lines.send("out")
    lines.recv()


def _run(lines: Connection, what: str, arguments: tuple[object, ...]) -> None:
    does = {"add": _add, "write": _write, "read": _read, "reopen": _reopen, "fork": _fork, "guard": _guard}
    does[what](lines, *arguments)
