"""Tests of the marks that merges leave in their target: how many, for how long, and what makes room for others."""

from __future__ import annotations

import pytest

from cartsvc.errors import OutcomeUnknown, RecordUnreadable, StoreError, TooManyMerges
from tests.support.faults import Crash, crash
from tests.support.merge_scenario import (
    ANNOUNCE,
    DAY,
    HOUR,
    KEY,
    MINUTE,
    MOVE,
    NONE,
    OTHER,
    SEAL,
    SECOND,
    SOURCE,
    TARGET,
    MergeScenario,
    error_of,
)

GUESTS = [f"guest-{number}" for number in range(64)]


def merge_guests(scenario: MergeScenario, number: int) -> None:
    """Merge so many guests' carts into the target."""
    for guest in GUESTS[:number]:
        scenario.put(guest, g=1)
        scenario.others.merge(TARGET, guest, "max", conditions=NONE)


def crash_guests(scenario: MergeScenario, step: int) -> None:
    """Let 64 merges of guests' carts, each of one item, crash after this step."""
    for number, guest in enumerate(GUESTS):
        scenario.put(guest, **{str(number % 5): 1})
        scenario.crash_merge("after", step, source=guest, strategy="max")


# ---- replays that find a mark ----


@pytest.mark.parametrize("later", [0, 61 * SECOND, 23 * HOUR])
def test_replay_does_the_last_step(scenario: MergeScenario, later: int) -> None:
    """The answer of a merge was lost with its step 4: the retry is a replay, and the source is gone."""
    scenario.crash_merge("after", MOVE, conditions=KEY)
    scenario.wait(later)
    assert scenario.merge(conditions=KEY).replayed is True
    assert (*scenario.both(), scenario.sealed()) == (None, {"a": 5, "b": 1}, set())


def test_replay_finishes_a_later_merge_of_the_source(scenario: MergeScenario) -> None:
    """The mark of the seal decides, not the key: a new cart that a later merge has moved is removed too."""
    scenario.merge(conditions=KEY)
    scenario.put(SOURCE, n=4)
    scenario.crash_merge("after", MOVE)
    assert scenario.merge(conditions=KEY).replayed is True
    assert scenario.both() == (None, {"a": 5, "b": 1, "n": 4})


@pytest.mark.parametrize("target", [TARGET, OTHER])
def test_replay_leaves_what_has_not_moved(scenario: MergeScenario, target: str) -> None:
    """A new cart of the source that a later merge, here or elsewhere, has only sealed stays as it is."""
    scenario.merge(conditions=KEY)
    scenario.put(SOURCE, n=4)
    scenario.crash_merge("after", SEAL, target=target)
    before = scenario.record(SOURCE)
    assert scenario.merge(conditions=KEY).replayed is True
    assert (scenario.record(SOURCE), scenario.quantities(TARGET)) == (before, {"a": 5, "b": 1})
    scenario.resolve_seals()
    assert scenario.quantities(SOURCE) == {"n": 4}


# ---- 64 marks ----


def test_done_marks_make_room_at_once(scenario: MergeScenario) -> None:
    """Their sources are finished, so no seal names them any more."""
    merge_guests(scenario, 64)
    assert len(scenario.marks()) == 64
    assert scenario.merge().status == 200
    assert scenario.marks() == [(SOURCE, True)]


def test_making_room_finishes_the_sources(scenario: MergeScenario) -> None:
    """Step 4 of 64 merges is missing: it is done before their marks are removed, so no item comes twice."""
    crash_guests(scenario, MOVE)
    assert scenario.sealed() == set(GUESTS)
    assert scenario.merge().status == 200
    assert scenario.marks() == [(SOURCE, True)]
    assert (scenario.sealed(), [scenario.quantities(guest) for guest in GUESTS]) == (set(), [None] * 64)
    before = scenario.quantities(TARGET)
    for guest in GUESTS:
        scenario.others.merge(TARGET, guest, "sum", conditions=NONE)
    assert scenario.quantities(TARGET) == before


