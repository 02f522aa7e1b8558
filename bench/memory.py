"""Bytes a cart takes in the memory store: what the process grows by, carts in it divided by their number.

A program of its own, ``python -m bench.memory CARTS``, so that nothing else grows its process.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import uuid
from pathlib import Path

from cartsvc.carts.cart import NewItem
from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.merge import Merger
from cartsvc.carts.record import Policy
from cartsvc.carts.service import CartService
from cartsvc.stores.memory import MemoryStore

_MONTH = 30 * 86_400_000  # milliseconds
_LINES = [NewItem(f"sku-{n:05}", quantity=2, unit_price=1999, currency="EUR") for n in range(5)]


def bytes_a_cart(carts: int) -> float:
    """Put so many 5-item carts into a memory store, as the API would."""
    # Their times are spread over the month before the first of them expires, as shoppers' are.
    ticks = itertools.count()
    store = MemoryStore(clock=lambda: 0, limit=2**50)
    policy = Policy(cart_ttl_ms=_MONTH)

    def clock() -> int:
        return next(ticks) * _MONTH // carts

    def new_tag() -> str:
        return secrets.token_urlsafe(12)

    merger = Merger(store, policy=policy, clock=clock, new_tag=new_tag)
    service = CartService(store, merger, policy=policy, clock=clock, new_tag=new_tag, new_guest=new_tag)
    before = _resident()
    for n in range(carts):
        service.add(str(uuid.UUID(int=n)), _LINES, conditions=WriteConditions())
    return (_resident() - before) / carts


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(bytes_a_cart(int(sys.argv[1])))  # noqa: T201 - what this program is for
