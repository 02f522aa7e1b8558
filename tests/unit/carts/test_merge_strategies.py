"""Tests of what a merge does to both carts when nothing interrupts it, and of merges that are rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from cartsvc.carts.combine import STRATEGIES
from cartsvc.carts.conditions import ANY_TAG, Outcome, WriteConditions
from cartsvc.carts.validation import NewItem
from cartsvc.errors import (
    CartSealed,
    CartsvcError,
    CurrencyMismatch,
    IdempotencyKeyReused,
    InvalidRequest,
    LimitExceeded,
    PreconditionFailed,
)
from tests.support.faults import Crash, crash
from tests.support.merge_scenario import (
    ANNOUNCE,
    BOUNDARIES,
    DAY,
    HOUR,
    KEY,
    MOVE,
    NONE,
    OTHER,
    SEAL,
    SOURCE,
    TARGET,
    MergeScenario,
    Quantities,
    each_boundary,
    error_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.combine import Strategy


# ---- accepted merges ----


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("sum", {"a": 5, "b": 1, "c": 4}),
        ("max", {"a": 3, "b": 1, "c": 4}),
        ("keep", {"a": 2, "b": 1, "c": 4}),
        ("replace", {"a": 3, "c": 4}),
    ],
)
def test_merge_moves_items_and_removes_source(
    scenario: MergeScenario, strategy: Strategy, expected: Quantities
) -> None:
    """The answer is the target as it is read. A source without keys and marks leaves nothing in the store."""
    scenario.put(SOURCE, c=4)
    before = scenario.others.get(TARGET)
    assert before is not None
    outcome = scenario.merge(strategy)
    assert outcome == Outcome(scenario.others.get(TARGET), 200)
    assert scenario.both() == (None, expected)
    assert outcome.cart is not None
    assert (outcome.cart.version, outcome.cart.etag != before.etag) == (before.version + 1, True)
    assert scenario.inner.get(SOURCE) is None
    assert scenario.marks() == [(SOURCE, True)]
    assert scenario.store.updates == 4


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("target", ["live", "absent"])
@pytest.mark.parametrize("source", ["never made", "removed", "expired", "merged away"])
def test_absent_source_changes_nothing(strategy: Strategy, target: str, source: str) -> None:
    """The target is the same afterwards, or still absent, and bears no mark; the key is remembered."""
    scenario = MergeScenario()
    if target == "live":
        scenario.put(TARGET, a=2)
    if source != "never made":
        scenario.put("guest-s", a=3, conditions=KEY)
    if source == "removed":
        scenario.others.remove("guest-s", conditions=NONE)
    if source == "expired":
        scenario.wait(HOUR)
    if source == "merged away":
        scenario.others.merge(OTHER, "guest-s", "sum", conditions=NONE)
    cart, stored = scenario.others.get(TARGET), scenario.inner.get(TARGET)
    assert scenario.service.merge(TARGET, "guest-s", strategy, conditions=NONE) == Outcome(cart, 200)
    assert scenario.inner.get(TARGET) == stored
    assert scenario.service.merge(TARGET, "guest-s", strategy, conditions=KEY) == Outcome(cart, 200)
    assert scenario.service.merge(TARGET, "guest-s", strategy, conditions=KEY) == Outcome(cart, 200, replayed=True)
    assert scenario.others.get(TARGET) == cart
    assert scenario.marks() == []
    if source == "merged away":
        scenario.wait(HOUR)  # a guest is closed until then
    scenario.put("guest-s", z=1)
    assert scenario.service.merge(TARGET, "guest-s", strategy, conditions=KEY).replayed is True
    assert scenario.quantities("guest-s") == {"z": 1}


@pytest.mark.parametrize("conditions", [NONE, KEY])
def test_merge_of_a_cart_into_itself_is_invalid(scenario: MergeScenario, conditions: WriteConditions) -> None:
    """Nothing is written, not even for an absent cart."""
    for user in (SOURCE, "absent"):
        before = scenario.inner.get(user)
        with pytest.raises(InvalidRequest) as error:
            scenario.service.merge(user, user, "sum", conditions=conditions)
        assert [fault.pointer for fault in error.value.faults] == ["/from_user_id"]
        assert scenario.inner.get(user) == before


@pytest.mark.parametrize("source", ["", ".", "..", "a b", "x" * 256, "a/b", "\ud800"])
def test_source_must_be_a_user_id(scenario: MergeScenario, source: str) -> None:
    """The fault names its place in the body."""
    with pytest.raises(InvalidRequest) as error:
        scenario.service.merge(TARGET, source, "sum", conditions=KEY)
    assert [fault.pointer for fault in error.value.faults] == ["/from_user_id"]
    assert scenario.store.updates == 0


# ---- replays ----


def test_replay_leaves_a_new_source_cart_alone(scenario: MergeScenario) -> None:
    """The guest's id was used again: the new items stay where they are."""
    first = scenario.merge(conditions=KEY)
    scenario.put(SOURCE, n=4)
    scenario.wait(HOUR)
    assert scenario.merge(conditions=KEY) == Outcome(first.cart, 200, replayed=True)
    assert scenario.both() == ({"n": 4}, {"a": 5, "b": 1})
    assert scenario.sealed() == set()


