"""Proves the merge at every boundary: whatever dies, pauses or gets in between, each item is there exactly once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest
from clock import FakeClock
from faults import Crash, FaultyStore, crash
from services import FakeSeconds, make_service, racing

from cartsvc.cart import STRATEGIES, Cart, ItemChange, Limits, Line
from cartsvc.errors import (
    CartNotFound,
    CartSealed,
    CartsvcError,
    CurrencyMismatch,
    InvalidRequest,
    KeyReused,
    LimitExceeded,
    MergeAborted,
    OutcomeUnknown,
    PreconditionFailed,
    StoreError,
    StoreFull,
    TooManyMerges,
)
from cartsvc.record import Policy, Record
from cartsvc.stores.memory import MemoryStore
from cartsvc.terms import ANY, Outcome, Terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.cart import Strategy

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000  # milliseconds
NONE = Terms()
KEY = Terms(b"k" * 16, b"r" * 16)
POLICY = Policy(limits=Limits(max_quantity=10, max_items=8), guest_ttl=HOUR)

# The merge under test moves S into T. Its three updates of a record: seal S, add to T, remove S.
S, T, ELSEWHERE = "sue", "tom", "eve"
SEAL, ADD, REMOVE = 1, 2, 3
BOUNDARIES = [("before", SEAL), ("after", SEAL), ("before", ADD), ("after", ADD), ("before", REMOVE), ("after", REMOVE)]
each_boundary = pytest.mark.parametrize(("when", "step"), BOUNDARIES)

Held = dict[str, int] | None


class World:
    """One store, a clock on the wall and a monotonic one, the process under test, and as many others as one wants."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.clock = FakeClock()
        self.seconds = FakeSeconds()
        self.inner = MemoryStore(clock=self.clock, limit=2**30)
        self.store = FaultyStore(self.inner)
        self.service = make_service(self.store, self.clock, policy=policy, monotonic=self.seconds)
        self.others = make_service(self.inner, self.clock, policy=policy, monotonic=self.seconds)

    def wait(self, milliseconds: int) -> None:
        """Time passes on all clocks."""
        self.clock.advance(milliseconds)
        self.seconds.advance(milliseconds / 1000)

    def put(self, user: str, *, terms: Terms = NONE, **items: int) -> Cart:
        """Somebody adds so many of each."""
        lines = [Line(product, quantity) for product, quantity in items.items()]
        cart = self.others.add(user, lines, terms=terms).cart
        assert cart is not None
        return cart

    def merge(self, strategy: Strategy = "sum", *, terms: Terms = NONE) -> Outcome:
        """The merge under test."""
        return self.service.merge(T, S, strategy, terms=terms)

    def dies(self, when: str, step: int, *, source: str = S, target: str = T, terms: Terms = NONE) -> None:
        """Another process merges by sum, and dies there."""
        store = FaultyStore(self.inner)
        store.plan(**{when: {step: crash}})
        service = make_service(store, self.clock, policy=self.policy, monotonic=self.seconds)
        with pytest.raises(Crash):
            service.merge(target, source, "sum", terms=terms)

    def held(self, user: str) -> Held:
        """What the user reads: the quantity of each item; None when there is no cart."""
        cart = self.others.get(user)
        return None if cart is None else {item.item_id: item.quantity for item in cart.items}

    def totals(self) -> tuple[int, int, int]:
        """How many items S, T and the third cart have."""
        each = [sum((self.held(user) or {}).values()) for user in (S, T, ELSEWHERE)]
        return each[0], each[1], each[2]

    def record(self, user: str) -> Record:
        """What the store keeps."""
        record = self.inner.get(user)
        assert record is not None
        return record

    def sealed(self) -> set[str]:
        """Who bears a seal."""
        return {user for user, record in self.inner.scan() if record.seal is not None}

    def settle(self) -> None:
        """Six seconds later somebody writes to each cart; this changes none of them."""
        self.wait(6 * SECOND)
        for user in sorted(self.sealed()):
            self.others.merge(user, "nobody", "sum", terms=NONE)
        assert self.sealed() == set()

    def snapshot(self) -> list[Cart | None]:
        """The carts of the merge, with their ETags and times."""
        return [self.others.get(S), self.others.get(T)]


@pytest.fixture
def world() -> World:
    """S has three items, T three others."""
    world = World()
    world.put(S, a=3)
    world.put(T, a=2, b=1)
    return world


def refusal(call: Callable[[], object]) -> type[Exception] | None:
    """What this is refused with, if it is."""
    try:
        call()
    except CartsvcError as error:
        return type(error)
    return None


# ---- a merge that nothing disturbs ----


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("sum", {"a": 5, "b": 1, "c": 4}),
        ("max", {"a": 3, "b": 1, "c": 4}),
        ("keep", {"a": 2, "b": 1, "c": 4}),
        ("replace", {"a": 3, "c": 4}),
    ],
)
def test_a_merge_moves_the_items_and_consumes_the_source(world: World, strategy: Strategy, expected: Held) -> None:
    """The answer is the target as it is read; the source is gone, without a trace when it had no keys or marks."""
    world.put(S, c=4)
    before = world.others.get(T)
    assert before is not None
    outcome = world.merge(strategy)
    assert outcome == Outcome(world.others.get(T), 200)
    assert (world.held(S), world.held(T)) == (None, expected)
    assert outcome.cart is not None
    assert (outcome.cart.version, outcome.cart.etag != before.etag) == (before.version + 1, True)
    assert world.inner.get(S) is None
    assert [(mark.source, mark.done) for mark in world.record(T).marks] == [(S, True)]
    assert world.store.updates == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("target", ["live", "absent"])
@pytest.mark.parametrize("source", ["never made", "removed", "expired", "merged away"])
def test_an_absent_source_changes_nothing(strategy: Strategy, target: str, source: str) -> None:
    """Whatever the strategy: the target is the very same afterwards, or still absent; the key is remembered."""
    world = World()
    if target == "live":
        world.put(T, a=2)
    if source != "never made":
        world.put("guest-s", a=3, terms=KEY)
    if source == "removed":
        world.others.remove("guest-s", terms=NONE)
    if source == "expired":
        world.wait(HOUR)
    if source == "merged away":
        world.others.merge(ELSEWHERE, "guest-s", "sum", terms=NONE)
    cart, stored = world.others.get(T), world.inner.get(T)
    assert world.service.merge(T, "guest-s", strategy, terms=NONE) == Outcome(cart, 200)
    assert world.inner.get(T) == stored
    assert world.service.merge(T, "guest-s", strategy, terms=KEY) == Outcome(cart, 200)
    assert world.service.merge(T, "guest-s", strategy, terms=KEY) == Outcome(cart, 200, replayed=True)
    assert world.others.get(T) == cart
    assert world.record(T).marks == ()
    world.put("guest-s", z=1)
    assert world.service.merge(T, "guest-s", strategy, terms=KEY).replayed is True
    assert world.held("guest-s") == {"z": 1}


