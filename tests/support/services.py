"""Services for tests: on any store, with clocks that tests set and numbered tags."""

from __future__ import annotations

import sys
from itertools import count
from typing import TYPE_CHECKING

from cartsvc.carts.merge import Merger
from cartsvc.carts.record import Policy
from cartsvc.carts.service import CartService
from tests.support.records import at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.store import CartStore

_POLICY = Policy()
# As long as real tags; one counter for all services, so that no tag is repeated after a restart.
_tags = map("tag-{:012}".format, count(1))


class FakeSeconds:
    """A monotonic clock in seconds that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the current time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds


def racing(threads: int, work: Callable[[int], None]) -> None:
    """Do as at_once, and let the interpreter switch threads all the time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        at_once(threads, work)
    finally:
        sys.setswitchinterval(usual)


def make_service(store: CartStore, clock: Callable[[], int], *, policy: Policy = _POLICY) -> CartService:
    """Return a service on this store and clock."""
    merger = Merger(store, policy=policy, clock=clock, new_tag=_tags.__next__)
    return CartService(
        store, merger, policy=policy, clock=clock, new_tag=_tags.__next__, new_guest=map(str, count(1)).__next__
    )
