"""Measure the calls of a store for a cart of 5 items: CPU time, and round trips to a Valkey server.

A separate program, ``python -m bench.stores URL``. It prints the CPU microseconds of a get and of an update, and the
number of commands that the server receives for one of each (0 without a server).
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import TYPE_CHECKING

from cartsvc.carts.cart import Limits, Revision, add
from cartsvc.carts.record import Record
from cartsvc.carts.validation import NewItem, validate_new_items
from cartsvc.stores import open_store
from cartsvc.stores.urls import ValkeyConfig, parse_store_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.store import CartStore

_CALLS = 5_000
_ROUNDS = 5
_LIMITS = Limits(max_quantity=10**9)
_DAY_MS = 86_400_000
_tags = map("tag-{:012}".format, itertools.count())


def _now() -> int:
    return time.time_ns() // 1_000_000


def _adding(product: str) -> Callable[[Record | None], tuple[Record, None]]:
    """Return a change that adds one of a product, as a POST does inside the store; the items are validated before."""
    now = _now()
    revision = Revision(at=now, etag=next(_tags), expires_at=now + _DAY_MS)
    additions = validate_new_items([NewItem(product, 1, unit_price=1999, currency="EUR")], limits=_LIMITS, at=now)

    def change(record: Record | None) -> tuple[Record, None]:
        cart = add(record.cart if record else None, additions, limits=_LIMITS, revision=revision)
        return Record(revision.etag, cart, (), (), None, cart.expires_at), None

    return change


def _measure(call: Callable[[int], object]) -> float:
    """Return the CPU microseconds of a call: the minimum of some rounds, because other work only adds to them."""
    best = float("inf")
    for _ in range(_ROUNDS):
        before = time.process_time()
        for turn in range(_CALLS):
            call(turn)
        best = min(best, (time.process_time() - before) / _CALLS * 1e6)
    return best


def _updates(store: CartStore) -> Callable[[int], object]:
    changes = iter([_adding(f"sku-{n % 5}") for n in range(_CALLS * _ROUNDS)])
    return lambda turn: store.update(f"user-{turn % 100}", next(changes))


def _commands(url: str, call: Callable[[], object]) -> int:
    """Return how many commands the server at this URL receives during ``call``."""
    config = parse_store_url(url)
    if not isinstance(config, ValkeyConfig):
        return 0
    from redis import Redis  # noqa: PLC0415 - only with such a server

    (host, port) = config.hosts[0]
    with Redis(host=host, port=port) as client, client.monitor() as monitor:
        client.echo("the beginning")  # a new connection sends other commands before
        for entry in monitor.listen():
            if "the beginning" in entry["command"]:
                break
        call()
        client.echo("the end")
        seen = 0
        for entry in monitor.listen():
            if "the end" in entry["command"]:
                return seen
            seen += entry["client_type"] != "lua"
    raise AssertionError


def main(url: str) -> None:
    """Measure the store at this URL."""
    store = open_store(parse_store_url(url), clock=_now, memory_limit=2**40, max_readers=16, timeout=10)
    for n in range(100):
        for item in range(5):
            store.update(f"user-{n}", _adding(f"sku-{item}"))
    get = _measure(lambda turn: store.get(f"user-{turn % 100}"))
    update = _measure(_updates(store))
    gets = _commands(url, lambda: store.get("user-0"))
    updates = _commands(url, lambda: store.update("user-0", _adding("sku-0")))
    store.close()
    print(get, update, gets, updates)  # noqa: T201 - the purpose of this program


if __name__ == "__main__":
    main(sys.argv[1])
