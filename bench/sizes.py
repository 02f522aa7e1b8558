"""Measure the memory store with different numbers of carts: its bytes per cart, and the CPU time of its calls.

Each size is a process of its own, ``python -m bench.sizes CARTS CALLS``.
All exist at the same time and measure in turns.
"""

from __future__ import annotations

import itertools
import os
import random
import stat
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import structs
from werkzeug.test import EnvironBuilder

from bench.processes import ROOT, Broken
from bench.results import Calls, Size
from cartsvc import create_app
from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.validation import NewItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from wsgiref.types import WSGIEnvironment

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import CartStore

T = TypeVar("T")

SIZES = (10_000, 100_000, 1_000_000)
_CALLS = 2_000  # of each kind, in one round
_MONTH_MS = 30 * 86_400_000
_BEGIN_MS = 1_800_000_000_000  # times of this length, because smaller numbers take fewer bytes
_FILL_TIMEOUT_S = 900
_ITEMS = [NewItem(f"sku-{n:05}", quantity=2, unit_price=1999, currency="EUR") for n in range(5)]


# ---- the process of one size ----


class Filled:
    """A memory store with this many carts, whose times are spread over a month, as those of shoppers are."""

    def __init__(self, carts: int) -> None:
        stores: list[CartStore] = []

        def keep(store: CartStore) -> CartStore:
            stores.append(store)
            return store

        self._now = _BEGIN_MS
        self._tags = map("tag-{:012}".format, itertools.count())
        self._users = random.Random(carts)  # noqa: S311 - the same users in each run
        self.carts = carts
        self._app = create_app(clock=lambda: self._now, wrap_store=keep)
        (self._store,) = stores
        self._app.extensions["cartsvc"].add(_user(0), _ITEMS, conditions=WriteConditions())
        model = self._store.get(_user(0))
        if model is None or model.cart is None:
            raise Broken("a cart that was added is absent")
        lifetime = model.expires_at - self._now
        for n in range(carts):
            self._now = _BEGIN_MS + n * _MONTH_MS // carts
            cart = structs.replace(model.cart, expires_at=self._now + lifetime)
            record = structs.replace(model, tag=next(self._tags), cart=cart, expires_at=cart.expires_at)
            self._store.update(_user(n), partial(_give, record))

    def measure(self, calls: int) -> Calls:
        """Measure this number of calls of each kind, for random carts. Raises Broken if the app rejects a request."""

        def change(record: Record | None) -> tuple[Record | None, None]:
            return record and structs.replace(record, tag=next(self._tags)), None

        return Calls(
            store_get=cpu_us(self._store.get, self._random_users(calls)),
            store_update=cpu_us(lambda user: self._store.update(user, change), self._random_users(calls)),
            app_get=cpu_us(self._request, [_environ("GET", user) for user in self._random_users(calls)]),
            app_post=cpu_us(self._request, [_environ("POST", user) for user in self._random_users(calls)]),
        )

    def _random_users(self, count: int) -> list[str]:
        return [_user(self._users.randrange(self.carts)) for _ in range(count)]

    def _request(self, environ: WSGIEnvironment) -> None:
        def start_response(status: str, *_: object) -> Callable[[bytes], object]:
            if not status.startswith("2"):
                raise Broken(f"{environ['REQUEST_METHOD']} got {status}")
            return bytes  # never called

        for _ in self._app(environ, start_response):
            pass


def cpu_us(call: Callable[[T], object], arguments: Sequence[T]) -> float:
    """Return the CPU microseconds of one call."""
    before = time.process_time()
    for argument in arguments:
        call(argument)
    return (time.process_time() - before) / len(arguments) * 1e6


def _environ(method: str, user: str) -> WSGIEnvironment:
    body = {"product_id": "sku-00001", "quantity": 1} if method == "POST" else None
    return EnvironBuilder(f"/cart/{user}", method=method, json=body).get_environ()


def _give(record: Record, _: Record | None) -> tuple[Record, None]:
    return record, None


def _user(n: int) -> str:
    """Return the nth user. Users are in no order, because a store may keep what is in order in less room."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, str(n)))


def used_bytes() -> int:
    """Return the memory of this process and of the files that it has open, such as those on a memory file system."""
    anonymous = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    files = {}
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found = descriptor.stat()
        except OSError:  # the descriptor of the listing itself
            continue
        if stat.S_ISREG(found.st_mode):
            files[found.st_dev, found.st_ino] = found.st_blocks * 512  # the unit of st_blocks
    return int(anonymous.split()[1]) * 1024 + sum(files.values())


def main(carts: int, calls: int) -> None:
    """Fill a store, print the bytes per cart, and then the times of calls for each line of the input."""
    before = used_bytes()
    filled = Filled(carts)
    print((used_bytes() - before) / carts, flush=True)  # noqa: T201 - the purpose of this program
    for _ in sys.stdin:
        print(msgspec.json.encode(filled.measure(calls)).decode(), flush=True)  # noqa: T201 - as above


# ---- all sizes ----


def measure(sizes: Sequence[int], *, rounds: int, progress: Callable[[str], None], calls: int = _CALLS) -> list[Size]:
    """Return the figures of each number of carts. Raises Broken if a process fails."""
    with ExitStack() as stack:
        progress(f"filling memory stores with {' and '.join(f'{size:,}' for size in sizes)} carts")
        processes = [stack.enter_context(_process(size, calls)) for size in sizes]
        found = [
            Size(carts=size, bytes_per_cart=float(_line(process)), rounds=[])
            for size, process in zip(sizes, processes, strict=True)
        ]
        for turn in range(rounds + 1):  # the first is for warming up
            progress(f"round {turn} of {rounds}: calls of memory stores" if turn else "warming up: memory stores")
            for size, process in zip(found, processes, strict=True):
                _ask(process)
                measured = msgspec.json.decode(_line(process), type=Calls)
                if turn:
                    size.rounds.append(measured)
    return found


@contextmanager
def _process(carts: int, calls: int) -> Iterator[subprocess.Popen[str]]:
    settings = {"CARTSVC_STORE_URL": "memory://", "CARTSVC_MEMORY_LIMIT": str(2**26 + 4096 * carts)}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CARTSVC_")}
    command = [sys.executable, "-m", "bench.sizes", str(carts), str(calls)]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, cwd=ROOT, env=clean | settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()  # the process ends, and removes what it has stored
            process.wait(_FILL_TIMEOUT_S)


def _ask(process: subprocess.Popen[str]) -> None:
    if process.stdin is None:
        raise TypeError("stdin is not a pipe")
    process.stdin.write("\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise Broken(f"a memory store has failed, exit code {process.wait(_FILL_TIMEOUT_S)}")
    return line


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
