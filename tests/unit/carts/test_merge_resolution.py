"""Tests of how an interrupted merge is resolved, and of steps and writes that come late, on clocks that differ."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from cartsvc.carts.conditions import Outcome
from cartsvc.carts.validation import ItemChange, NewItem
from cartsvc.errors import (
    CartNotFound,
    CartSealed,
    CartsvcError,
    LimitExceeded,
    MergeAborted,
    OutcomeUnknown,
    StoreError,
)
from tests.support.faults import Crash, crash
from tests.support.merge_scenario import (
    ANNOUNCE,
    HOUR,
    KEY,
    MINUTE,
    MOVE,
    MOVED,
    NONE,
    OTHER,
    POLICY,
    REMOVE,
    SEAL,
    SECOND,
    SOURCE,
    TARGET,
    MergeScenario,
    Quantities,
    each_boundary,
    error_of,
)
from tests.support.services import make_service

if TYPE_CHECKING:
    from collections.abc import Callable


# ---- reads ----


def test_seal_is_no_change_of_the_cart(scenario: MergeScenario) -> None:
    """The sealed cart reads as before: ETag, version, times; reading resolves nothing, however old the seal."""
    before = scenario.others.get(SOURCE)
    scenario.crash_merge("after", SEAL)
    record = scenario.record(SOURCE)
    for _ in range(3):
        assert scenario.others.get(SOURCE) == before
        assert scenario.others.get_item(SOURCE, "a")[0] == before
        scenario.wait(MINUTE)
    assert scenario.record(SOURCE) == record


# ---- writes to the source ----

# Each kind of write to the source: the call; the source and the third cart afterwards if the source still had its
# three items, and if they had moved. An error stands for the source if the write finds no cart.
End = tuple[Quantities | type[CartsvcError], Quantities]
WRITES: dict[str, tuple[Callable[[MergeScenario], object], End, End]] = {
    "add": (lambda s: s.put(SOURCE, a=1), ({"a": 4}, {"d": 4}), ({"a": 1}, {"d": 4})),
    "keyed add": (lambda s: s.put(SOURCE, a=1, conditions=KEY), ({"a": 4}, {"d": 4}), ({"a": 1}, {"d": 4})),
    "replace": (
        lambda s: s.others.replace(SOURCE, [NewItem("z", 2)], currency=None, conditions=NONE),
        ({"z": 2}, {"d": 4}),
        ({"z": 2}, {"d": 4}),
    ),
    "set_item": (
        lambda s: s.others.update_item(SOURCE, "a", ItemChange(quantity=2), conditions=NONE),
        ({"a": 2}, {"d": 4}),
        (CartNotFound, {"d": 4}),
    ),
    "remove_item": (
        lambda s: s.others.remove_item(SOURCE, "a", conditions=NONE),
        ({}, {"d": 4}),
        (CartNotFound, {"d": 4}),
    ),
    "remove": (lambda s: s.others.remove(SOURCE, conditions=NONE), (None, {"d": 4}), (CartNotFound, {"d": 4})),
    "merge elsewhere": (
        lambda s: s.others.merge(OTHER, SOURCE, "sum", conditions=NONE),
        (None, {"d": 4, "a": 3}),
        (None, {"d": 4}),
    ),
    "merge into it": (
        lambda s: s.others.merge(SOURCE, OTHER, "sum", conditions=NONE),
        ({"a": 3, "d": 4}, None),
        ({"d": 4}, None),
    ),
    "merge of an absent cart into it": (
        lambda s: s.others.merge(SOURCE, "absent", "sum", conditions=NONE),
        ({"a": 3}, {"d": 4}),
        (None, {"d": 4}),
    ),
}


@pytest.mark.parametrize("target", ["live", "absent", "removed", "expired", "sealed"])
@pytest.mark.parametrize("crashed", [("after", SEAL), ("before", MOVE), ("after", MOVE), ("before", REMOVE)])
@pytest.mark.parametrize("write", WRITES)
def test_write_to_source_resolves_the_merge(target: str, crashed: tuple[str, int], write: str) -> None:
    """Whatever became of the target: the merge is aborted if the items had not moved, finished if they had."""
    scenario, into = MergeScenario(), "guest-t"  # a guest's cart expires first
    scenario.put(SOURCE, a=3)
    scenario.put(OTHER, d=4)
    if target != "absent":
        scenario.put(into, a=2, b=1)
    scenario.crash_merge(*crashed, target=into)
    moved = crashed in MOVED
    if target == "removed":
        scenario.others.remove(into, conditions=NONE)
    scenario.wait(HOUR if target == "expired" else 6 * SECOND)
    if target == "sealed":
        scenario.crash_merge("after", SEAL, source=into, target="dan")

    call, kept, gone = WRITES[write]
    expected, third = gone if moved else kept
    if isinstance(expected, type):
        with pytest.raises(expected):
            call(scenario)
        expected = None
    else:
        call(scenario)

    assert (scenario.quantities(SOURCE), scenario.quantities(OTHER)) == (expected, third)
    own = {"live": {"a": 2, "b": 1}, "sealed": {"a": 2, "b": 1}}.get(target)
    with_source = {"live": {"a": 5, "b": 1}, "sealed": {"a": 5, "b": 1}, "absent": {"a": 3}}.get(target)
    assert scenario.quantities(into) == (with_source if moved else own)
    assert scenario.marks(into) == ([(SOURCE, True)] if moved else [])
    assert scenario.sealed() == ({into} if target == "sealed" else set())


@pytest.mark.parametrize("crashed", [("after", SEAL), ("after", MOVE)])
@pytest.mark.parametrize("write", [each for each in WRITES if each != "keyed add"])
def test_young_seal_is_respected(scenario: MergeScenario, crashed: tuple[str, int], write: str) -> None:
    """Writes are rejected while a merge may be at work; up to exactly five seconds, and nothing changes."""
    scenario.put(OTHER, d=4)
    scenario.crash_merge(*crashed)
    users = (SOURCE, TARGET, OTHER)
    before = [scenario.inner.get(user) for user in users]
    for pause in (0, 1, 4999):
        scenario.wait(pause)
        with pytest.raises(CartSealed):
            WRITES[write][0](scenario)
        assert [scenario.inner.get(user) for user in users] == before
    scenario.wait(1)
    assert error_of(lambda: WRITES[write][0](scenario)) is not CartSealed
    assert SOURCE not in scenario.sealed()


@pytest.mark.parametrize("user", [SOURCE, TARGET])
def test_seal_that_came_while_a_write_waited(scenario: MergeScenario, user: str) -> None:
    """It is later than the write began, and not from the future: a merge at work is not aborted for that."""

    def seal() -> None:
        scenario.wait(1)
        scenario.crash_merge("after", SEAL, source=user, target=OTHER)

    scenario.store.plan(before={1 if user == SOURCE else MOVE: seal})
    with pytest.raises(CartSealed):
        scenario.service.add(SOURCE, [NewItem("a", 1)], conditions=NONE) if user == SOURCE else scenario.merge()
    assert scenario.sealed() == {user}


def test_resolved_source_can_be_merged_again(scenario: MergeScenario) -> None:
    """The new merge has a new id, and the aborted one has left no mark."""
    scenario.crash_merge("after", SEAL)
    scenario.resolve_seals()
    assert scenario.marks() == []
    scenario.merge()
    assert scenario.both() == (None, {"a": 5, "b": 1})
    assert scenario.marks() == [(SOURCE, True)]


@pytest.mark.parametrize("crashes", [("before", 2), ("after", 2), ("before", 3), ("after", 3)])
@pytest.mark.parametrize("crashed", [("after", SEAL), ("after", MOVE)])
def test_resolving_can_crash_too(scenario: MergeScenario, crashed: tuple[str, int], crashes: tuple[str, int]) -> None:
    """The next write does the rest: the second update is that of the target, the third that of the source."""
    scenario.crash_merge(*crashed)
    scenario.wait(6 * SECOND)
    scenario.store.plan(**{crashes[0]: {crashes[1]: crash}})
    with pytest.raises(Crash):
        scenario.service.add(SOURCE, [NewItem("z", 1)], conditions=NONE)
    scenario.put(SOURCE, z=1)
    moved = crashed in MOVED
    assert scenario.both() == (({"z": 1}, {"a": 5, "b": 1}) if moved else ({"a": 3, "z": 1}, {"a": 2, "b": 1}))


@pytest.mark.parametrize("when_resolved", ["before B is merged", "after B was merged"])
def test_chain_of_merges_moves_items_once(when_resolved: str) -> None:
    """A into B crashes before its last step, B goes into C: B's tombstone still has the mark of A's seal."""
    scenario = MergeScenario()
    for user, item in (("A", "a"), ("B", "b"), ("C", "c")):
        scenario.put(user, **{item: 1})
    scenario.crash_merge("after", MOVE, source="A", target="B")
    if when_resolved == "before B is merged":
        scenario.resolve_seals()
    scenario.others.merge("C", "B", "sum", conditions=NONE)
    scenario.resolve_seals()
    assert [scenario.quantities(user) for user in "ABC"] == [None, None, {"c": 1, "b": 1, "a": 1}]
    scenario.put("A", z=1)
    scenario.others.merge("C", "A", "sum", conditions=NONE)
    assert scenario.quantities("C") == {"c": 1, "b": 1, "a": 1, "z": 1}


@pytest.mark.parametrize("step", [SEAL, MOVE])
def test_ring_of_seals_is_resolved(step: int) -> None:
    """A into B, B into C, C into A, each merge crashed: no cart waits for another, and nothing is lost."""
    scenario = MergeScenario()
    for user, item in (("A", "a"), ("B", "b"), ("C", "c")):
        scenario.put(user, **{item: 1})
    scenario.crash_merge("after", step, source="A", target="B")
    scenario.wait(6 * SECOND)
    scenario.crash_merge("after", SEAL, source="B", target="C")
    if step == SEAL:  # C into A finds A sealed by then, and resolves that seal
        scenario.crash_merge("after", 5, source="C", target="A")
    scenario.resolve_seals()
    held = [scenario.quantities(user) for user in "ABC"]
    assert held == ([{"a": 1}, {"b": 1}, {"c": 1}] if step == SEAL else [None, {"b": 1, "a": 1}, {"c": 1}])


# ---- steps that come late ----

RESOLVE = 6 * SECOND


def _resolve(scenario: MergeScenario, *, then: int = 0) -> None:
    """Add an item to the source when its seal is old, and let more time pass."""
    scenario.wait(RESOLVE)
    scenario.put(SOURCE, a=1)
    scenario.wait(then)


@pytest.mark.parametrize("later", [0, 4_001, 54_000, 61_000, HOUR, -HOUR])
@pytest.mark.parametrize("conditions", [NONE, KEY], ids=["no key", "key"])
def test_late_move_starts_the_merge_again(scenario: MergeScenario, later: int, conditions: object) -> None:
    """Its mark has gone, whatever the clock says by then: it moves what the source holds now, once."""
    scenario.store.plan(before={MOVE: partial(_resolve, scenario, then=later)})
    assert scenario.merge(conditions=conditions).replayed is False
    assert scenario.both() == (None, {"a": 6, "b": 1})
    assert scenario.marks() == [(SOURCE, True)]


@pytest.mark.parametrize(("times", "error"), [(7, None), (8, MergeAborted)])
def test_merge_gives_up_after_eight_attempts(
    scenario: MergeScenario, times: int, error: type[CartsvcError] | None
) -> None:
    """Each attempt finds that it was aborted: 409 in the end, nothing is left behind, and it can be sent again."""

    def resolve() -> None:
        scenario.wait(RESOLVE)
        scenario.others.merge(SOURCE, "absent", "sum", conditions=NONE)

    before = scenario.carts()
    scenario.store.plan(before={MOVE + 4 * attempt: resolve for attempt in range(times)})
    assert error_of(lambda: scenario.merge(conditions=KEY)) is error
    assert scenario.store.updates == 8 * 4
    assert scenario.sealed() == set()
    if error is not None:
        assert (scenario.carts(), scenario.marks(), scenario.record(TARGET).idempotency_keys) == (before, [], ())
        scenario.store.plan()
        assert scenario.merge(conditions=KEY).replayed is False
    assert scenario.both() == (None, {"a": 5, "b": 1})


def test_aborted_request_with_accepted_retry_is_replayed(scenario: MergeScenario) -> None:
    """The same key twice at once: one request is aborted and the other accepted, and both are answered 200."""

    def retry() -> None:
        scenario.wait(RESOLVE)
        scenario.put(SOURCE, b=1)
        assert scenario.others.merge(TARGET, SOURCE, "sum", conditions=KEY).replayed is False

    scenario.store.plan(before={MOVE: retry})
    assert scenario.merge(conditions=KEY) == Outcome(scenario.others.get(TARGET), 200, replayed=True)
    assert scenario.both() == (None, {"a": 5, "b": 2})


def test_late_unseal_leaves_a_later_merge_alone(scenario: MergeScenario) -> None:
    """The merge was rejected; before it opened the source, a retry moved the items and crashed."""
    scenario.put(TARGET, a=6)

    def retry() -> None:
        scenario.others.update_item(TARGET, "a", ItemChange(quantity=1), conditions=NONE)
        scenario.crash_merge("after", 5)  # aborted, unsealed, announced, sealed, moved

    scenario.store.plan(before={REMOVE: retry})
    with pytest.raises(LimitExceeded):
        scenario.merge()
    assert scenario.sealed() == {SOURCE}
    scenario.resolve_seals()
    assert scenario.both() == (None, {"a": 4, "b": 1})


@pytest.mark.parametrize("later", [0, 59_900, 61 * SECOND, HOUR])
def test_late_resolution_leaves_a_later_merge_alone(scenario: MergeScenario, later: int) -> None:
    """It had removed the pending mark; before it opened the source, a retry merged it."""
    scenario.crash_merge("after", SEAL)
    scenario.wait(RESOLVE)

    def retry() -> None:
        scenario.wait(later)
        assert scenario.others.merge(TARGET, SOURCE, "sum", conditions=NONE).status == 200

    scenario.store.plan(before={3: retry})  # the third update opens the source
    outcome = scenario.service.add(SOURCE, [NewItem("z", 1)], conditions=NONE)
    assert outcome.cart == scenario.others.get(SOURCE)
    assert scenario.both() == ({"z": 1}, {"a": 5, "b": 1})


@pytest.mark.parametrize("sealed_again", [False, True])
def test_late_remove_leaves_a_new_cart_alone(scenario: MergeScenario, *, sealed_again: bool) -> None:
    """Another request has finished the merge, and the source is a new cart without this merge's seal."""

    def come_between() -> None:
        scenario.wait(RESOLVE)
        scenario.put(SOURCE, z=7)
        if sealed_again:
            scenario.crash_merge("after", SEAL, target=OTHER)

    scenario.store.plan(before={REMOVE: come_between})
    assert scenario.merge().status == 200
    assert scenario.both() == ({"z": 7}, {"a": 5, "b": 1})
    assert scenario.sealed() == ({SOURCE} if sealed_again else set())
    scenario.resolve_seals()
    assert scenario.quantities(SOURCE) == {"z": 7}


