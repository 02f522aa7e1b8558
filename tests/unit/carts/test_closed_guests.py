"""Test that a guest whose cart was merged into another one is closed: no page adds items where none looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cartsvc.carts.conditions import ANY_TAG, Outcome, WriteConditions
from cartsvc.carts.validation import ItemChange, NewItem
from cartsvc.errors import CartMerged, IdempotencyKeyReused
from tests.support.merge_scenario import (
    HOUR,
    KEY,
    MOVE,
    NONE,
    OTHER,
    REMOVE,
    SEAL,
    SECOND,
    TARGET,
    MergeScenario,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.service import CartService

GUEST = "guest-s"
MUG = NewItem("mug", 1)
WRITES: dict[str, Callable[[CartService, WriteConditions], Outcome]] = {
    "add": lambda service, given: service.add(GUEST, [MUG], conditions=given),
    "replace": lambda service, given: service.replace(GUEST, [MUG], currency=None, conditions=given),
    "update": lambda service, given: service.update(GUEST, {}, conditions=given),
    "update_items": lambda service, given: service.update_items(
        GUEST, [ItemChange(1, item_id="mug")], conditions=given
    ),
    "update_item": lambda service, given: service.update_item(GUEST, "mug", ItemChange(1), conditions=given),
    "remove_item": lambda service, given: service.remove_item(GUEST, "mug", conditions=given),
    "remove": lambda service, given: service.remove(GUEST, conditions=given),
    "merge": lambda service, given: service.merge(GUEST, OTHER, "sum", conditions=given),
    "merge of nothing": lambda service, given: service.merge(GUEST, "absent", "sum", conditions=given),
}
each_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


@pytest.fixture
def scenario() -> MergeScenario:
    """Return a scenario in which a guest with a mug has signed in."""
    scenario = MergeScenario()
    scenario.put(GUEST, mug=1, conditions=KEY)
    scenario.put(OTHER, b=1)
    scenario.service.merge(TARGET, GUEST, "sum", conditions=NONE)
    return scenario


@each_write
@pytest.mark.parametrize("conditions", [NONE, WriteConditions(if_match=ANY_TAG), WriteConditions(b"k2" * 8, b"r" * 16)])
def test_a_closed_guest_takes_no_write(
    scenario: MergeScenario, write: Callable[[CartService, WriteConditions], Outcome], conditions: WriteConditions
) -> None:
    """Whatever its conditions; nothing changes, reads show no cart, and a merge from it is done already."""
    before = scenario.record(GUEST)
    with pytest.raises(CartMerged):
        write(scenario.service, conditions)
    assert scenario.record(GUEST) == before
    assert scenario.quantities(GUEST) is None
    assert scenario.quantities(OTHER) == {"b": 1}
    assert scenario.marks() == [(GUEST, True)]
    again = scenario.service.merge(TARGET, GUEST, "sum", conditions=NONE)
    assert again == Outcome(scenario.others.get(TARGET), 200)
    assert scenario.quantities(TARGET) == {"mug": 1}


def test_a_closed_guest_opens_after_the_life_of_its_cart(scenario: MergeScenario) -> None:
    """A guest cart is closed up to the last millisecond. Then its record is gone, and a write starts a new cart."""
    scenario.wait(HOUR - 1)
    with pytest.raises(CartMerged):
        scenario.put(GUEST, cap=1)
    scenario.wait(1)
    assert scenario.put(GUEST, cap=1).version == 1
    assert scenario.record(GUEST).closed_until == 0


def test_replays_of_a_closed_guest(scenario: MergeScenario) -> None:
    """A request that was accepted before is answered as before; its key for another request is rejected as before."""
    assert scenario.service.add(GUEST, [MUG], conditions=KEY) == Outcome(None, 200, replayed=True)
    with pytest.raises(IdempotencyKeyReused):
        scenario.service.add(GUEST, [MUG], conditions=WriteConditions(KEY.key_digest, b"other"))


@pytest.mark.parametrize("source", ["alice", "Guest-1", "guest", "xguest-1"])
def test_only_guests_are_closed(source: str) -> None:
    """A user whose cart was merged shops on."""
    scenario = MergeScenario()
    scenario.put(source, mug=1)
    scenario.service.merge(TARGET, source, "sum", conditions=NONE)
    assert scenario.inner.get(source) is None
    assert scenario.put(source, cap=1).version == 1


@pytest.mark.parametrize(("when", "step"), [("after", MOVE), ("before", REMOVE)])
def test_a_merge_that_is_resolved_closes_the_guest(when: str, step: int) -> None:
    """The first write after the crash finds the items moved: it is rejected, because the guest is closed by then."""
    scenario = MergeScenario()
    scenario.put(GUEST, mug=1)
    scenario.crash_merge(when, step, source=GUEST)
    scenario.wait(6 * SECOND)
    with pytest.raises(CartMerged):
        scenario.put(GUEST, cap=1)
    assert (scenario.quantities(GUEST), scenario.quantities(TARGET)) == (None, {"mug": 1})


@pytest.mark.parametrize(("when", "step"), [("after", SEAL), ("before", MOVE)])
def test_a_merge_that_is_aborted_closes_nothing(when: str, step: int) -> None:
    """The items were not moved, so the guest shops on."""
    scenario = MergeScenario()
    scenario.put(GUEST, mug=1)
    scenario.crash_merge(when, step, source=GUEST)
    scenario.wait(6 * SECOND)
    scenario.put(GUEST, cap=1)
    assert (scenario.quantities(GUEST), scenario.quantities(TARGET)) == ({"mug": 1, "cap": 1}, None)


def test_a_guest_that_is_closed_during_a_merge_into_it() -> None:
    """The guest signs in while another cart is on its way to it: that cart stays, open, and the guest stays closed."""
    scenario = MergeScenario()
    scenario.put(GUEST, mug=1)
    scenario.put(OTHER, b=1)
    scenario.store.plan(before={MOVE: lambda: scenario.others.merge(TARGET, GUEST, "sum", conditions=NONE)})
    with pytest.raises(CartMerged):
        scenario.service.merge(GUEST, OTHER, "sum", conditions=NONE)
    assert scenario.sealed() == set()
    assert scenario.marks(GUEST) == []
    assert (scenario.quantities(OTHER), scenario.quantities(TARGET)) == ({"b": 1}, {"mug": 1})


def test_a_guest_is_renewed_unless_it_is_closed(scenario: MergeScenario) -> None:
    """Its token gives the same guest again; after the merge it gives a new one."""
    scenario.put("guest-2", mug=1)
    assert scenario.service.new_guest("guest-2") == "guest-2"
    assert scenario.service.new_guest("guest-without-cart") == "guest-without-cart"
    new = scenario.service.new_guest(GUEST)
    assert new.startswith("guest-")
    assert new != GUEST
    scenario.wait(HOUR)
    assert scenario.service.new_guest(GUEST) == GUEST