@pytest.mark.parametrize("terms", [NONE, KEY])
def test_a_cart_into_itself_is_wrong(world: World, terms: Terms) -> None:
    """Nothing is sealed and nothing remembered, not even for a cart that is not there."""
    for user in (S, "absent"):
        before = world.inner.get(user)
        with pytest.raises(InvalidRequest) as error:
            world.service.merge(user, user, "sum", terms=terms)
        assert [fault.pointer for fault in error.value.faults] == ["/from_user_id"]
        assert world.inner.get(user) == before


@pytest.mark.parametrize("source", ["", ".", "..", "a b", "x" * 256, "a/b", "\ud800"])
def test_a_source_has_a_user_id(world: World, source: str) -> None:
    """The fault is at its place in the body."""
    with pytest.raises(InvalidRequest) as error:
        world.service.merge(T, source, "sum", terms=KEY)
    assert [fault.pointer for fault in error.value.faults] == ["/from_user_id"]
    assert world.store.updates == 0


def test_sealing_is_no_change_of_the_cart(world: World) -> None:
    """The sealed cart reads as it did: ETag, version, times; reading it settles nothing, however old the seal."""
    before = world.others.get(S)
    world.dies("after", SEAL)
    record = world.record(S)
    for _ in range(3):
        assert world.others.get(S) == before
        assert world.others.get_item(S, "a")[0] == before
        world.wait(MINUTE)
    assert world.record(S) == record


# ---- refusals ----


class Refusal(NamedTuple):
    """A merge that is refused: how to bring it about, and what is said."""

    error: type[CartsvcError]
    prepare: Callable[[World], object]
    terms: Terms = NONE


REFUSALS = {
    "limit": Refusal(LimitExceeded, lambda world: world.put(T, a=6)),
    "currency": Refusal(
        CurrencyMismatch,
        lambda world: [
            world.others.add(user, [Line(user, 1, {}, 5, money)], terms=NONE)
            for user, money in ((S, "EUR"), (T, "USD"))
        ],
    ),
    "precondition": Refusal(PreconditionFailed, lambda _: None, Terms(if_match=frozenset(["x"]))),
    "creates only": Refusal(PreconditionFailed, lambda _: None, Terms(if_none_match=ANY)),
    "sealed target": Refusal(CartSealed, lambda world: world.dies("after", SEAL, source=T, target=ELSEWHERE)),
}
each_refusal = pytest.mark.parametrize("refused", REFUSALS.values(), ids=list(REFUSALS))


@each_refusal
def test_a_refused_merge_changes_neither_cart(world: World, refused: Refusal) -> None:
    """Both are the very same, no key is remembered, and the source can be used at once."""
    refused.prepare(world)
    before, sealed = world.snapshot(), world.sealed()
    terms = Terms(b"key", b"request", refused.terms.if_match, refused.terms.if_none_match)
    with pytest.raises(refused.error):
        world.merge(terms=terms)
    assert world.snapshot() == before
    assert world.sealed() == sealed
    assert world.record(T).keys == ()
    assert [mark.done for mark in world.record(T).marks] == [False]
    assert world.put(S, c=1).items[-1].item_id == "c"


@each_refusal
@each_boundary
def test_a_refused_merge_that_died_is_refused_when_repeated(
    world: World, refused: Refusal, when: str, step: int
) -> None:
    """Neither cart changes; one repetition may hear that the first was called off; the next one hears why."""
    refused.prepare(world)
    before = world.snapshot()
    world.store.plan(**{when: {step: crash}})
    with pytest.raises(Crash):
        world.merge(terms=refused.terms)
    world.store.plan()
    told = [refusal(lambda: world.merge(terms=refused.terms)) for _ in range(3)]
    called_off = (when, step) in {("after", ADD), ("before", REMOVE)}
    assert told == [MergeAborted if called_off else refused.error, refused.error, refused.error]
    assert world.snapshot() == before
    world.settle()
    assert world.snapshot() == before
    world.put(S, c=1)


@each_refusal
@each_boundary
def test_a_refused_merge_that_died_locks_nobody_out(world: World, refused: Refusal, when: str, step: int) -> None:
    """Nobody repeats it; six seconds later both carts take writes, and have all their items."""
    refused.prepare(world)
    (source, target) = world.snapshot()
    assert source is not None
    assert target is not None
    world.store.plan(**{when: {step: crash}})
    with pytest.raises(Crash):
        world.merge(terms=refused.terms)
    world.wait(6 * SECOND)
    assert world.put(S, c=1).items[:-1] == source.items
    assert world.put(T, c=1).items[:-1] == target.items
    assert world.sealed() == set()


@pytest.mark.parametrize(("when", "step"), [each for each in BOUNDARIES if each >= ("before", ADD) and each[1] != SEAL])
def test_a_key_that_comes_in_between_is_found_in_step_2(world: World, when: str, step: int) -> None:
    """Another request with the same key is accepted meanwhile: the merge is refused, and dies; nothing is locked."""
    another = Terms(KEY.key, b"another")

    def come_between() -> None:
        world.put(T, c=1, terms=another)
        if (when, step) == ("before", ADD):
            crash()

    events: dict[str, dict[int, Callable[[], None]]] = {"before": {ADD: come_between}, "after": {}}
    if (when, step) != ("before", ADD):
        events[when][step] = crash
    world.store.plan(**events)
    with pytest.raises(Crash):
        world.merge(terms=KEY)
    world.store.plan()
    with pytest.raises(KeyReused):
        world.merge(terms=KEY)
    world.settle()
    assert (world.held(S), world.held(T)) == ({"a": 3}, {"a": 2, "b": 1, "c": 1})


def test_a_key_that_comes_in_between_is_told(world: World) -> None:
    """Nothing has changed, and the source is free at once."""
    world.store.plan(before={ADD: lambda: world.put(T, c=1, terms=Terms(KEY.key, b"another"))})
    with pytest.raises(KeyReused):
        world.merge(terms=KEY)
    assert world.sealed() == set()
    assert (world.held(S), world.held(T)) == ({"a": 3}, {"a": 2, "b": 1, "c": 1})


# ---- death at every boundary ----


@each_boundary
@pytest.mark.parametrize("pause", [0, 5 * SECOND, 6 * SECOND, 61 * SECOND, 2 * HOUR])
@pytest.mark.parametrize("terms", [NONE, KEY], ids=["no key", "key"])
def test_repeating_a_merge_that_died_completes_it(
    world: World, when: str, step: int, *, pause: int, terms: Terms
) -> None:
    """However late: the items have moved once, the source is gone, and what is repeated again changes nothing."""
    world.store.plan(**{when: {step: crash}})
    with pytest.raises(Crash):
        world.merge(terms=terms)
    world.store.plan()
    world.wait(pause)
    outcome = world.merge(terms=terms)
    assert (world.held(S), world.held(T)) == (None, {"a": 5, "b": 1})
    added = (when, step) in {("after", ADD), ("before", REMOVE), ("after", REMOVE)}
    assert outcome == Outcome(world.others.get(T), 200, replayed=added and terms is KEY)
    assert world.sealed() == set()
    assert world.merge(terms=terms) == Outcome(world.others.get(T), 200, replayed=terms is KEY)
    assert (world.held(S), world.held(T)) == (None, {"a": 5, "b": 1})