@pytest.mark.parametrize("step", [ANNOUNCE, SEAL])
def test_64_pending_marks_leave_no_room(scenario: MergeScenario, step: int) -> None:
    """429, and nothing is written: their merges may still be at work. After a minute they are removed."""
    scenario = MergeScenario()
    scenario.put(SOURCE, a=3)
    crash_guests(scenario, step)
    for pause in (0, MINUTE - 1):
        scenario.wait(pause)
        source, target = scenario.record(SOURCE), scenario.record(TARGET)
        with pytest.raises(TooManyMerges):
            scenario.merge(conditions=KEY)
        assert (scenario.record(SOURCE), scenario.record(TARGET)) == (source, target)
        assert len(target.merge_marks) == 64
    scenario.wait(1)
    assert scenario.merge(conditions=KEY).status == 200
    assert scenario.marks() == [(SOURCE, True)]
    scenario.resolve_seals()
    assert [sum((scenario.quantities(guest) or {}).values()) for guest in GUESTS] == [1] * 64
    assert scenario.both() == (None, {"a": 3})


def test_merge_whose_mark_was_removed_starts_again(scenario: MergeScenario) -> None:
    """It stood still for a minute between its steps, and 64 other merges needed the room."""

    def make_room() -> None:
        scenario.wait(MINUTE)
        for number in range(64):
            scenario.put(f"guest-{number}", g=1)
            scenario.others.merge(TARGET, f"guest-{number}", "max", conditions=NONE)
        assert (SOURCE, False) not in scenario.marks()

    scenario.store.plan(before={MOVE: make_room})
    assert scenario.merge().status == 200
    assert scenario.both() == (None, {"a": 5, "b": 1, "g": 1})
    assert (scenario.sealed(), scenario.marks()[-1]) == (set(), (SOURCE, True))


def test_mark_that_is_done_by_now_is_not_removed() -> None:
    """An old pending mark becomes done while room is made: its source is still sealed, so the mark has to stay."""
    scenario = MergeScenario()
    scenario.put(SOURCE, a=3)
    crash_guests(scenario, SEAL)
    scenario.wait(MINUTE)

    def retry() -> None:
        """Move the first guest's item by a clock that is behind, and crash before step 4."""
        scenario.wait(-1)
        scenario.crash_merge("after", 1, source=GUESTS[0], strategy="max")
        scenario.wait(1)

    scenario.store.plan(before={2: retry})
    assert scenario.merge().status == 200
    assert scenario.marks() == [(GUESTS[0], True), (SOURCE, True)]
    scenario.resolve_seals()
    assert scenario.quantities(GUESTS[0]) is None
    assert scenario.both() == (None, {"0": 1, "a": 3})


def test_unreadable_source_does_not_stop_others(scenario: MergeScenario) -> None:
    """The source of a done mark cannot be read, so that mark stays; the other marks make room."""

    def garble() -> None:
        raise RecordUnreadable

    merge_guests(scenario, 64)
    scenario.store.plan(before={2: garble})  # the second update is that of the first guest
    assert scenario.merge().status == 200
    assert scenario.marks() == [(GUESTS[0], True), (SOURCE, True)]


@pytest.mark.parametrize("number", [2, 30, 65, 66])
@pytest.mark.parametrize("error", [StoreError, OutcomeUnknown])
def test_store_error_while_room_is_made(scenario: MergeScenario, number: int, error: type[StoreError]) -> None:
    """Nothing was changed by this request, and that is the answer; a retry is accepted."""

    def fail() -> None:
        raise error

    crash_guests(scenario, MOVE)
    before = scenario.carts()
    scenario.store.plan(before={number: fail})
    assert error_of(lambda: scenario.merge(conditions=KEY)) is StoreError
    assert (scenario.carts(), SOURCE in scenario.sealed()) == (before, False)
    scenario.store.plan()
    assert scenario.merge(conditions=KEY).status == 200
    assert scenario.marks() == [(SOURCE, True)]


