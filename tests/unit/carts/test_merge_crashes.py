"""Tests of merges whose server crashes, or whose store fails, at any of the four writes; and of many at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from cartsvc.carts.cart import Limits
from cartsvc.carts.combine import STRATEGIES
from cartsvc.carts.conditions import Outcome, WriteConditions
from cartsvc.carts.record import Policy
from cartsvc.carts.validation import NewItem
from cartsvc.errors import (
    CartNotFound,
    CartSealed,
    IdempotencyKeyReused,
    LimitExceeded,
    MergeAborted,
    OutcomeUnknown,
    RecordUnreadable,
    StoreError,
    StoreFull,
    TooManyMerges,
)
from tests.support.faults import Crash, crash
from tests.support.memory_store import MemoryStore
from tests.support.merge_scenario import (
    ANNOUNCE,
    HOUR,
    KEY,
    MINUTE,
    MOVE,
    MOVED,
    NONE,
    REMOVE,
    SEAL,
    SECOND,
    SOURCE,
    TARGET,
    MergeScenario,
    each_boundary,
    error_of,
)
from tests.support.services import make_service, racing

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.combine import Strategy
    from cartsvc.carts.record import Seal


# ---- crashes ----


@each_boundary
@pytest.mark.parametrize("pause", [0, 5 * SECOND, 6 * SECOND, 61 * SECOND, 2 * HOUR])
@pytest.mark.parametrize("conditions", [NONE, KEY], ids=["no key", "key"])
def test_retry_completes_a_crashed_merge(
    scenario: MergeScenario, when: str, step: int, *, pause: int, conditions: WriteConditions
) -> None:
    """However late: the items have moved once, the source is gone, and one more retry changes nothing."""
    scenario.store.plan(**{when: {step: crash}})
    with pytest.raises(Crash):
        scenario.merge(conditions=conditions)
    scenario.store.plan()
    scenario.wait(pause)
    outcome = scenario.merge(conditions=conditions)
    assert scenario.both() == (None, {"a": 5, "b": 1})
    moved = (when, step) in MOVED
    assert outcome == Outcome(scenario.others.get(TARGET), 200, replayed=moved and conditions is KEY)
    assert scenario.sealed() == set()
    assert scenario.merge(conditions=conditions) == Outcome(
        scenario.others.get(TARGET), 200, replayed=conditions is KEY
    )
    assert scenario.both() == (None, {"a": 5, "b": 1})


@each_boundary
@pytest.mark.parametrize("pause", [0, 6 * SECOND])
def test_retries_that_crash_complete_in_the_end(scenario: MergeScenario, when: str, step: int, *, pause: int) -> None:
    """Each retry crashes one update later than the retry before."""
    scenario.store.plan(**{when: {step: crash}})
    with pytest.raises(Crash):
        scenario.merge(conditions=KEY)
    for later in range(1, 6):
        scenario.store.plan(after={later: crash})
        try:
            scenario.merge(conditions=KEY)
        except Crash:
            scenario.wait(pause)
    assert scenario.both() == (None, {"a": 5, "b": 1})
    assert scenario.sealed() == set()


@each_boundary
def test_crashed_merge_without_retry_locks_no_cart(scenario: MergeScenario, when: str, step: int) -> None:
    """Six seconds later both carts take writes; the items are in one of them, and nothing pending names a seal."""
    scenario.crash_merge(when, step)
    scenario.wait(6 * SECOND)
    scenario.put(SOURCE, z=1)
    scenario.put(TARGET, z=1)
    moved = (when, step) in MOVED
    expected = ({"z": 1}, {"a": 5, "b": 1, "z": 1}) if moved else ({"a": 3, "z": 1}, {"a": 2, "b": 1, "z": 1})
    assert scenario.both() == expected
    assert scenario.sealed() == set()


@pytest.mark.parametrize("key", [None, b"other key"])
def test_retry_with_another_key_completes(scenario: MergeScenario, key: bytes | None) -> None:
    """Its key is remembered though the items had been moved already, and is replayed afterwards."""
    scenario.crash_merge("after", MOVE, conditions=KEY)
    conditions = WriteConditions(key, b"request")
    assert scenario.merge(conditions=conditions) == Outcome(scenario.others.get(TARGET), 200)
    assert scenario.both() == (None, {"a": 5, "b": 1})
    known = [each.key_digest for each in scenario.record(TARGET).idempotency_keys]
    assert known == [KEY.key_digest] + ([key] if key else [])
    if key:
        assert scenario.merge(conditions=conditions).replayed is True


def test_retry_that_reuses_a_key_breaks_nothing(scenario: MergeScenario) -> None:
    """The retry is rejected for its key, and the next write finishes the merge."""
    scenario.put(TARGET, c=1, conditions=WriteConditions(KEY.key_digest, b"another"))
    scenario.crash_merge("after", MOVE)
    with pytest.raises(IdempotencyKeyReused):
        scenario.merge(conditions=KEY)
    scenario.resolve_seals()
    assert scenario.both() == (None, {"a": 5, "b": 1, "c": 1})


def test_key_reused_after_move_finishes_source(scenario: MergeScenario) -> None:
    """The items have moved, and then the key came with another request: 422, and the source is removed."""
    scenario.crash_merge("after", MOVE)
    scenario.store.plan(
        before={1: lambda: scenario.put(TARGET, c=1, conditions=WriteConditions(KEY.key_digest, b"another"))}
    )
    with pytest.raises(IdempotencyKeyReused):
        scenario.merge(conditions=KEY)
    assert scenario.both() == (None, {"a": 5, "b": 1, "c": 1})


# ---- the strategy of a retry ----

BY_STRATEGY = {"sum": {"a": 5, "b": 1}, "max": {"a": 3, "b": 1}, "keep": {"a": 2, "b": 1}, "replace": {"a": 3}}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("step", [SEAL, MOVE])
def test_retry_resumes_under_the_seal(scenario: MergeScenario, strategy: Strategy, step: int) -> None:
    """The same target and the same strategy: the merge id stays, although the seal is stale."""
    seal = crash_and_retry(scenario, strategy, step, MINUTE - 1)
    assert [(mark.merge_id, mark.done) for mark in scenario.record(TARGET).merge_marks] == [(seal.merge_id, True)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_retry_starts_again_after_a_minute(scenario: MergeScenario, strategy: Strategy) -> None:
    """Nothing is moved under a mark that old, so the retry is a merge of its own."""
    seal = crash_and_retry(scenario, strategy, SEAL, MINUTE)
    [mark] = scenario.record(TARGET).merge_marks
    assert (mark.merge_id == seal.merge_id, mark.done) == (False, True)


@pytest.mark.parametrize("later", [MINUTE, 23 * HOUR])
def test_retry_finds_an_old_done_mark(scenario: MergeScenario, later: int) -> None:
    """The items have been moved, and stay moved."""
    seal = crash_and_retry(scenario, "sum", MOVE, later)
    assert [(mark.merge_id, mark.done) for mark in scenario.record(TARGET).merge_marks] == [(seal.merge_id, True)]


def crash_and_retry(scenario: MergeScenario, strategy: Strategy, step: int, later: int) -> Seal:
    """Crash after this step and retry later; return the seal of the merge that crashed."""
    scenario.crash_merge("after", step, strategy=strategy)
    seal = scenario.record(SOURCE).seal
    assert seal is not None
    scenario.wait(later)
    scenario.merge(strategy)
    assert scenario.both() == (None, BY_STRATEGY[strategy])
    return seal


@pytest.mark.parametrize(
    ("first", "second"), [(first, second) for first in STRATEGIES for second in STRATEGIES if first != second]
)
@pytest.mark.parametrize("step", [SEAL, MOVE])
def test_retry_with_another_strategy(scenario: MergeScenario, first: Strategy, second: Strategy, step: int) -> None:
    """409 for five seconds. Then the first merge is finished or aborted, and the retry is a merge of its own."""
    scenario.crash_merge("after", step, strategy=first)
    source, target = scenario.record(SOURCE), scenario.record(TARGET)
    for pause in (0, 5 * SECOND):
        scenario.wait(pause)
        with pytest.raises(CartSealed):
            scenario.merge(second)
        assert (scenario.record(SOURCE), scenario.record(TARGET)) == (source, target)
    scenario.wait(1)
    assert scenario.merge(second).status == 200
    assert scenario.both() == (None, BY_STRATEGY[first if step == MOVE else second])
    assert scenario.sealed() == set()


# ---- store errors ----


def refuse() -> None:
    """Fail before the write is sent."""
    raise StoreError


def lose() -> None:
    """Lose the answer: before the update the write has not arrived, after it the write is applied."""
    raise OutcomeUnknown


def fill() -> None:
    """Fail because a record would grow."""
    raise StoreFull


def garble() -> None:
    """Find bytes that are no record."""
    raise RecordUnreadable


A_MOMENT, FOR_GOOD = 1, 100  # how many updates fail
AT_ONCE, AFTER_SEAL_TIMEOUT = True, False  # when the source takes writes again

# The step, what happens at it, for how many updates; the error; when the source takes writes; whether items have moved.
FAILURES = [
    (ANNOUNCE, "before", refuse, A_MOMENT, StoreError, AT_ONCE, False),
    (ANNOUNCE, "before", refuse, FOR_GOOD, StoreError, AT_ONCE, False),
    (ANNOUNCE, "before", fill, A_MOMENT, StoreFull, AT_ONCE, False),
    (ANNOUNCE, "before", garble, A_MOMENT, RecordUnreadable, AT_ONCE, False),
    (ANNOUNCE, "before", lose, A_MOMENT, StoreError, AT_ONCE, False),
    (ANNOUNCE, "before", lose, FOR_GOOD, StoreError, AT_ONCE, False),
    (ANNOUNCE, "after", lose, A_MOMENT, StoreError, AT_ONCE, False),
    (ANNOUNCE, "after", lose, FOR_GOOD, StoreError, AT_ONCE, False),
    (SEAL, "before", refuse, A_MOMENT, StoreError, AT_ONCE, False),
    (SEAL, "before", refuse, FOR_GOOD, StoreError, AT_ONCE, False),
    (SEAL, "before", fill, A_MOMENT, StoreFull, AT_ONCE, False),
    (SEAL, "before", garble, A_MOMENT, RecordUnreadable, AT_ONCE, False),
    (SEAL, "before", lose, A_MOMENT, StoreError, AT_ONCE, False),
    (SEAL, "before", lose, FOR_GOOD, OutcomeUnknown, AT_ONCE, False),
    (SEAL, "after", lose, A_MOMENT, StoreError, AT_ONCE, False),
    (SEAL, "after", lose, FOR_GOOD, OutcomeUnknown, AFTER_SEAL_TIMEOUT, False),
    (MOVE, "before", refuse, A_MOMENT, StoreError, AT_ONCE, False),
    (MOVE, "before", refuse, FOR_GOOD, OutcomeUnknown, AFTER_SEAL_TIMEOUT, False),
    (MOVE, "before", fill, A_MOMENT, StoreFull, AT_ONCE, False),
    (MOVE, "before", garble, A_MOMENT, RecordUnreadable, AT_ONCE, False),
    (MOVE, "before", lose, A_MOMENT, StoreError, AT_ONCE, False),
    (MOVE, "before", lose, FOR_GOOD, OutcomeUnknown, AFTER_SEAL_TIMEOUT, False),
    (MOVE, "after", lose, A_MOMENT, OutcomeUnknown, AT_ONCE, True),
    (MOVE, "after", lose, FOR_GOOD, OutcomeUnknown, AFTER_SEAL_TIMEOUT, True),
    (REMOVE, "before", refuse, A_MOMENT, OutcomeUnknown, AFTER_SEAL_TIMEOUT, True),
    (REMOVE, "before", garble, A_MOMENT, OutcomeUnknown, AFTER_SEAL_TIMEOUT, True),
    (REMOVE, "before", lose, FOR_GOOD, OutcomeUnknown, AFTER_SEAL_TIMEOUT, True),
    (REMOVE, "after", lose, A_MOMENT, OutcomeUnknown, AT_ONCE, True),
]


@pytest.mark.parametrize("retried", [False, True])
@pytest.mark.parametrize(("step", "when", "fail", "times", "error", "at_once", "moved"), FAILURES)
def test_store_fails_at_a_step(
    scenario: MergeScenario,
    *,
    step: int,
    when: str,
    fail: Callable[[], None],
    times: int,
    error: type[Exception],
    at_once: bool,
    moved: bool,
    retried: bool,
) -> None:
    """An answer that says "Nothing was changed" is true: nothing has moved, and the source takes writes at once.

    Afterwards a retry completes the merge; without one the items are in one of the carts.
    """
    scenario.store.plan(**{when: dict.fromkeys(range(step, step + times), fail)})
    assert error_of(lambda: scenario.merge(conditions=KEY)) is error
    scenario.store.plan()
    assert (error is OutcomeUnknown) or (at_once and not moved)
    if retried:
        assert scenario.merge(conditions=KEY).status == 200
        assert scenario.both() == (None, {"a": 5, "b": 1})
        assert scenario.sealed() == set()
        return
    assert error_of(lambda: scenario.put(SOURCE, z=1)) is (None if at_once else CartSealed)
    if not at_once:
        scenario.wait(5 * SECOND + 1)
        scenario.put(SOURCE, z=1)
    assert scenario.both() == (({"z": 1}, {"a": 5, "b": 1}) if moved else ({"a": 3, "z": 1}, {"a": 2, "b": 1}))


@pytest.mark.parametrize("fail", [refuse, lose, garble])
def test_store_error_does_not_hide_a_rejection(scenario: MergeScenario, fail: Callable[[], None]) -> None:
    """The source stays sealed, and the next write that may do so opens it."""
    scenario.put(TARGET, a=6)
    scenario.store.plan(before={REMOVE: fail})
    with pytest.raises(LimitExceeded):
        scenario.merge()
    with pytest.raises(CartSealed):
        scenario.put(SOURCE, z=1)
    scenario.wait(5 * SECOND + 1)
    scenario.put(SOURCE, z=1)
    assert scenario.both() == ({"a": 3, "z": 1}, {"a": 8, "b": 1})


def test_store_error_does_not_hide_a_replay(scenario: MergeScenario) -> None:
    """The request was accepted on another server in the meantime, and nothing has moved under this seal."""
    scenario.store.plan(
        before={MOVE: lambda: scenario.others.merge(TARGET, "absent", "sum", conditions=KEY), REMOVE: refuse}
    )
    assert scenario.merge(conditions=KEY).replayed is True
    scenario.resolve_seals()
    assert scenario.both() == ({"a": 3}, {"a": 2, "b": 1})


@pytest.mark.parametrize("fail", [refuse, lose, garble])
@pytest.mark.parametrize("source", ["sealed", "removed"])
def test_mark_that_cannot_be_taken_back(scenario: MergeScenario, fail: Callable[[], None], source: str) -> None:
    """The source was sealed or removed after step 1: the answer is the same, for the mark does nothing."""

    def come_between() -> None:
        if source == "sealed":
            scenario.crash_merge("after", SEAL, target="elsewhere")
        else:
            scenario.others.remove(SOURCE, conditions=NONE)

    scenario.store.plan(before={SEAL: come_between, SEAL + 1: fail})
    assert error_of(scenario.merge) is (CartSealed if source == "sealed" else None)
    assert scenario.marks() == [(SOURCE, False)]
    scenario.resolve_seals()
    assert scenario.merge().status == 200
    assert scenario.both() == (None, {"a": 5, "b": 1} if source == "sealed" else {"a": 2, "b": 1})


def test_store_error_after_an_abort_is_answered(scenario: MergeScenario) -> None:
    """The merge was aborted by a server that died before it opened the source: nothing has moved, 503."""

    def abort() -> None:
        scenario.wait(6 * SECOND)
        scenario.others._merger._withdraw(TARGET, scenario.record(SOURCE).seal.merge_id)  # noqa: SLF001

    scenario.store.plan(before={MOVE: abort, REMOVE: refuse})
    assert error_of(scenario.merge) is StoreError
    scenario.resolve_seals()
    assert scenario.both() == ({"a": 3}, {"a": 2, "b": 1})


@pytest.mark.parametrize("crashed", [("before", SEAL), ("after", SEAL), ("after", MOVE)])
@pytest.mark.parametrize("target", ["live", "absent"])
def test_cart_on_a_full_store_can_be_removed(scenario: MergeScenario, crashed: tuple[str, int], target: str) -> None:
    """Also when it bears an old seal: resolving a merge needs no room."""
    if target == "absent":
        scenario.others.remove(TARGET, conditions=NONE)
    scenario.crash_merge(*crashed)
    scenario.inner.leave_no_room()
    scenario.wait(6 * SECOND)
    if crashed == ("after", MOVE):
        with pytest.raises(CartNotFound):
            scenario.others.remove(SOURCE, conditions=NONE)
    else:
        scenario.others.remove(SOURCE, conditions=NONE)
    assert (scenario.quantities(SOURCE), scenario.sealed()) == (None, set())


@pytest.mark.parametrize("target", ["live", "absent"])
def test_merge_on_a_full_store_changes_neither_cart(scenario: MergeScenario, target: str) -> None:
    """The merged cart has no room: both carts are as they were, nothing is left, and the source takes writes."""
    scenario.put(SOURCE, c=1)
    if target == "absent":
        scenario.others.remove(TARGET, conditions=NONE)
    before, records = scenario.carts(), dict(scenario.inner.scan()).keys()
    scenario.inner.leave_no_room()
    for _ in range(3):
        with pytest.raises(StoreFull):
            scenario.merge(conditions=KEY)
        assert (scenario.carts(), scenario.sealed(), scenario.marks()) == (before, set(), [])
        assert dict(scenario.inner.scan()).keys() == records
    scenario.inner.make_room()
    assert scenario.merge(conditions=KEY).replayed is False
    assert scenario.quantities(SOURCE) is None


# ---- many at once ----


class Race:
    """Threads that merge carts into each other and add to them, on a clock that runs ``pace`` times as fast as ours."""

    USERS = ("A", "B", "C")

    def __init__(self, *, pace: int) -> None:
        self.started = time.monotonic()
        self.pace = pace
        self.store = MemoryStore(clock=self.clock, limit=2**30)
        policy = Policy(limits=Limits(max_quantity=10**6))
        self.service = make_service(self.store, self.clock, policy=policy)
        self.refusals: set[type[Exception]] = set()

    def clock(self) -> int:
        """Return milliseconds since the epoch."""
        return 1_767_323_045_678 + int((time.monotonic() - self.started) * self.pace * 1000)

    def until_accepted(self, call: Callable[[], object]) -> None:
        """Repeat the call while other merges are in its way; it is to succeed within a minute."""
        for _ in iter(lambda: time.monotonic() - self.started < 60, False):  # noqa: FBT003 - iter's own
            try:
                call()
            except (CartSealed, MergeAborted, TooManyMerges) as error:
                self.refusals.add(type(error))
                continue
            return
        pytest.fail("not accepted within a minute")

    def work(self, number: int) -> None:
        """Add to a cart, and merge another one into it, by turns."""
        for turn in range(60):
            user = self.USERS[(number + turn) % 3]
            other = self.USERS[(number + turn + 1 + number % 2) % 3]
            lines = [NewItem("shared", 2), NewItem(f"own-{number}", 1)]
            add, merge = (WriteConditions(f"{what}-{number}-{turn}".encode(), b"request") for what in ("add", "merge"))
            self.until_accepted(partial(self.service.add, user, lines, conditions=add))
            self.until_accepted(partial(self.service.merge, user, other, "sum", conditions=merge))

    def found(self) -> dict[str, int]:
        """Return how many there are of each item in all carts together."""
        found: Counter[str] = Counter()
        for user in self.USERS:
            cart = self.service.get(user)
            found.update({item.item_id: item.quantity for item in cart.items} if cart else {})
        return dict(found)


@pytest.mark.parametrize("pace", [1, 1000])
def test_racing_merges_conserve_every_item(pace: int) -> None:
    """A into B, B into A, both into C and back, and adds to all: every item is there once, and no cart stays sealed.

    A request that another merge is in the way of is repeated with the same key. On the fast clock seals grow old and
    marks make room all the time; others may fill that room, 64 marks, before a merge that has made it.
    """
    race = Race(pace=pace)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            racing(12, race.work)
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            raised.append(error)

    runner = threading.Thread(target=run, daemon=True)
    runner.start()
    runner.join(90)
    assert not runner.is_alive(), "a deadlock"
    if raised:
        raise raised[0]
    assert race.refusals, "nothing raced"
    assert race.found() == {"shared": 12 * 60 * 2, **{f"own-{number}": 60 for number in range(12)}}
    assert [user for user, record in race.store.scan() if record.seal is not None] == []
