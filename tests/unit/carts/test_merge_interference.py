"""Tests of requests that come between any two steps of a merge: each item is where it must be, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cartsvc.carts.validation import NewItem
from cartsvc.errors import CartNotFound, CartSealed, LimitExceeded
from tests.support.merge_scenario import (
    ANNOUNCE,
    BOUNDARIES,
    HOUR,
    KEY,
    MINUTE,
    MOVE,
    NONE,
    OTHER,
    REMOVE,
    SEAL,
    SECOND,
    SOURCE,
    TARGET,
    MergeScenario,
    Quantities,
    error_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.conditions import WriteConditions


def _fill(scenario: MergeScenario) -> None:
    """Add to the target until one of its items is at its limit."""
    held = scenario.quantities(TARGET) or {}
    scenario.put(TARGET, a=10 - held.get("a", 0))


INTERFERENCES: dict[str, Callable[[MergeScenario], object]] = {
    "source removed": lambda s: s.others.remove(SOURCE, conditions=NONE),
    "source added to": lambda s: s.put(SOURCE, a=1),
    "source replaced": lambda s: s.others.replace(SOURCE, [NewItem("b", 2)], currency=None, conditions=NONE),
    "source merged elsewhere": lambda s: s.others.merge(OTHER, SOURCE, "sum", conditions=NONE),
    "source merged into": lambda s: s.others.merge(SOURCE, OTHER, "sum", conditions=NONE),
    "target removed": lambda s: s.others.remove(TARGET, conditions=NONE),
    "target added to": lambda s: s.put(TARGET, a=1),
    "target filled": _fill,
    "target merged elsewhere": lambda s: s.others.merge(OTHER, TARGET, "sum", conditions=NONE),
}

# Where the merge is when another request comes: the boundary, and the time that passes before and after that request.
MOMENTS: dict[str, list[tuple[str, int, int, int]]] = {
    "open": [
        ("before", ANNOUNCE, 0, 0),
        ("before", ANNOUNCE, 11 * SECOND, 0),
        ("after", ANNOUNCE, 0, 0),
        ("before", SEAL, 61 * SECOND, 61 * SECOND),
    ],
    "sealed": [
        ("after", SEAL, 0, 0),
        ("before", MOVE, 5 * SECOND, 0),
        ("before", MOVE, 0, 11 * SECOND),
        ("before", MOVE, 0, HOUR),
    ],
    "sealed long ago": [
        ("after", SEAL, 6 * SECOND, 0),
        ("before", MOVE, 6 * SECOND, 4 * SECOND),
        ("before", MOVE, 11 * SECOND, 0),
        ("before", MOVE, 6 * SECOND, 61 * SECOND),
    ],
    "moved": [("after", MOVE, 0, 0), ("before", REMOVE, 5 * SECOND, 0), ("before", REMOVE, 0, 61 * SECOND)],
    "moved long ago": [("after", MOVE, 6 * SECOND, 0), ("before", REMOVE, 6 * SECOND, 61 * SECOND)],
    "over": [("after", REMOVE, 0, 0), ("after", REMOVE, 61 * SECOND, 0)],
}

# The source had 3 items, the target 3 and the third cart 4. For each interference at each moment: how many they have in
# the end, the error of the merge, and the error of the interference. A request that meets an old seal aborts the merge,
# which starts again by itself, so "sealed long ago" ends as "open" does.
End = tuple[tuple[int, int, int], type[Exception] | None, type[Exception] | None]
ENDS: dict[str, dict[str, End]] = {
    "source removed": {
        "open": ((0, 3, 4), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((0, 3, 4), None, None),
        "moved": ((0, 6, 4), None, CartSealed),
        "moved long ago": ((0, 6, 4), None, CartNotFound),
        "over": ((0, 6, 4), None, CartNotFound),
    },
    "source added to": {
        "open": ((0, 7, 4), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((0, 7, 4), None, None),
        "moved": ((0, 6, 4), None, CartSealed),
        "moved long ago": ((1, 6, 4), None, None),
        "over": ((1, 6, 4), None, None),
    },
    "source replaced": {
        "open": ((0, 5, 4), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((0, 5, 4), None, None),
        "moved": ((0, 6, 4), None, CartSealed),
        "moved long ago": ((2, 6, 4), None, None),
        "over": ((2, 6, 4), None, None),
    },
    "source merged elsewhere": {
        "open": ((0, 3, 7), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((0, 3, 7), None, None),
        "moved": ((0, 6, 4), None, CartSealed),
        "moved long ago": ((0, 6, 4), None, None),
        "over": ((0, 6, 4), None, None),
    },
    "source merged into": {
        "open": ((0, 10, 0), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((0, 10, 0), None, None),
        "moved": ((0, 6, 4), None, CartSealed),
        "moved long ago": ((4, 6, 0), None, None),
        "over": ((4, 6, 0), None, None),
    },
    "target removed": {
        "open": ((0, 3, 4), None, None),
        "sealed": ((0, 3, 4), None, None),
        "sealed long ago": ((0, 3, 4), None, None),
        "moved": ((0, 0, 4), None, None),
        "moved long ago": ((0, 0, 4), None, None),
        "over": ((0, 0, 4), None, None),
    },
    "target added to": {
        "open": ((0, 7, 4), None, None),
        "sealed": ((0, 7, 4), None, None),
        "sealed long ago": ((0, 7, 4), None, None),
        "moved": ((0, 7, 4), None, None),
        "moved long ago": ((0, 7, 4), None, None),
        "over": ((0, 7, 4), None, None),
    },
    "target filled": {
        "open": ((3, 11, 4), LimitExceeded, None),
        "sealed": ((3, 11, 4), LimitExceeded, None),
        "sealed long ago": ((3, 11, 4), LimitExceeded, None),
        "moved": ((0, 11, 4), None, None),
        "moved long ago": ((0, 11, 4), None, None),
        "over": ((0, 11, 4), None, None),
    },
    "target merged elsewhere": {
        "open": ((0, 3, 7), None, None),
        "sealed": ((0, 3, 7), None, None),
        "sealed long ago": ((0, 3, 7), None, None),
        "moved": ((0, 0, 10), None, None),
        "moved long ago": ((0, 0, 10), None, None),
        "over": ((0, 0, 10), None, None),
    },
}
CASES = [
    pytest.param(name, *moment, end, id=f"{name}-{stage}-{number}")
    for name, ends in ENDS.items()
    for stage, end in ends.items()
    for number, moment in enumerate(MOMENTS[stage])
]


@pytest.mark.parametrize("conditions", [NONE, KEY], ids=["no key", "key"])
@pytest.mark.parametrize(("name", "when", "step", "before", "after", "end"), CASES)
def test_request_between_two_steps(
    scenario: MergeScenario,
    *,
    name: str,
    when: str,
    step: int,
    before: int,
    after: int,
    end: End,
    conditions: WriteConditions,
) -> None:
    """At every boundary, for every interference: items are conserved, no cart stays sealed, and no mark pending."""
    scenario.put(OTHER, d=4)
    errors: list[type[Exception] | None] = []

    def interfere() -> None:
        scenario.wait(before)
        errors.append(error_of(lambda: INTERFERENCES[name](scenario)))
        scenario.wait(after)

    scenario.store.plan(**{when: {step: interfere}})
    errors.insert(0, error_of(lambda: scenario.merge(conditions=conditions)))
    totals, *expected = end
    assert (scenario.totals(), errors) == (totals, expected)
    assert scenario.sealed() == set()
    assert (SOURCE, False) not in scenario.marks()
    assert bool(scenario.record(TARGET).idempotency_keys) == (expected[0] is None and conditions is KEY)
    scenario.resolve_seals()
    assert scenario.totals() == totals


def test_every_interference_is_tried_at_every_moment() -> None:
    """The tables have no holes."""
    assert set(ENDS) == set(INTERFERENCES)
    assert [set(ends) for ends in ENDS.values()] == [set(MOMENTS)] * len(ENDS)
    assert {moment[:2] for moments in MOMENTS.values() for moment in moments} == set(BOUNDARIES)


# The target's own merge into a third cart crashes after sealing it, so long before the merge goes on.
@pytest.mark.parametrize(
    ("when", "step", "before", "after", "totals", "error"),
    [
        ("before", ANNOUNCE, 0, 0, (3, 3, 4), CartSealed),
        ("before", ANNOUNCE, 0, 6 * SECOND, (0, 6, 4), None),
        ("after", ANNOUNCE, 0, 0, (3, 3, 4), CartSealed),
        ("before", SEAL, 0, 6 * SECOND, (0, 6, 4), None),
        ("after", SEAL, 0, 0, (3, 3, 4), CartSealed),
        ("before", MOVE, 0, 5 * SECOND, (3, 3, 4), CartSealed),
        ("after", SEAL, 0, 6 * SECOND, (0, 6, 4), None),
        ("before", MOVE, 0, 11 * SECOND, (0, 6, 4), None),
        ("before", MOVE, 6 * SECOND, 5 * SECOND, (3, 3, 4), CartSealed),
        ("before", MOVE, 6 * SECOND, MINUTE, (0, 6, 4), None),
        ("after", MOVE, 0, 0, (0, 6, 4), None),
        ("before", REMOVE, 6 * SECOND, 6 * SECOND, (0, 6, 4), None),
    ],
)
def test_target_that_is_itself_being_merged(
    scenario: MergeScenario,
    *,
    when: str,
    step: int,
    before: int,
    after: int,
    totals: tuple[int, int, int],
    error: type[Exception] | None,
) -> None:
    """Its seal is respected while it is young and resolved when it is old; nothing is lost either way."""
    scenario.put(OTHER, d=4)

    def interfere() -> None:
        scenario.wait(before)
        scenario.crash_merge("after", SEAL, source=TARGET, target=OTHER)
        scenario.wait(after)

    scenario.store.plan(**{when: {step: interfere}})
    assert error_of(scenario.merge) is error
    assert scenario.totals() == totals
    assert SOURCE not in scenario.sealed()
    assert (SOURCE, False) not in scenario.marks()
    scenario.resolve_seals()
    assert scenario.totals() == totals


# ---- carts that expire in between ----


@pytest.mark.parametrize("added_to", [False, True])
@pytest.mark.parametrize(
    ("keyed", "when", "step", "pause", "untouched", "touched"),
    [
        # Without keys an expired record is gone, and its seal with it.
        (False, "before", ANNOUNCE, 3, (0, 3), (0, 4)),
        (False, "before", SEAL, 3, (0, 3), (0, 4)),
        (False, "before", MOVE, 3, (0, 6), (1, 6)),
        (False, "before", REMOVE, 3, (0, 6), (1, 6)),
        (False, "after", REMOVE, 3, (0, 6), (0, 6)),  # closed
        (False, "before", MOVE, 11, (0, 6), (1, 6)),
        # With keys the record stays, and its seal with it.
        (True, "before", SEAL, 3, (0, 3), (0, 4)),
        (True, "before", MOVE, 3, (0, 6), (0, 6)),
        (True, "before", REMOVE, 3, (0, 6), (0, 6)),
        (True, "after", REMOVE, 3, (0, 6), (0, 6)),
        (True, "before", MOVE, 6, (0, 6), (0, 4)),
        (True, "before", REMOVE, 6, (0, 6), (0, 6)),  # the write resolves the merge, which closes the guest
        (True, "before", MOVE, 11, (0, 6), (0, 4)),
    ],
)
def test_source_that_expires_in_between(
    *,
    keyed: bool,
    when: str,
    step: int,
    pause: int,
    untouched: tuple[int, int],
    touched: tuple[int, int],
    added_to: bool,
) -> None:
    """Its items were sealed before their time was over and have moved, or are gone; a new cart stands for itself."""
    scenario, source = MergeScenario(), "guest-s"
    scenario.put(source, a=3, conditions=KEY if keyed else NONE)
    scenario.put(TARGET, a=2, b=1)
    scenario.wait(HOUR - 2 * SECOND)

    def interfere() -> None:
        scenario.wait(pause * SECOND)
        if added_to:
            error_of(lambda: scenario.put(source, a=1))

    scenario.store.plan(**{when: {step: interfere}})
    assert scenario.service.merge(TARGET, source, "sum", conditions=NONE).status == 200
    scenario.resolve_seals()
    held = tuple(sum((scenario.quantities(user) or {}).values()) for user in (source, TARGET))
    assert held == (touched if added_to else untouched)


@pytest.mark.parametrize(
    ("when", "step", "pause", "expected"),
    [
        ("before", ANNOUNCE, 3 * SECOND, {"a": 3}),
        ("before", SEAL, 3 * SECOND, {"a": 3}),
        ("before", MOVE, 3 * SECOND, {"a": 3}),
        ("before", MOVE, 11 * SECOND, {"a": 3}),
        ("before", REMOVE, 3 * SECOND, {"a": 5, "b": 1}),  # step 3 has moved its expiry
        ("before", REMOVE, 2 * HOUR, None),
        ("after", REMOVE, 2 * HOUR, None),
    ],
)
def test_target_that_expires_in_between(when: str, step: int, pause: int, expected: Quantities) -> None:
    """Its own items are gone; those of the source are in the new cart, and expire with it."""
    scenario, into = MergeScenario(), "guest-t"
    scenario.put(SOURCE, a=3)
    scenario.put(into, a=2, b=1)
    scenario.wait(HOUR - 2 * SECOND)
    scenario.store.plan(**{when: {step: lambda: scenario.wait(pause)}})
    assert scenario.service.merge(into, SOURCE, "sum", conditions=NONE).status == 200
    assert (scenario.quantities(SOURCE), scenario.quantities(into), scenario.sealed()) == (None, expected, set())