@each_boundary
def test_a_merge_that_dies_again_and_again_completes_in_the_end(world: World, when: str, step: int) -> None:
    """Each repetition dies one update later than the one before."""
    world.store.plan(**{when: {step: crash}})
    with pytest.raises(Crash):
        world.merge(terms=KEY)
    for later in (1, 2, 3, 4):
        world.store.plan(after={later: crash})
        try:
            world.merge(terms=KEY)
        except Crash:
            world.wait(6 * SECOND)
    assert (world.held(S), world.held(T)) == (None, {"a": 5, "b": 1})
    assert world.sealed() == set()


@pytest.mark.parametrize("key", [None, b"other key"])
def test_a_repetition_with_another_key_completes_too(world: World, key: bytes | None) -> None:
    """Its key is remembered though the mark was there already, and its replay is one."""
    world.dies("after", ADD, terms=KEY)
    terms = Terms(key, b"request")
    assert world.merge(terms=terms) == Outcome(world.others.get(T), 200)
    assert (world.held(S), world.held(T)) == (None, {"a": 5, "b": 1})
    known = [each.key for each in world.record(T).keys]
    assert known == [KEY.key] + ([key] if key else [])
    if key:
        assert world.merge(terms=terms).replayed is True


def test_a_repetition_that_reuses_a_key_still_finishes(world: World) -> None:
    """The request is refused for its key, and the next one, with its own, finds nothing broken."""
    world.put(T, c=1, terms=Terms(KEY.key, b"another"))
    world.dies("after", ADD)
    with pytest.raises(KeyReused):
        world.merge(terms=KEY)
    world.settle()
    assert (world.held(S), world.held(T)) == (None, {"a": 5, "b": 1, "c": 1})


@pytest.mark.parametrize("sealed_by", STRATEGIES)
@pytest.mark.parametrize("repeated_by", STRATEGIES)
@pytest.mark.parametrize("step", [SEAL, ADD])
def test_a_sealed_source_is_merged_as_its_seal_says(
    world: World, sealed_by: Strategy, repeated_by: Strategy, step: int
) -> None:
    """Under the id and the strategy of the seal, whatever the repetition states."""
    world.store.plan(after={step: crash})
    with pytest.raises(Crash):
        world.merge(sealed_by)
    seal = world.record(S).seal
    assert seal is not None
    world.store.plan()
    world.merge(repeated_by)
    expected = {"sum": {"a": 5, "b": 1}, "max": {"a": 3, "b": 1}, "keep": {"a": 2, "b": 1}, "replace": {"a": 3}}
    assert (world.held(S), world.held(T)) == (None, expected[sealed_by])
    assert [(mark.merge_id, mark.done) for mark in world.record(T).marks] == [(seal.merge_id, True)]


# ---- whoever meets an old seal settles it ----

# Each kind of write to S: the call; what S and the third cart have afterwards when S still had its three items, and
# when they had gone into T. An error stands for S where the write finds no cart.
WRITES: dict[str, tuple[Callable[[World], object], tuple[Held, Held], tuple[Held | type[CartsvcError], Held]]] = {
    "add": (lambda w: w.put(S, a=1), ({"a": 4}, {"d": 4}), ({"a": 1}, {"d": 4})),
    "keyed add": (lambda w: w.put(S, a=1, terms=KEY), ({"a": 4}, {"d": 4}), ({"a": 1}, {"d": 4})),
    "replace": (
        lambda w: w.others.replace(S, [Line("z", 2)], currency=None, terms=NONE),
        ({"z": 2}, {"d": 4}),
        ({"z": 2}, {"d": 4}),
    ),
    "set_item": (
        lambda w: w.others.set_item(S, "a", ItemChange(quantity=2), terms=NONE),
        ({"a": 2}, {"d": 4}),
        (CartNotFound, {"d": 4}),
    ),
    "remove_item": (lambda w: w.others.remove_item(S, "a", terms=NONE), ({}, {"d": 4}), (CartNotFound, {"d": 4})),
    "remove": (lambda w: w.others.remove(S, terms=NONE), (None, {"d": 4}), (CartNotFound, {"d": 4})),
    "merge elsewhere": (
        lambda w: w.others.merge(ELSEWHERE, S, "sum", terms=NONE),
        (None, {"d": 4, "a": 3}),
        (None, {"d": 4}),
    ),
    "merge into it": (
        lambda w: w.others.merge(S, ELSEWHERE, "sum", terms=NONE),
        ({"a": 3, "d": 4}, None),
        ({"d": 4}, None),
    ),
    "merge of an absent cart into it": (
        lambda w: w.others.merge(S, "nobody", "sum", terms=NONE),
        ({"a": 3}, {"d": 4}),
        (None, {"d": 4}),
    ),
}


@pytest.mark.parametrize("target", ["live", "absent", "removed", "expired", "sealed"])
@pytest.mark.parametrize("died", [("after", SEAL), ("before", ADD), ("after", ADD), ("before", REMOVE)])
@pytest.mark.parametrize("write", WRITES)
def test_whoever_writes_to_the_source_settles_it(target: str, died: tuple[str, int], write: str) -> None:
    """Whatever became of the target: called off when the items had not moved, finished when they had."""
    world, into = World(), "guest-t"  # a guest's cart expires first
    world.put(S, a=3)
    world.put(ELSEWHERE, d=4)
    if target != "absent":
        world.put(into, a=2, b=1)
    world.dies(*died, target=into)
    seal = world.record(S).seal
    assert seal is not None
    moved = died in {("after", ADD), ("before", REMOVE)}
    if target == "removed":
        world.others.remove(into, terms=NONE)
    world.wait(HOUR if target == "expired" else 6 * SECOND)
    if target == "sealed":
        world.dies("after", SEAL, source=into, target="dan")

    call, kept, gone = WRITES[write]
    expected, third = gone if moved else kept
    if isinstance(expected, type):
        with pytest.raises(expected):
            call(world)
        expected = None
    else:
        call(world)

    assert (world.held(S), world.held(ELSEWHERE)) == (expected, third)
    own = {"live": {"a": 2, "b": 1}, "sealed": {"a": 2, "b": 1}}.get(target)
    with_s = {"live": {"a": 5, "b": 1}, "sealed": {"a": 5, "b": 1}, "absent": {"a": 3}}.get(target)
    assert world.held(into) == (with_s if moved else own)
    marks = {mark.merge_id: mark.done for mark in world.record(into).marks}
    assert marks[seal.merge_id] is moved
    assert world.sealed() == ({into} if target == "sealed" else set())