def test_key_is_found_after_target_was_removed(scenario: MergeScenario) -> None:
    """The tombstone keeps the key: the items are not merged once more."""
    scenario.merge(conditions=KEY)
    scenario.others.remove(TARGET, conditions=NONE)
    scenario.put(SOURCE, n=4)
    assert scenario.merge(conditions=KEY) == Outcome(None, 200, replayed=True)
    assert scenario.both() == ({"n": 4}, None)


def test_merged_cart_keeps_its_keys_and_marks(scenario: MergeScenario) -> None:
    """Retries of requests that were sent to the cart before it was merged away change nothing."""
    scenario.put("guest-1", g=1)
    scenario.others.merge(SOURCE, "guest-1", "sum", conditions=WriteConditions(b"merge", b"request"))
    scenario.put(SOURCE, a=1, conditions=KEY)
    before = scenario.record(SOURCE)
    scenario.merge()
    record = scenario.record(SOURCE)
    assert (record.cart, record.seal) == (None, None)
    assert (record.idempotency_keys, record.merge_marks) == (before.idempotency_keys, before.merge_marks)
    assert scenario.others.add(SOURCE, [NewItem("a", 1)], conditions=KEY) == Outcome(None, 200, replayed=True)
    assert (
        scenario.others.merge(SOURCE, "guest-1", "sum", conditions=WriteConditions(b"merge", b"request")).replayed
        is True
    )
    assert scenario.quantities(SOURCE) is None
    scenario.wait(DAY + HOUR)
    assert scenario.inner.get(SOURCE) is None


# ---- rejected merges ----


class Rejection(NamedTuple):
    """How to have a merge rejected, and its error."""

    error: type[CartsvcError]
    prepare: Callable[[MergeScenario], object]
    conditions: WriteConditions = NONE


def _price_both(scenario: MergeScenario) -> None:
    for user, currency in ((SOURCE, "EUR"), (TARGET, "USD")):
        scenario.others.add(user, [NewItem(user, 1, {}, 5, currency)], conditions=NONE)


def _seal_target(scenario: MergeScenario) -> None:
    scenario.crash_merge("after", SEAL, source=TARGET, target=OTHER)


REJECTIONS = {
    "limit": Rejection(LimitExceeded, lambda scenario: scenario.put(TARGET, a=6)),
    "currency": Rejection(CurrencyMismatch, _price_both),
    "precondition": Rejection(PreconditionFailed, lambda _: None, WriteConditions(if_match=frozenset(["x"]))),
    "creates only": Rejection(PreconditionFailed, lambda _: None, WriteConditions(if_none_match=ANY_TAG)),
}
SEALED_TARGET = Rejection(CartSealed, _seal_target)
each_rejection = pytest.mark.parametrize("rejection", REJECTIONS.values(), ids=list(REJECTIONS))


@pytest.mark.parametrize("rejection", [*REJECTIONS.values(), SEALED_TARGET], ids=[*REJECTIONS, "sealed target"])
def test_rejected_merge_changes_neither_cart(scenario: MergeScenario, rejection: Rejection) -> None:
    """Both carts are the same, no key and no mark is left however often it is sent, and the source takes writes."""
    rejection.prepare(scenario)
    before, sealed = scenario.carts(), scenario.sealed()
    conditions = WriteConditions(b"key", b"request", rejection.conditions.if_match, rejection.conditions.if_none_match)
    for _ in range(70):
        with pytest.raises(rejection.error):
            scenario.merge(conditions=conditions)
    assert scenario.carts() == before
    assert scenario.sealed() == sealed
    assert scenario.record(TARGET).idempotency_keys == ()
    assert scenario.marks() == []
    assert scenario.put(SOURCE, c=1).items[-1].item_id == "c"


