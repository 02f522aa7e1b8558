"""Another process on an LMDB store, for tests that race it, kill it, or leave it in the middle of something.

It says a line when it is where it should be, and goes on when it is told a line.
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

_SECONDS = 60  # for one answer
_ROOT = Path(__file__).parents[2]


class Child:
    """One of the functions below that the table at the end names, running in a process of its own."""

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
        """Of the process."""
        return self._process.pid

    def hears(self) -> str:
        """The next line that it says; an empty one when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def tell(self, line: str = "") -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait(_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes the pipes, and waits
            self._process.kill()


def open_store(path: object, *, sync: str = "off", map_size: int = 2**26, max_readers: int = 100) -> LmdbStore:
    """The store in this directory, with a clock that stands still."""
    return LmdbStore(LmdbConfig(str(path), sync, map_size), clock=FakeClock(), max_readers=max_readers)  # type: ignore[arg-type]


def add_one(number: int) -> Callable[[Record | None], tuple[Record, int]]:
    """A change that counts in the cart's version."""
    now = FakeClock()()

    def change(old: Record | None) -> tuple[Record, int]:
        version = 1 if old is None or old.cart is None else old.cart.version + 1
        end = now + 86_400_000 + version * 1000
        return Record(f"{number}-{version}", Cart("e", version, (), None, now, now, end), (), (), None, end), version

    return change


def _say(line: object) -> None:
    print(line, flush=True)  # noqa: T201 - this is how it speaks


def name(number: int) -> str:
    """The user of this number; a long one."""
    return f"{number:0200}"


def _add(path: str, map_size: str, adds: str, carts: str) -> None:
    """Open, wait for the start, add one to each of so many carts in turn, and say the answers' sum."""
    store = open_store(path, map_size=int(map_size))
    _say("ready")
    sys.stdin.readline()
    _say(sum(store.update(name(n % int(carts)), add_one(os.getpid())) for n in range(int(adds))))
    store.close()


def _write(path: str, user_id: str) -> None:
    """Stay in the middle of a write."""

    def change(old: Record | None) -> tuple[Record, int]:
        result = add_one(os.getpid())(old)
        _say("in")
        sys.stdin.readline()
        return result

    open_store(path).update(user_id, change)
    _say("done")
    sys.stdin.readline()


def _read(path: str) -> None:
    """Stay in the middle of a read."""
    with open_store(path)._env.begin():  # noqa: SLF001 - no call of the store's takes long enough
        _say("in")
        sys.stdin.readline()


def _reopen(path: str, times: str) -> None:
    """Open, add and close, time and again."""
    _say("ready")
    sys.stdin.readline()
    for _ in range(int(times)):
        store = open_store(path)
        store.update(name(0), add_one(os.getpid()))
        store.close()
    _say("done")


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
                _say(call())
            except CartsvcError as error:
                _say(f"{type(error).__name__}: {error}")
        os._exit(0)
    os.waitpid(pid, 0)
    _say(store.update("u", add_one(0)))


def _guard(path: str, identity: str) -> None:
    """Hold the directory's guard as one who is somebody else, or as one who is not (an empty ``identity``)."""
    if identity:
        lmdb_lock._identity = lambda: identity  # type: ignore[assignment]  # noqa: SLF001 - a container in a test is another test
    try:
        held = DirectoryLock(path)
    except CartsvcError as error:
        _say(error)
        return
    _say("in")
    sys.stdin.readline()
    held.close()
    _say("out")
    sys.stdin.readline()


if __name__ == "__main__":
    does = {"add": _add, "write": _write, "read": _read, "reopen": _reopen, "fork": _fork, "guard": _guard}
    does[sys.argv[1]](*sys.argv[2:])