@pytest.mark.parametrize("died", [("after", SEAL), ("after", ADD)])
@pytest.mark.parametrize("write", [each for each in WRITES if each != "keyed add"])
def test_a_young_seal_is_left_alone(world: World, died: tuple[str, int], write: str) -> None:
    """Writes are refused while a merge may be at work; up to exactly five seconds, and nothing changes."""
    world.put(ELSEWHERE, d=4)
    world.dies(*died)
    seal, target, carts = world.record(S).seal, world.record(T), [*world.snapshot(), world.others.get(ELSEWHERE)]
    for pause in (0, 1, 4999):
        world.wait(pause)
        with pytest.raises(CartSealed):
            WRITES[write][0](world)
        assert [*world.snapshot(), world.others.get(ELSEWHERE)] == carts
        assert (world.record(S).seal, world.record(T)) == (seal, target)
    world.wait(1)
    assert refusal(lambda: WRITES[write][0](world)) is not CartSealed
    assert S not in world.sealed()


def test_a_seal_from_the_future_is_old(world: World) -> None:
    """Another machine's clock is ahead: its merge is called off, not waited for."""
    world.dies("after", SEAL)
    world.clock.advance(-1)
    world.put(S, a=1)
    assert (world.held(S), world.sealed()) == ({"a": 4}, set())
    assert world.merge().status == 200
    assert world.held(T) == {"a": 6, "b": 1}


@pytest.mark.parametrize("user", [S, T])
def test_a_seal_that_came_while_a_write_waited_for_its_turn_is_young(world: World, user: str) -> None:
    """It is later than the write began, and not from the future: a merge at work is not called off for that."""

    def seal() -> None:
        world.wait(1)
        world.dies("after", SEAL, source=user, target=ELSEWHERE)

    world.store.plan(before={1 if user == S else ADD: seal})
    with pytest.raises(CartSealed):
        world.service.add(S, [Line("a", 1)], terms=NONE) if user == S else world.merge()
    assert world.sealed() == {user}


def test_a_source_that_was_settled_can_be_merged_again(world: World) -> None:
    """Under a new id: the aborted mark of the old one does not stand in its way."""
    world.dies("after", SEAL)
    world.settle()
    world.merge()
    assert (world.held(S), world.held(T)) == (None, {"a": 5, "b": 1})
    assert [mark.done for mark in world.record(T).marks] == [False, True]


@pytest.mark.parametrize("dies", [("before", 2), ("after", 2), ("before", 3), ("after", 3)])
@pytest.mark.parametrize("died", [("after", SEAL), ("after", ADD)])
def test_settling_can_die_too(world: World, died: tuple[str, int], dies: tuple[str, int]) -> None:
    """The next one settles what is left of it."""
    world.dies(*died)
    world.wait(6 * SECOND)
    world.store.plan(**{dies[0]: {dies[1]: crash}})  # the second update asks the target, the third is step 3
    with pytest.raises(Crash):
        world.service.add(S, [Line("z", 1)], terms=NONE)
    world.put(S, z=1)
    moved = died == ("after", ADD)
    assert world.held(S) == ({"z": 1} if moved else {"a": 3, "z": 1})
    assert world.held(T) == ({"a": 5, "b": 1} if moved else {"a": 2, "b": 1})


# ---- what gets in between ----


def _fill(world: World) -> None:
    """Add to the target until one of its items is at its limit."""
    held = world.held(T) or {}
    world.put(T, a=10 - held.get("a", 0))


INTERFERENCES: dict[str, Callable[[World], object]] = {
    "source removed": lambda w: w.others.remove(S, terms=NONE),
    "source added to": lambda w: w.put(S, a=1),
    "source replaced": lambda w: w.others.replace(S, [Line("b", 2)], currency=None, terms=NONE),
    "source merged elsewhere": lambda w: w.others.merge(ELSEWHERE, S, "sum", terms=NONE),
    "source merged into": lambda w: w.others.merge(S, ELSEWHERE, "sum", terms=NONE),
    "target removed": lambda w: w.others.remove(T, terms=NONE),
    "target added to": lambda w: w.put(T, a=1),
    "target filled": _fill,
    "target merged elsewhere": lambda w: w.others.merge(ELSEWHERE, T, "sum", terms=NONE),
}

# Where the merge stands when somebody gets in between: the boundary, the time that passes before and after it.
MOMENTS: dict[str, list[tuple[str, int, int, int]]] = {
    "not begun": [("before", SEAL, 0, 0), ("before", SEAL, 11 * SECOND, 0)],
    "sealed": [
        ("after", SEAL, 0, 0),
        ("before", ADD, 5 * SECOND, 0),
        ("before", ADD, 0, 11 * SECOND),  # step 2 starts again
        ("before", ADD, 0, 61 * SECOND),
    ],
    "sealed long ago": [("after", SEAL, 6 * SECOND, 0), ("before", ADD, 6 * SECOND, 4 * SECOND)],
    "starts again": [
        ("before", ADD, 6 * SECOND, 5 * SECOND),
        ("before", ADD, 11 * SECOND, 0),
        ("before", ADD, 6 * SECOND, 61 * SECOND),  # the aborted mark is gone
    ],
    "added": [("after", ADD, 0, 0), ("before", REMOVE, 5 * SECOND, 0), ("before", REMOVE, 0, 61 * SECOND)],
    "added long ago": [("after", ADD, 6 * SECOND, 0), ("before", REMOVE, 6 * SECOND, 61 * SECOND)],
    "over": [("after", REMOVE, 0, 0), ("after", REMOVE, 61 * SECOND, 0)],
}