@each_rejection
@each_boundary
def test_crashed_rejected_merge_is_rejected_again(
    scenario: MergeScenario, rejection: Rejection, when: str, step: int
) -> None:
    """A retry has the same answer at whatever boundary the first request crashed, and neither cart changes."""
    rejection.prepare(scenario)
    before = scenario.carts()
    scenario.store.plan(**{when: {step: crash}})
    with pytest.raises(Crash):
        scenario.merge(conditions=rejection.conditions)
    scenario.store.plan()
    for _ in range(3):
        assert error_of(lambda: scenario.merge(conditions=rejection.conditions)) is rejection.error
        assert scenario.carts() == before
    assert scenario.sealed() == set()
    scenario.put(SOURCE, c=1)


@each_rejection
@each_boundary
def test_crashed_rejected_merge_locks_no_cart(
    scenario: MergeScenario, rejection: Rejection, when: str, step: int
) -> None:
    """Without a retry both carts take writes six seconds later, and have all their items."""
    rejection.prepare(scenario)
    source, target = scenario.carts()
    assert source is not None
    assert target is not None
    scenario.store.plan(**{when: {step: crash}})
    with pytest.raises(Crash):
        scenario.merge(conditions=rejection.conditions)
    scenario.wait(6_000)
    assert scenario.put(SOURCE, c=1).items[:-1] == source.items
    assert scenario.put(TARGET, c=1).items[:-1] == target.items
    assert scenario.sealed() == set()


@pytest.mark.parametrize(("when", "step"), BOUNDARIES[BOUNDARIES.index(("before", MOVE)) :])
def test_crashed_merge_into_a_sealed_target(scenario: MergeScenario, when: str, step: int) -> None:
    """The target was sealed after this merge had sealed its source: 409 for the retry too, and the source is open."""
    before = scenario.carts()
    events: dict[str, dict[int, Callable[[], None]]] = {"before": {}, "after": {SEAL: lambda: _seal_target(scenario)}}
    events[when][step] = crash
    scenario.store.plan(**events)
    with pytest.raises(Crash):
        scenario.merge()
    scenario.store.plan()
    for _ in range(3):
        assert error_of(scenario.merge) is CartSealed
        assert (scenario.carts(), scenario.sealed()) == (before, {TARGET})
    scenario.put(SOURCE, c=1)
    scenario.resolve_seals()
    assert scenario.both() == ({"a": 3, "c": 1}, {"a": 2, "b": 1})


@pytest.mark.parametrize(("when", "step"), BOUNDARIES[BOUNDARIES.index(("before", MOVE)) :])
def test_crash_after_key_was_used_in_between(scenario: MergeScenario, when: str, step: int) -> None:
    """Another request with the same key was accepted after the seal: 422 for the retry, and no cart stays sealed."""
    events: dict[str, dict[int, Callable[[], object]]] = {
        "before": {},
        "after": {SEAL: lambda: scenario.put(TARGET, c=1, conditions=WriteConditions(KEY.key_digest, b"another"))},
    }
    events[when][step] = crash
    scenario.store.plan(**events)
    with pytest.raises(Crash):
        scenario.merge(conditions=KEY)
    scenario.store.plan()
    with pytest.raises(IdempotencyKeyReused):
        scenario.merge(conditions=KEY)
    scenario.resolve_seals()
    assert scenario.both() == ({"a": 3}, {"a": 2, "b": 1, "c": 1})


@pytest.mark.parametrize("step", [ANNOUNCE, SEAL, MOVE])
def test_key_used_in_between_rejects_the_merge(scenario: MergeScenario, step: int) -> None:
    """Nothing has moved, and the source takes writes at once."""
    scenario.store.plan(
        before={step: lambda: scenario.put(TARGET, c=1, conditions=WriteConditions(KEY.key_digest, b"another"))}
    )
    with pytest.raises(IdempotencyKeyReused):
        scenario.merge(conditions=KEY)
    assert (scenario.sealed(), scenario.marks()) == (set(), [])
    assert scenario.both() == ({"a": 3}, {"a": 2, "b": 1, "c": 1})


@pytest.mark.parametrize("step", [ANNOUNCE, SEAL, MOVE])
def test_request_accepted_in_between_is_replayed(scenario: MergeScenario, step: int) -> None:
    """The same request was accepted on another server, which found no source: nothing is moved."""

    def accept_elsewhere() -> None:
        assert scenario.others.merge(TARGET, "absent", "sum", conditions=KEY).replayed is False

    scenario.store.plan(before={step: accept_elsewhere})
    assert scenario.merge(conditions=KEY) == Outcome(scenario.others.get(TARGET), 200, replayed=True)
    assert (scenario.sealed(), scenario.marks()) == (set(), [])
    assert scenario.both() == ({"a": 3}, {"a": 2, "b": 1})
