"""One merge under test: a store that fails where a test plans it, a clock, and other servers on the same store."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from cartsvc.carts.cart import Cart, Limits
from cartsvc.carts.conditions import Outcome, WriteConditions
from cartsvc.carts.record import Policy, Record
from cartsvc.carts.validation import NewItem
from cartsvc.errors import CartMerged, CartsvcError
from tests.support.clock import FakeClock
from tests.support.faults import Crash, FaultyStore, crash
from tests.support.memory_store import MemoryStore
from tests.support.services import make_service

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.combine import Strategy

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000  # milliseconds
NONE = WriteConditions()
KEY = WriteConditions(b"k" * 16, b"r" * 16)
POLICY = Policy(limits=Limits(max_quantity=10, max_items=8), guest_ttl_ms=HOUR)

# The merge under test moves SOURCE into TARGET. Its four updates of a record, in their order.
SOURCE, TARGET, OTHER = "source", "target", "other"
ANNOUNCE, SEAL, MOVE, REMOVE = 1, 2, 3, 4
BOUNDARIES = [(when, step) for step in (ANNOUNCE, SEAL, MOVE, REMOVE) for when in ("before", "after")]
MOVED = {("after", MOVE), ("before", REMOVE), ("after", REMOVE)}  # the boundaries at which the items are in the target
each_boundary = pytest.mark.parametrize(("when", "step"), BOUNDARIES)

Quantities = dict[str, int] | None


class MergeScenario:
    """One store and one clock; ``service`` runs the merge under test, ``others`` is another server."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.clock = FakeClock()
        self.inner = MemoryStore(clock=self.clock, limit=2**30)
        self.store = FaultyStore(self.inner)
        self.service = make_service(self.store, self.clock, policy=policy)
        self.others = make_service(self.inner, self.clock, policy=policy)

    def wait(self, milliseconds: int) -> None:
        """Let this time pass."""
        self.clock.advance(milliseconds)

    def put(self, user: str, *, conditions: WriteConditions = NONE, **items: int) -> Cart:
        """Add this quantity of each item, on another server."""
        lines = [NewItem(product, quantity) for product, quantity in items.items()]
        cart = self.others.add(user, lines, conditions=conditions).cart
        assert cart is not None
        return cart

    def merge(self, strategy: Strategy = "sum", *, conditions: WriteConditions = NONE) -> Outcome:
        """Run the merge under test."""
        return self.service.merge(TARGET, SOURCE, strategy, conditions=conditions)

    def crash_merge(
        self,
        when: str,
        step: int,
        *,
        source: str = SOURCE,
        target: str = TARGET,
        strategy: Strategy = "sum",
        conditions: WriteConditions = NONE,
    ) -> None:
        """Run a merge on a server that crashes at this boundary."""
        store = FaultyStore(self.inner)
        store.plan(**{when: {step: crash}})
        service = make_service(store, self.clock, policy=self.policy)
        with pytest.raises(Crash):
            service.merge(target, source, strategy, conditions=conditions)

    def quantities(self, user: str) -> Quantities:
        """Return the quantity of each item that a reader sees; None without a cart."""
        cart = self.others.get(user)
        return None if cart is None else {item.item_id: item.quantity for item in cart.items}

    def both(self) -> tuple[Quantities, Quantities]:
        """Return the quantities in the source and in the target."""
        return self.quantities(SOURCE), self.quantities(TARGET)

    def totals(self) -> tuple[int, int, int]:
        """Return how many items the source, the target and the third cart hold."""
        source, target, other = (sum((self.quantities(user) or {}).values()) for user in (SOURCE, TARGET, OTHER))
        return source, target, other

    def carts(self) -> list[Cart | None]:
        """Return the source's and the target's cart, with their ETags and times."""
        return [self.others.get(SOURCE), self.others.get(TARGET)]

    def record(self, user: str) -> Record:
        """Return the record in the store."""
        record = self.inner.get(user)
        assert record is not None
        return record

    def marks(self, user: str = TARGET) -> list[tuple[str, bool]]:
        """Return the source of each mark, and whether it is done."""
        record = self.inner.get(user)
        return [(mark.source, mark.done) for mark in record.merge_marks] if record is not None else []

    def sealed(self) -> set[str]:
        """Return the users whose carts are sealed."""
        return {user for user, record in self.inner.scan() if record.seal is not None}

    def resolve_seals(self) -> None:
        """Write to each sealed cart six seconds later, without changing it."""
        self.wait(6 * SECOND)
        for user in sorted(self.sealed()):
            with suppress(CartMerged):  # a guest whose items have been moved is closed
                self.others.merge(user, "absent", "sum", conditions=NONE)
        assert self.sealed() == set()


def make_scenario() -> MergeScenario:
    """Return a scenario with three items in the source and three others in the target."""
    scenario = MergeScenario()
    scenario.put(SOURCE, a=3)
    scenario.put(TARGET, a=2, b=1)
    return scenario


def error_of(call: Callable[[], object]) -> type[Exception] | None:
    """Return the type of the error that the call raises, if it raises one."""
    try:
        call()
    except CartsvcError as error:
        return type(error)
    return None
