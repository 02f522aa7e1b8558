"""A second process on an LMDB store, which tests race, kill or pause.

It writes a line when it is where the test needs it, and continues when it reads a line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
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

_SECONDS = 60  # for one response
_ROOT = Path(__file__).parents[2]


class Child:
    """Runs one of the functions below in a process of its own; the table at the end has their names."""

    def __init__(self, what: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, what, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | {"PYTHONPATH": str(_ROOT)},
        )

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def read_line(self) -> str:
        """Return the next line that it writes; an empty line after its end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def send_line(self, line: str = "") -> None:
        """Let it continue."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait(_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes the pipes, and waits
            self._process.kill()


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


def _write_line(line: object) -> None:
    print(line, flush=True)  # noqa: T201 - the test reads it


def name(number: int) -> str:
    """Return the long user id of this number."""
    return f"{number:0200}"


def _add(path: str, map_size: str, adds: str, carts: str) -> None:
    """Open, wait for the start, add one to each cart in turn, and write the sum of the results."""
    store = open_store(path, map_size=int(map_size))
    _write_line("ready")
    sys.stdin.readline()
    _write_line(sum(store.update(name(n % int(carts)), add_one(os.getpid())) for n in range(int(adds))))
    store.close()


def _write(path: str, user_id: str) -> None:
    """Pause within a write."""

    def change(old: Record | None) -> tuple[Record, int]:
        result = add_one(os.getpid())(old)
        _write_line("in")
        sys.stdin.readline()
        return result

    open_store(path).update(user_id, change)
    _write_line("done")
    sys.stdin.readline()


def _read(path: str) -> None:
    """Pause within a read."""
    with open_store(path)._env.begin():  # noqa: SLF001 - no call of the store's takes long enough
        _write_line("in")
        sys.stdin.readline()


def _reopen(path: str, times: str) -> None:
    """Open, add and close, time and again."""
    _write_line("ready")
    sys.stdin.readline()
    for _ in range(int(times)):
        store = open_store(path)
        store.update(name(0), add_one(os.getpid()))
        store.close()
    _write_line("done")


def _fork(path: str) -> None:
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
                _write_line(call())
            except CartsvcError as error:
                _write_line(f"{type(error).__name__}: {error}")
        os._exit(0)
    os.waitpid(pid, 0)
    _write_line(store.update("u", add_one(0)))


def _guard(path: str, identity: str) -> None:
    """Lock the directory with this identity, as another container does; an empty ``identity`` is the real one."""
    if identity:
        lmdb_lock._identity = lambda: identity  # type: ignore[assignment]  # noqa: SLF001 - a container in a test is another test
    try:
        held = DirectoryLock(path)
    except CartsvcError as error:
        _write_line(error)
        return
    _write_line("in")
    sys.stdin.readline()
    held.close()
    _write_line("out")
    sys.stdin.readline()


if __name__ == "__main__":
    does = {"add": _add, "write": _write, "read": _read, "reopen": _reopen, "fork": _fork, "guard": _guard}
    does[sys.argv[1]](*sys.argv[2:])