def test_unseal_leaves_another_seal_alone(scenario: MergeScenario) -> None:
    """The rejected merge was resolved, and the source sealed again for another target."""
    scenario.put(TARGET, a=6)

    def come_between() -> None:
        scenario.wait(RESOLVE)
        scenario.put(SOURCE, z=1)
        scenario.crash_merge("after", SEAL, target=OTHER)

    scenario.store.plan(before={REMOVE: come_between})
    with pytest.raises(LimitExceeded):
        scenario.merge()
    assert scenario.sealed() == {SOURCE}
    assert scenario.others.merge(OTHER, SOURCE, "sum", conditions=NONE).status == 200
    assert (scenario.quantities(SOURCE), scenario.quantities(OTHER)) == (None, {"a": 3, "z": 1})


# ---- writes that arrive late ----


def _refuse() -> None:
    raise StoreError


@pytest.mark.parametrize("step", [ANNOUNCE, SEAL, MOVE, REMOVE])
@pytest.mark.parametrize("rest_fails", [False, True])
@pytest.mark.parametrize("pause", [0, 6 * SECOND, 61 * SECOND, HOUR])
@pytest.mark.parametrize("target", ["live", "removed", "absent again", "merged away"])
@pytest.mark.parametrize("retried", [False, True])
def test_write_that_arrives_late(*, step: int, rest_fails: bool, pause: int, target: str, retried: bool) -> None:
    """The answer to one write is lost, and the write arrives when others have been at both carts: items are conserved.

    ``rest_fails``: the store fails for the rest of the request too.
    """
    scenario = MergeScenario()
    scenario.put(SOURCE, a=3)
    if target != "absent again":
        scenario.put(TARGET, a=2, b=1)
    expected = sum(scenario.totals())
    later = dict.fromkeys(range(step + 1, step + 100), _refuse) if rest_fails else {}
    scenario.store.plan(before=later, late=step)
    assert error_of(scenario.merge) in {StoreError, OutcomeUnknown}
    scenario.store.plan()
    scenario.wait(pause)
    expected += error_of(lambda: scenario.put(SOURCE, a=1)) is None
    if target == "absent again":
        scenario.put(TARGET, a=1)
        expected += 1
    if target in {"removed", "absent again"}:
        expected -= scenario.totals()[1]
        scenario.others.remove(TARGET, conditions=NONE)
    if target == "merged away":
        scenario.others.merge(OTHER, TARGET, "sum", conditions=NONE)
    if retried:
        scenario.merge()
    scenario.store.deliver()
    scenario.resolve_seals()
    assert sum(scenario.totals()) == expected