# S had 3, T 3 and the third cart 4. For each interference at each moment: how many they have in the end, what the merge
# is refused with, and what the interference is refused with.
End = tuple[tuple[int, int, int], type[Exception] | None, type[Exception] | None]
ENDS: dict[str, dict[str, End]] = {
    "source removed": {
        "not begun": ((0, 3, 4), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((0, 3, 4), MergeAborted, None),
        "starts again": ((0, 3, 4), None, None),
        "added": ((0, 6, 4), None, CartSealed),
        "added long ago": ((0, 6, 4), None, CartNotFound),
        "over": ((0, 6, 4), None, CartNotFound),
    },
    "source added to": {
        "not begun": ((0, 7, 4), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((4, 3, 4), MergeAborted, None),
        "starts again": ((0, 7, 4), None, None),
        "added": ((0, 6, 4), None, CartSealed),
        "added long ago": ((1, 6, 4), None, None),
        "over": ((1, 6, 4), None, None),
    },
    "source replaced": {
        "not begun": ((0, 5, 4), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((2, 3, 4), MergeAborted, None),
        "starts again": ((0, 5, 4), None, None),
        "added": ((0, 6, 4), None, CartSealed),
        "added long ago": ((2, 6, 4), None, None),
        "over": ((2, 6, 4), None, None),
    },
    "source merged elsewhere": {
        "not begun": ((0, 3, 7), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((0, 3, 7), MergeAborted, None),
        "starts again": ((0, 3, 7), None, None),
        "added": ((0, 6, 4), None, CartSealed),
        "added long ago": ((0, 6, 4), None, None),
        "over": ((0, 6, 4), None, None),
    },
    "source merged into": {
        "not begun": ((0, 10, 0), None, None),
        "sealed": ((0, 6, 4), None, CartSealed),
        "sealed long ago": ((7, 3, 0), MergeAborted, None),
        "starts again": ((0, 10, 0), None, None),
        "added": ((0, 6, 4), None, CartSealed),
        "added long ago": ((4, 6, 0), None, None),
        "over": ((4, 6, 0), None, None),
    },
    "target removed": {
        "not begun": ((0, 3, 4), None, None),
        "sealed": ((0, 3, 4), None, None),
        "sealed long ago": ((0, 3, 4), None, None),
        "starts again": ((0, 3, 4), None, None),
        "added": ((0, 0, 4), None, None),
        "added long ago": ((0, 0, 4), None, None),
        "over": ((0, 0, 4), None, None),
    },
    "target added to": {
        "not begun": ((0, 7, 4), None, None),
        "sealed": ((0, 7, 4), None, None),
        "sealed long ago": ((0, 7, 4), None, None),
        "starts again": ((0, 7, 4), None, None),
        "added": ((0, 7, 4), None, None),
        "added long ago": ((0, 7, 4), None, None),
        "over": ((0, 7, 4), None, None),
    },
    "target filled": {
        "not begun": ((3, 11, 4), LimitExceeded, None),
        "sealed": ((3, 11, 4), LimitExceeded, None),
        "sealed long ago": ((3, 11, 4), LimitExceeded, None),
        "starts again": ((3, 11, 4), LimitExceeded, None),
        "added": ((0, 11, 4), None, None),
        "added long ago": ((0, 11, 4), None, None),
        "over": ((0, 11, 4), None, None),
    },
    "target merged elsewhere": {
        "not begun": ((0, 3, 7), None, None),
        "sealed": ((0, 3, 7), None, None),
        "sealed long ago": ((0, 3, 7), None, None),
        "starts again": ((0, 3, 7), None, None),
        "added": ((0, 0, 10), None, None),
        "added long ago": ((0, 0, 10), None, None),
        "over": ((0, 0, 10), None, None),
    },
}
CASES = [
    pytest.param(name, *moment, end, id=f"{name}-{stage}-{number}")
    for name, ends in ENDS.items()
    for stage, end in ends.items()
    for number, moment in enumerate(MOMENTS[stage])
]


@pytest.mark.parametrize("terms", [NONE, KEY], ids=["no key", "key"])
@pytest.mark.parametrize(("name", "when", "step", "before", "after", "end"), CASES)
def test_items_are_conserved_whoever_gets_in_between(
    world: World, *, name: str, when: str, step: int, before: int, after: int, end: End, terms: Terms
) -> None:
    """At every boundary, for every interference: each item is where it must be, once; no cart stays sealed."""
    world.put(ELSEWHERE, d=4)
    told: list[type[Exception] | None] = []

    def interfere() -> None:
        world.wait(before)
        told.append(refusal(lambda: INTERFERENCES[name](world)))
        world.wait(after)

    world.store.plan(**{when: {step: interfere}})
    told.insert(0, refusal(lambda: world.merge(terms=terms)))
    totals, *expected = end
    assert (world.totals(), told) == (totals, expected)
    assert world.sealed() == set()
    assert bool(world.record(T).keys) == (expected[0] is None and terms is KEY)
    world.settle()
    assert world.totals() == totals


def test_every_interference_is_tried_at_every_moment() -> None:
    """The tables have no holes."""
    assert set(ENDS) == set(INTERFERENCES)
    assert [set(ends) for ends in ENDS.values()] == [set(MOMENTS)] * len(ENDS)


# The target's own merge into a third cart has died after sealing it, so many seconds before step 2 looks at it.
@pytest.mark.parametrize(
    ("when", "step", "before", "after", "totals", "error"),
    [
        ("before", SEAL, 0, 0, (3, 3, 4), CartSealed),
        ("after", SEAL, 0, 0, (3, 3, 4), CartSealed),
        ("before", ADD, 0, 5 * SECOND, (3, 3, 4), CartSealed),
        ("after", SEAL, 0, 6 * SECOND, (0, 6, 4), None),
        ("before", ADD, 0, 11 * SECOND, (0, 6, 4), None),
        ("before", ADD, 6 * SECOND, 5 * SECOND, (3, 3, 4), CartSealed),
        ("before", ADD, 6 * SECOND, 61 * SECOND, (0, 6, 4), None),
        ("after", ADD, 0, 0, (0, 6, 4), None),
        ("before", REMOVE, 6 * SECOND, 6 * SECOND, (0, 6, 4), None),
    ],
)
def test_a_target_that_is_itself_being_merged(
    world: World,
    *,
    when: str,
    step: int,
    before: int,
    after: int,
    totals: tuple[int, int, int],
    error: type[Exception] | None,
) -> None:
    """Its seal is respected while it is young and settled when it is old; nothing is lost either way."""
    world.put(ELSEWHERE, d=4)

    def interfere() -> None:
        world.wait(before)
        world.dies("after", SEAL, source=T, target=ELSEWHERE)
        world.wait(after)

    world.store.plan(**{when: {step: interfere}})
    assert refusal(world.merge) is error
    assert world.totals() == totals
    assert S not in world.sealed()
    world.settle()
    assert world.totals() == totals


@pytest.mark.parametrize("added_to", [False, True])
@pytest.mark.parametrize(
    ("keyed", "when", "step", "pause", "untouched", "touched"),
    [
        # Without keys an expired record is gone, and its seal with it.
        (False, "before", SEAL, 3, (0, 3, None), (0, 4, None)),
        (False, "before", ADD, 3, (0, 6, None), (1, 6, None)),
        (False, "before", REMOVE, 3, (0, 6, None), (1, 6, None)),
        (False, "after", REMOVE, 3, (0, 6, None), (1, 6, None)),
        (False, "before", ADD, 11, (0, 3, None), (0, 4, None)),
        # With keys the record stays, and its seal with it.
        (True, "before", ADD, 3, (0, 6, None), (0, 6, None)),
        (True, "before", REMOVE, 3, (0, 6, None), (0, 6, None)),
        (True, "after", REMOVE, 3, (0, 6, None), (1, 6, None)),
        (True, "before", ADD, 6, (0, 6, None), (1, 3, MergeAborted)),
        (True, "before", REMOVE, 6, (0, 6, None), (1, 6, None)),
        (True, "before", ADD, 11, (0, 3, None), (0, 4, None)),
    ],
)
def test_a_source_that_expires_in_between(
    *,
    keyed: bool,
    when: str,
    step: int,
    pause: int,
    untouched: tuple[int, int, type[Exception] | None],
    touched: tuple[int, int, type[Exception] | None],
    added_to: bool,
) -> None:
    """Its items moved before their time was over, or are gone; what is added afterwards stands for itself."""
    world, source = World(), "guest-s"
    world.put(source, a=3, terms=KEY if keyed else NONE)
    world.put(T, a=2, b=1)
    world.wait(HOUR - 2 * SECOND)

    def interfere() -> None:
        world.wait(pause * SECOND)
        if added_to:
            refusal(lambda: world.put(source, a=1))

    world.store.plan(**{when: {step: interfere}})
    error = refusal(lambda: world.service.merge(T, source, "sum", terms=NONE))
    world.settle()
    has = [sum((world.held(user) or {}).values()) for user in (source, T)]
    assert (*has, error) == (touched if added_to else untouched)


@pytest.mark.parametrize(
    ("when", "step", "pause", "expected"),
    [
        ("before", SEAL, 3 * SECOND, {"a": 3}),
        ("before", ADD, 3 * SECOND, {"a": 3}),
        ("before", ADD, 11 * SECOND, {"a": 3}),
        ("before", REMOVE, 3 * SECOND, {"a": 5, "b": 1}),  # step 2 has slid its expiry
        ("before", REMOVE, 2 * HOUR, None),
        ("after", REMOVE, 2 * HOUR, None),
    ],
)
def test_a_target_that_expires_in_between(when: str, step: int, pause: int, expected: Held) -> None:
    """Its own items are gone; those of the source are in the new cart, and expire with it."""
    world, into = World(), "guest-t"
    world.put(S, a=3)
    world.put(into, a=2, b=1)
    world.wait(HOUR - 2 * SECOND)
    world.store.plan(**{when: {step: lambda: world.wait(pause)}})
    assert world.service.merge(into, S, "sum", terms=NONE).status == 200
    assert (world.held(S), world.held(into), world.sealed()) == (None, expected, set())


# ---- what wakes up late ----


@pytest.mark.parametrize("pause", [6, 9, 10])
def test_a_step_2_that_wakes_up_after_the_settling_changes_nothing(world: World, pause: int) -> None:
    """It finds that it was called off, and says so; the source keeps what was added meanwhile."""

    def settle() -> None:
        world.wait(pause * SECOND)
        world.put(S, a=1)

    world.store.plan(before={ADD: settle})
    with pytest.raises(MergeAborted):
        world.merge(terms=KEY)
    assert (world.held(S), world.held(T)) == ({"a": 4}, {"a": 2, "b": 1})
    assert world.record(T).keys == ()
    world.store.plan()
    assert world.merge(terms=KEY).replayed is False
    assert (world.held(S), world.held(T)) == (None, {"a": 6, "b": 1})


@pytest.mark.parametrize("later", [4.001, 54.0, 61.0, 3600.0])
def test_a_step_2_that_wakes_up_very_late_starts_again(world: World, later: float) -> None:
    """Also when the aborted mark is gone: it does not add what it saw long ago, but what there is."""

    def settle() -> None:
        world.wait(6 * SECOND)
        world.put(S, a=1)
        world.wait(int(later * SECOND))

    world.store.plan(before={ADD: settle})
    assert world.merge().status == 200
    assert (world.held(S), world.held(T)) == (None, {"a": 6, "b": 1})


def test_only_the_monotonic_clock_says_what_is_late(world: World) -> None:
    """A clock on the wall that is set back or forth meanwhile does not make a late step 2 an early one."""

    def settle() -> None:
        world.wait(6 * SECOND)
        world.put(S, a=1)
        world.seconds.advance(5)
        world.clock.advance(-HOUR)

    world.store.plan(before={ADD: settle})
    assert world.merge().status == 200
    assert (world.held(S), world.held(T)) == (None, {"a": 6, "b": 1})


def test_a_called_off_request_whose_retry_was_accepted_is_a_replay(world: World) -> None:
    """The same key twice at once: when one of them is called off and the other accepted, both are told 200."""

    def retry() -> None:
        world.wait(6 * SECOND)
        world.put(S, b=1)  # settles
        assert world.others.merge(T, S, "sum", terms=KEY).replayed is False

    world.store.plan(before={ADD: retry})
    assert world.merge(terms=KEY) == Outcome(world.others.get(T), 200, replayed=True)
    assert (world.held(S), world.held(T)) == (None, {"a": 5, "b": 2})


def test_an_unsealing_that_wakes_up_late_starts_again(world: World) -> None:
    """It was refused and called off; since then the mark has gone, and the merge was taken up and done by another."""
    world.put(T, a=6)

    def pause() -> None:
        world.wait(61 * SECOND)
        world.others.set_item(T, "a", ItemChange(quantity=1), terms=NONE)
        world.dies("after", ADD)  # resumes under the same seal, and dies before step 3

    world.store.plan(before={REMOVE: pause})
    assert world.merge().status == 200
    assert (world.held(S), world.held(T)) == (None, {"a": 4, "b": 1})


def test_a_settling_that_wakes_up_late_asks_again(world: World) -> None:
    """It had called the merge off; since then the mark has gone, and the merge was taken up and done by another."""
    world.dies("after", SEAL)
    world.wait(6 * SECOND)

    def pause() -> None:
        world.wait(61 * SECOND)
        world.dies("after", ADD)

    world.store.plan(before={3: pause})  # the third update takes the seal off
    outcome = world.service.add(S, [Line("z", 1)], terms=NONE)
    assert outcome.cart == world.others.get(S)
    assert (world.held(S), world.held(T)) == ({"z": 1}, {"a": 5, "b": 1})


@pytest.mark.parametrize("sealed_again", [False, True])
def test_a_step_3_that_wakes_up_late_leaves_a_new_cart_alone(world: World, *, sealed_again: bool) -> None:
    """Another has settled the source, and its owner has begun a new cart: it does not bear this merge's seal."""

    def come_between() -> None:
        world.wait(6 * SECOND)
        world.put(S, z=7)
        if sealed_again:
            world.dies("after", SEAL, target=ELSEWHERE)

    world.store.plan(before={REMOVE: come_between})
    assert world.merge().status == 200
    assert (world.held(S), world.held(T)) == ({"z": 7}, {"a": 5, "b": 1})
    assert world.sealed() == ({S} if sealed_again else set())
    world.settle()
    assert world.held(S) == {"z": 7}


def test_an_unsealing_leaves_another_s_seal_alone(world: World) -> None:
    """The refused merge was settled, and the source sealed again for another target."""
    world.put(T, a=6)

    def come_between() -> None:
        world.wait(6 * SECOND)
        world.put(S, z=1)
        world.dies("after", SEAL, target=ELSEWHERE)

    world.store.plan(before={REMOVE: come_between})
    with pytest.raises(LimitExceeded):
        world.merge()
    assert world.sealed() == {S}
    assert world.others.merge(ELSEWHERE, S, "sum", terms=NONE).status == 200
    assert (world.held(S), world.held(ELSEWHERE)) == (None, {"a": 3, "z": 1})


# ---- replays and what they finish ----


def test_a_replayed_merge_leaves_a_new_cart_of_the_source_alone(world: World) -> None:
    """The guest's id was used again: the new items stay where they are."""
    first = world.merge(terms=KEY)
    world.put(S, n=4)
    world.wait(HOUR)
    assert world.merge(terms=KEY) == Outcome(first.cart, 200, replayed=True)
    assert (world.held(S), world.held(T)) == ({"n": 4}, {"a": 5, "b": 1})
    assert world.sealed() == set()


@pytest.mark.parametrize("later", [0, 61 * SECOND, 23 * HOUR])
def test_a_replay_finishes_step_3(world: World, later: int) -> None:
    """The answer of a merge was lost with its step 3: the repetition is a replay, and the source is gone."""
    world.dies("after", ADD, terms=KEY)
    world.wait(later)
    assert world.merge(terms=KEY).replayed is True
    assert (world.held(S), world.held(T), world.sealed()) == (None, {"a": 5, "b": 1}, set())


def test_a_replay_finishes_another_merge_of_the_same_source(world: World) -> None:
    """The mark of the seal decides, not the key: a new cart that was added by a later merge goes too."""
    world.merge(terms=KEY)
    world.put(S, n=4)
    world.dies("after", ADD)
    assert world.merge(terms=KEY).replayed is True
    assert (world.held(S), world.held(T)) == (None, {"a": 5, "b": 1, "n": 4})


@pytest.mark.parametrize("target", [T, ELSEWHERE])
def test_a_replay_takes_nothing_that_has_not_moved(world: World, target: str) -> None:
    """A new cart of the source that a later merge, here or elsewhere, has only sealed stays as it is."""
    world.merge(terms=KEY)
    world.put(S, n=4)
    world.dies("after", SEAL, target=target)
    before = world.record(S)
    assert world.merge(terms=KEY).replayed is True
    assert (world.record(S), world.held(T)) == (before, {"a": 5, "b": 1})
    world.settle()
    assert world.held(S) == {"n": 4}


def test_a_key_of_a_merge_is_found_after_the_target_was_removed(world: World) -> None:
    """The tombstone knows it: the items are not merged once more."""
    world.merge(terms=KEY)
    world.others.remove(T, terms=NONE)
    world.put(S, n=4)
    assert world.merge(terms=KEY) == Outcome(None, 200, replayed=True)
    assert (world.held(S), world.held(T)) == ({"n": 4}, None)


# ---- what consumed carts leave ----


def test_a_consumed_cart_knows_its_keys_and_marks(world: World) -> None:
    """Repetitions of what was sent to it before it was merged away change nothing."""
    world.put("guest-1", g=1)
    world.others.merge(S, "guest-1", "sum", terms=Terms(b"merge", b"request"))
    world.put(S, a=1, terms=KEY)
    before = world.record(S)
    world.merge()
    record = world.record(S)
    assert (record.cart, record.seal) == (None, None)
    assert (record.keys, record.marks) == (before.keys, before.marks)
    assert world.others.add(S, [Line("a", 1)], terms=KEY) == Outcome(None, 200, replayed=True)
    assert world.others.merge(S, "guest-1", "sum", terms=Terms(b"merge", b"request")).replayed is True
    assert world.held(S) is None
    world.wait(DAY)
    assert world.inner.get(S) is None


@pytest.mark.parametrize("when_a_is_met", ["before B moves on", "after B has moved on"])
def test_a_chain_moves_everything_once(when_a_is_met: str) -> None:
    """A into B dies before its step 3, B goes into C: whoever meets A's seal learns from B's tombstone what became."""
    world = World()
    for user, item in (("A", "a"), ("B", "b"), ("C", "c")):
        world.put(user, **{item: 1})
    world.dies("after", ADD, source="A", target="B")
    if when_a_is_met == "before B moves on":
        world.settle()
    world.others.merge("C", "B", "sum", terms=NONE)
    world.settle()
    assert [world.held(user) for user in "ABC"] == [None, None, {"c": 1, "b": 1, "a": 1}]
    world.put("A", z=1)
    world.others.merge("C", "A", "sum", terms=NONE)
    assert world.held("C") == {"c": 1, "b": 1, "a": 1, "z": 1}


@pytest.mark.parametrize("died", [("after", SEAL), ("after", ADD)])
def test_a_ring_of_seals_is_settled(died: tuple[str, int]) -> None:
    """A into B, B into C, C into A, all died on the way: nobody waits for another, and nothing is lost."""
    world = World()
    for user, item in (("A", "a"), ("B", "b"), ("C", "c")):
        world.put(user, **{item: 1})
    world.dies(*died, source="A", target="B")
    world.wait(6 * SECOND)
    world.dies("after", SEAL, source="B", target="C")
    world.dies("after", SEAL, source="C", target="A") if died == ("after", SEAL) else None
    world.settle()
    held = [world.held(user) for user in "ABC"]
    expected = [{"a": 1}, {"b": 1}, {"c": 1}] if died == ("after", SEAL) else [None, {"b": 1, "a": 1}, {"c": 1}]
    assert held == expected


# ---- marks ----


def _merge_many(world: World, number: int, *, first: int = 0) -> None:
    for each in range(first, first + number):
        world.put(f"guest-{each}", g=1)
        world.others.merge(T, f"guest-{each}", "max", terms=NONE)


def test_64_marks_are_kept_and_no_more_are_taken(world: World) -> None:
    """The next merge is refused before anything is sealed, and nothing is evicted for it."""
    _merge_many(world, 64)
    world.wait(59_999)
    source, target = world.record(S), world.record(T)
    assert len(target.marks) == 64
    with pytest.raises(TooManyMerges):
        world.merge(terms=KEY)
    assert (world.record(S), world.record(T)) == (source, target)
    assert world.store.updates == 0


def test_done_marks_that_nobody_can_ask_for_are_forgotten(world: World) -> None:
    """A minute old, and the source no longer bears the seal: they make room, all at once; the merge goes through."""
    _merge_many(world, 64)
    world.wait(MINUTE)
    assert world.merge().status == 200
    assert [mark.source for mark in world.record(T).marks] == [S]


def test_a_done_mark_is_kept_while_its_source_bears_the_seal(world: World) -> None:
    """However old, while it lives: that source's step 3 is still missing, and would be merged twice without it."""
    world.put("guest-waits", w=1)
    world.dies("after", ADD, source="guest-waits")
    _merge_many(world, 63)
    world.wait(MINUTE)
    assert world.merge().status == 200
    assert {mark.source for mark in world.record(T).marks} == {S, "guest-waits"}
    world.others.merge(T, "guest-waits", "sum", terms=NONE)
    assert world.held("guest-waits") is None
    assert (world.held(T) or {})["w"] == 1


def test_64_sources_that_bear_their_seals_leave_no_room(world: World) -> None:
    """None of their marks is forgotten, however old; the marks leave when their sources expire."""
    for number in range(64):
        world.put(f"guest-{number}", g=1)
        store = FaultyStore(world.inner)
        store.plan(after={ADD: crash})
        with pytest.raises(Crash):
            make_service(store, world.clock, policy=POLICY).merge(T, f"guest-{number}", "max", terms=NONE)
    world.wait(30 * MINUTE)
    before = world.record(T)
    with pytest.raises(TooManyMerges):
        world.merge()
    assert world.record(T) == before
    world.wait(30 * MINUTE)
    assert world.merge().status == 200
    assert world.held(T) == {"a": 5, "b": 1, "g": 1}


def test_the_64th_merge_can_be_repeated(world: World) -> None:
    """It has its mark already: repeating it completes it, though there is no room for another."""
    _merge_many(world, 63)
    world.dies("after", ADD)
    assert len(world.record(T).marks) == 64
    assert world.merge().status == 200
    assert (world.held(S), world.sealed()) == (None, set())


def test_marks_that_fill_up_in_between_refuse_the_merge(world: World) -> None:
    """There was room when it began: both carts are as they were, and nothing stays sealed."""
    _merge_many(world, 63)
    world.store.plan(before={ADD: lambda: _merge_many(world, 1, first=63)})
    held = world.held(T)
    with pytest.raises(TooManyMerges):
        world.merge()
    assert (world.held(S), world.held(T), world.sealed()) == ({"a": 3}, held, set())
    assert sum(mark.done for mark in world.record(T).marks) == 64


def test_aborted_marks_leave_by_themselves(world: World) -> None:
    """After a minute; until then they count."""
    world.put(T, a=6)
    for _ in range(64):
        with pytest.raises(LimitExceeded):
            world.merge()
    with pytest.raises(TooManyMerges):
        world.merge()
    world.wait(59_999)
    with pytest.raises(TooManyMerges):
        world.merge()
    world.wait(1)
    with pytest.raises(LimitExceeded):
        world.merge()
    assert [mark.done for mark in world.record(T).marks] == [False]


def test_the_mark_of_an_absent_target_goes_after_a_minute(world: World) -> None:
    """Calling off a merge into a cart that is not there leaves nothing for long."""
    world.dies("after", SEAL, target="nobody")
    world.settle()
    assert world.held("nobody") is None
    world.wait(MINUTE)
    assert world.inner.get("nobody") is None


# ---- a full store ----


def _full() -> None:
    raise StoreFull


def _away() -> None:
    raise StoreError


@pytest.mark.parametrize("trouble", [_full, _away])
@pytest.mark.parametrize("step", [SEAL, ADD, REMOVE])
@pytest.mark.parametrize("repeated", [False, True])
def test_a_store_in_trouble_for_a_moment_breaks_nothing(
    world: World, step: int, trouble: Callable[[], None], *, repeated: bool
) -> None:
    """At each step: repeating the merge completes it, and not repeating it locks nobody out.

    Who is told that nothing was done is told the truth: once the items are in the target, it is that nobody knows.
    """
    world.store.plan(before={step: trouble})
    with pytest.raises(StoreError) as raised:
        world.merge(terms=KEY)
    assert isinstance(raised.value, OutcomeUnknown) == (step == REMOVE)
    world.store.plan()
    if repeated:
        assert world.merge(terms=KEY).status == 200
        assert (world.held(S), world.held(T)) == (None, {"a": 5, "b": 1})
        return
    world.wait(6 * SECOND)
    world.settle()
    moved = step == REMOVE
    assert (world.held(S), world.held(T)) == ((None, {"a": 5, "b": 1}) if moved else ({"a": 3}, {"a": 2, "b": 1}))


@pytest.mark.parametrize("died", [("before", SEAL), ("after", SEAL), ("after", ADD)])
@pytest.mark.parametrize("target", ["live", "absent"])
def test_a_cart_on_a_store_that_stays_full_can_be_removed(world: World, died: tuple[str, int], target: str) -> None:
    """Also when it bears an old seal: settling has room for its mark."""
    if target == "absent":
        world.others.remove(T, terms=NONE)
    world.dies(*died)
    world.inner._limit = world.inner._used  # noqa: SLF001 - exactly full, whatever a record costs
    world.wait(6 * SECOND)
    if died == ("after", ADD):
        with pytest.raises(CartNotFound):
            world.others.remove(S, terms=NONE)
    else:
        world.others.remove(S, terms=NONE)
    assert (world.held(S), world.sealed()) == (None, set())


@pytest.mark.parametrize("target", ["live", "absent"])
def test_a_merge_on_a_full_store_changes_neither_cart(world: World, target: str) -> None:
    """The merged cart has no room: both are as they were, and the source can be used at once."""
    world.put(S, c=1)
    if target == "absent":
        world.others.remove(T, terms=NONE)
    before = world.snapshot()
    world.inner._limit = world.inner._used  # noqa: SLF001 - exactly full, whatever a record costs
    with pytest.raises(StoreFull):
        world.merge(terms=KEY)
    assert (world.snapshot(), world.sealed()) == (before, set())
    world.inner._limit = 2**30  # noqa: SLF001
    assert world.merge(terms=KEY).replayed is False
    assert world.held(S) is None


# ---- many at once ----


class Race:
    """Threads that merge carts into each other and add to them, on clocks that run ``pace`` times as fast as ours."""

    USERS = ("A", "B", "C")

    def __init__(self, *, pace: int) -> None:
        self.started = time.monotonic()
        self.pace = pace
        self.store = MemoryStore(clock=self.clock, limit=2**30)
        policy = Policy(limits=Limits(max_quantity=10**6))
        self.service = make_service(self.store, self.clock, policy=policy, monotonic=self.seconds)
        self.refusals: set[type[Exception]] = set()

    def seconds(self) -> float:
        """The monotonic clock."""
        return (time.monotonic() - self.started) * self.pace

    def clock(self) -> int:
        """The clock on the wall."""
        return 1_767_323_045_678 + int(self.seconds() * 1000)

    def until_accepted(self, call: Callable[[], object]) -> None:
        """Send it again and again while other merges are in its way; it is to succeed within a minute."""
        for _ in iter(lambda: time.monotonic() - self.started < 60, False):  # noqa: FBT003 - iter's own
            try:
                call()
            except (CartSealed, MergeAborted, TooManyMerges) as error:
                self.refusals.add(type(error))
                if self.pace == 1 and isinstance(error, TooManyMerges):
                    return  # it would be a minute
                continue
            return
        pytest.fail("not accepted within a minute")

    def work(self, number: int) -> None:
        """Add to a cart, and merge another one into it, by turns."""
        for turn in range(60):
            user = self.USERS[(number + turn) % 3]
            other = self.USERS[(number + turn + 1 + number % 2) % 3]
            lines = [Line("shared", 2), Line(f"own-{number}", 1)]
            add, merge = (Terms(f"{what}-{number}-{turn}".encode(), b"request") for what in ("add", "merge"))
            self.until_accepted(partial(self.service.add, user, lines, terms=add))
            self.until_accepted(partial(self.service.merge, user, other, "sum", terms=merge))

    def found(self) -> dict[str, int]:
        """How many there are of each item in all carts together."""
        found: Counter[str] = Counter()
        for user in self.USERS:
            cart = self.service.get(user)
            found.update({item.item_id: item.quantity for item in cart.items} if cart else {})
        return dict(found)


@pytest.mark.parametrize("pace", [1, 1000])
def test_merges_that_race_in_all_directions_conserve_every_item(pace: int) -> None:
    """A into B, B into A, both into C and back, and adds to all: every item is there once, and nothing stays sealed.

    What another merge is in the way of is sent again with the same key. On the fast clock seals grow old, and step 2
    comes late, all the time.
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