def test_retry_of_the_64th_merge_needs_no_room(scenario: MergeScenario) -> None:
    """It has its mark already."""
    merge_guests(scenario, 63)
    scenario.crash_merge("after", SEAL)
    assert len(scenario.marks()) == 64
    assert scenario.merge().status == 200
    assert (scenario.quantities(SOURCE), scenario.sealed(), len(scenario.marks())) == (None, set(), 64)


def test_merge_without_a_source_needs_no_room(scenario: MergeScenario) -> None:
    """It leaves no mark."""
    crash_guests(scenario, ANNOUNCE)
    assert scenario.others.merge(TARGET, "absent", "sum", conditions=KEY).status == 200


# ---- how long marks are kept ----


def test_done_mark_outlives_its_source_by_a_day() -> None:
    """Until then a server whose clock is behind may still see the sealed source, and finds the mark by its id."""
    scenario, source = MergeScenario(), "guest-s"
    scenario.put(source, a=3)
    scenario.put(TARGET, a=2)
    scenario.crash_merge("after", MOVE, source=source)
    for pause, marks in ((HOUR, [(source, True)]), (DAY - 1, [(source, True)]), (1, [])):
        scenario.wait(pause)
        scenario.put(TARGET, b=1)
        assert scenario.marks() == marks
    assert scenario.quantities(source) is None


@pytest.mark.parametrize("crashed", [ANNOUNCE, SEAL])
def test_pending_mark_is_dropped_after_a_day(scenario: MergeScenario, crashed: int) -> None:
    """At the latest: no merge needed its room, and the next write drops it."""
    scenario.crash_merge("after", crashed)
    for pause, marks in ((0, [(SOURCE, False)]), (DAY - 1, [(SOURCE, False)]), (1, [])):
        scenario.wait(pause)
        scenario.put(TARGET, b=1)
        assert scenario.marks() == marks
    scenario.resolve_seals()
    assert scenario.both() == ({"a": 3}, {"a": 2, "b": 4})


@pytest.mark.parametrize("resolved", [False, True])
def test_aborted_merge_into_an_absent_cart(scenario: MergeScenario, *, resolved: bool) -> None:
    """Resolving it leaves no record; without that the record is there for a day."""
    scenario.crash_merge("after", SEAL, target="absent")
    if resolved:
        scenario.resolve_seals()
    else:
        scenario.wait(DAY - 1)
        assert scenario.marks("absent") == [(SOURCE, False)]
        scenario.wait(1)
    assert scenario.quantities("absent") is None
    assert scenario.inner.get("absent") is None


@pytest.mark.parametrize("step", [ANNOUNCE, SEAL, MOVE])
def test_target_removed_between_steps_keeps_its_mark(scenario: MergeScenario, step: int) -> None:
    """Removing the cart does not abort the merge: the tombstone bears the mark."""
    scenario.crash_merge("after", step)
    before = scenario.record(TARGET).merge_marks
    scenario.others.remove(TARGET, conditions=NONE)
    assert scenario.record(TARGET).merge_marks == before


def test_crash_while_room_is_made(scenario: MergeScenario) -> None:
    """Whatever was finished stays finished, and the next merge does the rest."""
    crash_guests(scenario, MOVE)
    held = scenario.quantities(TARGET)
    scenario.store.plan(before={30: crash})
    with pytest.raises(Crash):
        scenario.merge()
    assert (len(scenario.marks()), len(scenario.sealed())) == (64, 64 - 28)
    scenario.store.plan()
    scenario.merge()
    assert (scenario.marks(), scenario.sealed()) == ([(SOURCE, True)], set())
    assert scenario.quantities(TARGET) == {**(held or {}), "a": 5}