def test_late_move_is_not_applied_after_resolution(scenario: MergeScenario) -> None:
    """The target was absent, existed, and is absent again: the record that the write expects never comes back."""
    scenario.others.remove(TARGET, conditions=NONE)
    scenario.store.plan(before=dict.fromkeys(range(MOVE + 1, 100), _refuse), late=MOVE)
    with pytest.raises(OutcomeUnknown):
        scenario.merge()
    scenario.wait(RESOLVE)
    scenario.put(SOURCE, b=1)
    assert scenario.inner.get(TARGET) is None
    scenario.put(TARGET, c=1)
    scenario.others.remove(TARGET, conditions=NONE)
    assert scenario.store.deliver() is False
    assert scenario.both() == ({"a": 3, "b": 1}, None)


def test_late_move_before_resolution_counts(scenario: MergeScenario) -> None:
    """The write arrives while the mark is pending: the merge is finished by the next write to the source."""
    scenario.store.plan(before=dict.fromkeys(range(MOVE + 1, 100), _refuse), late=MOVE)
    with pytest.raises(OutcomeUnknown):
        scenario.merge()
    assert scenario.store.deliver() is True
    scenario.resolve_seals()
    assert scenario.both() == (None, {"a": 5, "b": 1})


# ---- clocks that differ ----

