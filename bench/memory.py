"""Measure the bytes of a cart in the memory store: the growth of the process, divided by the number of carts.

A separate program, ``python -m bench.memory CARTS``, so that nothing else grows its process.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import uuid
from pathlib import Path

from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.merge import Merger
from cartsvc.carts.record import Policy
from cartsvc.carts.service import CartService
from cartsvc.carts.validation import NewItem
from cartsvc.stores.memory import MemoryStore

_MONTH_MS = 30 * 86_400_000
_ITEMS = [NewItem(f"sku-{n:05}", quantity=2, unit_price=1999, currency="EUR") for n in range(5)]


def bytes_a_cart(carts: int) -> float:
    """Put this many 5-item carts into a memory store, as the API does."""
    # Their times are spread over the month before the first of them expires, as those of shoppers are.
    ticks = itertools.count()
    store = MemoryStore(clock=lambda: 0, limit=2**50)
    policy = Policy(cart_ttl_ms=_MONTH_MS)

    def clock() -> int:
        return next(ticks) * _MONTH_MS // carts

    def new_tag() -> str:
        return secrets.token_urlsafe(12)

    merger = Merger(store, policy=policy, clock=clock, new_tag=new_tag)
    service = CartService(store, merger, policy=policy, clock=clock, new_tag=new_tag, new_guest=new_tag)
    before = _resident()
    for n in range(carts):
        service.add(str(uuid.UUID(int=n)), _ITEMS, conditions=WriteConditions())
    return (_resident() - before) / carts


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(bytes_a_cart(int(sys.argv[1])))  # noqa: T201 - the purpose of this program
