"""A second process on a store: threads, or gevent's greenlets as gunicorn has them, that add to carts.

It writes a line when it is ready, begins when it reads a line, and then writes the results of its adds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any, Self

from gevent.monkey import is_module_patched

from cartsvc.errors import StoreError
from cartsvc.stores import open_store
from cartsvc.stores.urls import parse_store_url
from tests.support import records
from tests.support.records import adding, at_once

_ROOT = Path(__file__).parents[2]
# Everything is patched before it is imported, as in gunicorn's worker.
_GREENLETS = ("-m", "gevent.monkey")


class Child:
    """The process. Its ``workers`` add ``adds`` times each, to the ``carts`` in turn."""

    def __init__(
        self, url: str, *, workers: int, adds: int, carts: int, timeout: float = 20, greenlets: bool = False
    ) -> None:
        self._greenlets = greenlets
        self._process = subprocess.Popen(
            [
                sys.executable,
                *(_GREENLETS if greenlets else ()),
                __file__,
                url,
                *map(str, (workers, adds, carts, timeout)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | {"PYTHONPATH": str(_ROOT)},
        )

    def wait(self) -> None:
        """Return once it is ready."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{_kind(greenlets=self._greenlets)}\n"

    def begin(self) -> None:
        """Let it add."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")

    def result(self) -> dict[str, Any]:
        """Return how many adds had which result (``added``, or an error's name), and the seconds of the ``slowest``."""
        assert self._process.stdout is not None
        result: dict[str, Any] = json.loads(self._process.stdout.readline())
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes the pipes, and waits
            self._process.kill()


def _kind(*, greenlets: bool) -> str:
    return "ready with greenlets" if greenlets else "ready with threads"


def _clock() -> int:
    return time.time_ns() // 1_000_000


def _main(url: str, workers: int, adds: int, carts: int, timeout: float) -> None:
    store = open_store(parse_store_url(url), clock=_clock, memory_limit=0, max_readers=0, timeout=timeout)
    # Two processes that count from 0 would have the same tags.
    records.tags = map(f"{os.getpid()}-{{}}".format, count())
    happened: Counter[str] = Counter()
    slowest = 0.0

    def work(number: int) -> None:
        nonlocal slowest
        for turn in range(adds):
            began = time.monotonic()
            try:
                store.update(f"u{(number + turn) % carts}", adding(_clock))
            except StoreError as error:
                happened[type(error).__name__] += 1
            else:
                happened["added"] += 1
            slowest = max(slowest, time.monotonic() - began)

    print(_kind(greenlets=is_module_patched("socket")), flush=True)  # noqa: T201 - the test reads it
    sys.stdin.readline()
    at_once(workers, work)
    print(json.dumps({**happened, "slowest": slowest}), flush=True)  # noqa: T201
    store.close()


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5]))