SKEWS = [-HOUR, -61 * SECOND, -10 * SECOND, -1, 0, 1, 10 * SECOND, 61 * SECOND, HOUR]


@each_boundary
@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("pause", [0, 6 * SECOND, 61 * SECOND])
def test_servers_with_different_clocks(scenario: MergeScenario, when: str, step: int, *, skew: int, pause: int) -> None:
    """One server merges, another with its own clock writes to the source in between: items are conserved."""
    merging = make_service(scenario.store, lambda: scenario.clock() + skew, policy=POLICY)
    added = []

    def write() -> None:
        scenario.wait(pause)
        added.append(error_of(lambda: scenario.put(SOURCE, a=1)) is None)

    scenario.store.plan(**{when: {step: write}})
    assert merging.merge(TARGET, SOURCE, "sum", conditions=NONE).status == 200
    scenario.wait(abs(skew))
    scenario.resolve_seals()
    assert sum(scenario.totals()) == 6 + sum(added)


@each_boundary
@pytest.mark.parametrize("step_of_clock", [-HOUR, -6 * SECOND, 61 * SECOND, HOUR])
def test_clock_that_is_set_while_a_merge_runs(
    scenario: MergeScenario, when: str, step: int, step_of_clock: int
) -> None:
    """The source is resolved and added to, and then the only clock there is jumps: items are conserved."""
    added = []

    def jump() -> None:
        scenario.wait(6 * SECOND)
        added.append(error_of(lambda: scenario.put(SOURCE, a=1)) is None)
        scenario.clock.advance(step_of_clock)

    scenario.store.plan(**{when: {step: jump}})
    assert scenario.merge().status == 200
    scenario.wait(HOUR)
    scenario.resolve_seals()
    assert sum(scenario.totals()) == 6 + sum(added)


def test_seal_from_the_future_is_old(scenario: MergeScenario) -> None:
    """The clock of another server is ahead: its merge is aborted, because waiting could take an hour."""
    scenario.crash_merge("after", SEAL)
    scenario.clock.advance(-1)
    scenario.put(SOURCE, a=1)
    assert (scenario.quantities(SOURCE), scenario.sealed()) == ({"a": 4}, set())
    assert scenario.merge().status == 200
    assert scenario.quantities(TARGET) == {"a": 6, "b": 1}
