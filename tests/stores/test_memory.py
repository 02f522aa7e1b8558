"""Holds the memory store to the contract of all stores, and to its own promises: limit, books, work a call."""

# ruff: noqa: SLF001 - how much the store keeps, and how it finds it again, is what is tested here

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cartsvc.carts import record as records
from cartsvc.errors import RecordUnreadable, StoreFull
from cartsvc.stores import open_store
from cartsvc.stores.memory import MemoryStore, _memory_cost
from cartsvc.stores.urls import MemoryConfig
from tests.support.clock import FakeClock
from tests.support.store_contract import DAY, StoreContract, a_record, at_once, put, putting, remove

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cartsvc.carts.record import Record

AMPLE = 2**30
MINUTE = 60_000


class TestMemoryStore(StoreContract):
    """The contract, held by the memory store."""

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[MemoryStore]:
        """Closed after a look into its books."""
        store = MemoryStore(clock=clock, limit=AMPLE)
        yield store
        assert_books_are_right(store)
        store.close()


@pytest.fixture
def clock() -> FakeClock:
    # At the beginning of a minute, so that the tests below know what is in it.
    return FakeClock(29_455_384 * MINUTE)


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock=clock, limit=AMPLE)


def used(store: MemoryStore) -> int:
    """What the store says that it holds, in bytes."""
    return store._used


def assert_books_are_right(store: MemoryStore) -> None:
    """What is used is the sum of what is there, and each record is in the index once, under its minute."""
    kept = store._records
    assert store._used == sum(_memory_cost(user_id, data) for user_id, data in kept.items())
    due = sorted((user_id, minute) for minute, users in store._expiry_index.items() for user_id in users)
    assert [user_id for user_id, _ in due] == sorted(kept)
    for user_id, minute in due:
        with suppress(RecordUnreadable):  # in which minute it expires is not known
            assert records.decode(kept[user_id]).expires_at // MINUTE == minute
    assert sorted(store._minutes) == sorted(store._expiry_index)


def of_size(clock: FakeClock, size: int, *, lives: int = DAY) -> Record:
    """A record of about so many bytes."""
    return a_record(clock, lives=lives, note="x" * size)


def fill(store: MemoryStore, clock: FakeClock, *, lives: int = DAY) -> list[str]:
    """Put records in until one is refused; returns the users of those that were not."""
    users: list[str] = []
    while True:
        try:
            put(store, f"fill-{len(users)}", of_size(clock, 1000, lives=lives))
        except StoreFull:
            return users
        users.append(f"fill-{len(users)}")


def test_memory_reaches_one_process(clock: FakeClock) -> None:
    """Its URL opens it, with the limit that the settings give."""
    store = open_store(MemoryConfig(), clock=clock, memory_limit=4200, max_readers=1, timeout=1)
    assert isinstance(store, MemoryStore)
    assert not store.shared
    assert len(fill(store, clock)) == 3


def test_the_same_record_writes_nothing(store: MemoryStore, clock: FakeClock) -> None:
    """The bytes that are kept stay the very same ones."""
    put(store, "u", a_record(clock))
    kept = store._records["u"]
    store.update("u", lambda there: (there, None))
    assert store._records["u"] is kept


# ---- the limit ----


def test_a_record_may_fill_the_store_to_the_byte(clock: FakeClock) -> None:
    """Exactly the limit is allowed, one byte less is not enough."""
    record = of_size(clock, 5000)
    cost = _memory_cost("u", records.encode(record))
    exact, short = (MemoryStore(clock=clock, limit=limit) for limit in (cost, cost - 1))
    assert put(exact, "u", record) == exact.get("u")
    with pytest.raises(StoreFull):
        put(short, "u", record)
    assert short.get("u") is None
    assert_books_are_right(short)


def test_the_limit_counts_what_python_adds(clock: FakeClock) -> None:
    """A million tiny records take more than their bytes: each is charged for its place in the tables too."""
    store = MemoryStore(clock=clock, limit=AMPLE)
    put(store, "u", a_record(clock))
    bare = len("u") + len(store._records["u"])
    assert used(store) > bare + 150


def fits(store: MemoryStore, user_id: str, record: Record) -> bool:
    """Write it if there is room for it, and return whether there was."""
    try:
        put(store, user_id, record)
    except StoreFull:
        return False
    return True


def test_what_has_expired_counts_as_room(clock: FakeClock) -> None:
    """A ping of a full store clears it, as the next write would."""
    store = MemoryStore(clock=clock, limit=20_000)
    fill(store, clock, lives=MINUTE)
    while fits(store, f"small-{len(store._records)}", a_record(clock, lives=MINUTE)):
        pass
    with pytest.raises(StoreFull):
        store.ping()
    clock.advance(MINUTE)
    store.ping()
    assert_books_are_right(store)


def test_a_full_store_still_serves(clock: FakeClock) -> None:
    """What is there stays: it can be read, written at its size, made smaller and removed; then there is room again."""
    store = MemoryStore(clock=clock, limit=20_000)
    users = fill(store, clock)
    assert len(users) > 5
    store.ping()
    size = next(size for size in range(3000, 0, -1) if fits(store, "last", of_size(clock, size)))
    with pytest.raises(StoreFull):
        store.ping()
    with pytest.raises(StoreFull):
        put(store, "n", a_record(clock))
    store.delete("last")
    store.ping()
    assert size > 300
    kept = {user: store.get(user) for user in users}
    with pytest.raises(StoreFull):
        put(store, users[0], of_size(clock, 3000))
    assert {user: store.get(user) for user in users} == kept
    again = put(store, users[0], of_size(clock, 1000))
    assert store.get(users[0]) == again
    smaller = put(store, users[0], of_size(clock, 10))
    assert store.get(users[0]) == smaller
    new = put(store, "new", of_size(clock, 10))
    assert store.get("new") == new
    remove(store, users[1])
    put(store, "newer", of_size(clock, 900))
    assert {user for user, _ in store.scan()} == {*users, "new", "newer"} - {users[1]}
    assert used(store) <= 20_000
    assert_books_are_right(store)


def test_a_full_store_clears_what_is_expired_first(clock: FakeClock) -> None:
    """Before it refuses it drops all that is expired, this minute's too, and nothing that lives."""
    store = MemoryStore(clock=clock, limit=100_000)
    living = [put(store, f"live-{n}", of_size(clock, 1000, lives=DAY)) for n in range(3)]
    late = [put(store, f"late-{n}", of_size(clock, 1000, lives=3 * MINUTE + 6)) for n in range(3)]
    for n in range(20):
        put(store, f"first-{n}", of_size(clock, 1000, lives=1000))
        put(store, f"second-{n}", of_size(clock, 1000, lives=2 * MINUTE))
        put(store, f"third-{n}", of_size(clock, 1000, lives=3 * MINUTE + 5))
    clock.advance(3 * MINUTE + 5)
    large = put(store, "large", of_size(clock, 88_000))
    assert store.get("large") == large
    assert len(store._records) == 7
    assert [store.get(f"live-{n}") for n in range(3)] == living
    assert [store.get(f"late-{n}") for n in range(3)] == late
    assert_books_are_right(store)


def test_a_full_store_clears_what_came_after_a_refusal(clock: FakeClock) -> None:
    """What it found out at one refusal does not mislead it at the next: records come, and live longer, in between."""
    store = MemoryStore(clock=clock, limit=20_000)
    users = fill(store, clock, lives=20_000)
    longer = put(store, users[0], of_size(clock, 1000, lives=50_000))
    shorter = put(store, users[1], of_size(clock, 1000, lives=10_000))
    remove(store, users[2])
    put(store, "new", of_size(clock, 900, lives=10_000))
    clock.advance(9999)
    with pytest.raises(StoreFull):
        put(store, "large", of_size(clock, 2000))
    assert store.get(users[1]) == shorter
    clock.advance(1000)  # it searches the minute that runs once a second, not at every refusal
    put(store, "large", of_size(clock, 2000))
    assert "new" not in store._records
    clock.advance(20_000)
    with pytest.raises(StoreFull):
        put(store, "larger", of_size(clock, 30_000))
    assert dict(store.scan()).keys() == {users[0], "large"} == store._records.keys()
    assert store.get(users[0]) == longer
    assert_books_are_right(store)


def test_a_refused_write_leaves_what_it_would_have_replaced(clock: FakeClock) -> None:
    """Also when clearing made room, only not enough of it."""
    store = MemoryStore(clock=clock, limit=20_000)
    old = put(store, "u", of_size(clock, 1000))
    put(store, "expired", of_size(clock, 1000, lives=1))
    clock.advance(1)
    with pytest.raises(StoreFull):
        put(store, "u", of_size(clock, 30_000))
    assert store.get("u") == old
    assert_books_are_right(store)


def test_an_expired_record_s_room_is_its_user_s_too(clock: FakeClock) -> None:
    """Whose own record has expired can write one as large."""
    store = MemoryStore(clock=clock, limit=2000)
    put(store, "u", of_size(clock, 1000, lives=10))
    clock.advance(10)
    new = put(store, "u", of_size(clock, 1000))
    assert store.get("u") == new
    assert_books_are_right(store)


def test_many_threads_do_not_pass_the_limit(clock: FakeClock) -> None:
    """Threads that fill one store together are refused at the limit, and the books stay right."""
    store = MemoryStore(clock=clock, limit=50_000)

    def work(number: int) -> None:
        for n in range(50):
            try:
                put(store, f"{number}-{n % 7}", of_size(clock, 100 * (n % 10), lives=1 + n % 3 * MINUTE))
            except StoreFull:
                remove(store, f"{number}-{n % 5}")

    at_once(16, work)
    assert 0 < used(store) <= 50_000
    assert_books_are_right(store)


# ---- the work a call ----


class Watched(dict[str, bytes]):
    """A table that fails when it is searched from end to end."""

    def __iter__(self) -> Iterator[str]:
        pytest.fail("a call went through all records")

    keys = values = items = __iter__  # type: ignore[assignment]


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry for each record that is decoded."""
    calls: list[int] = []
    decode = records.decode

    def counting(data: bytes) -> Record:
        calls.append(len(data))
        return decode(data)

    monkeypatch.setattr(records, "decode", counting)
    return calls


def test_a_call_looks_at_one_record(store: MemoryStore, clock: FakeClock, decodes: list[int]) -> None:
    """However many there are, live or expired, reading and writing one decode one."""
    for n in range(3000):
        put(store, f"u{n}", a_record(clock, lives=MINUTE if n % 2 else DAY))
    store._records = Watched(store._records)
    for _ in range(2):
        decodes.clear()
        assert store.get("u0") is not None
        assert store.get("absent") is None
        assert len(decodes) == 1
        decodes.clear()
        put(store, "u0", a_record(clock))
        store.update("u0", lambda there: (there, None))
        assert len(decodes) == 2
        clock.advance(2 * MINUTE)


def test_expired_records_are_cleared_by_writes_bit_by_bit(store: MemoryStore, clock: FakeClock) -> None:
    """Each write clears a few, so that none pays for all; reads clear none; soon all are gone."""
    for n in range(100):
        put(store, f"u{n}", a_record(clock, lives=1000))
    put(store, "live", a_record(clock))
    clock.advance(2 * MINUTE)
    store.get("u0")
    list(store.scan())
    assert len(store._records) == 101
    left = [101]
    while len(store._records) > 1:
        store.update("live", lambda there: (there, None))
        left.append(len(store._records))
        assert 1 <= left[-2] - left[-1] <= 16
        assert_books_are_right(store)
    assert store.get("live") is not None


def test_a_full_store_does_not_search_at_every_refusal(clock: FakeClock, decodes: list[int]) -> None:
    """When all expire later in this minute, refused writes do not look at all of them, again and again."""
    store = MemoryStore(clock=clock, limit=500_000)
    users = fill(store, clock, lives=MINUTE - 1)
    decodes.clear()
    refusals = 50
    for n in range(refusals):
        with pytest.raises(StoreFull):
            put(store, f"new-{n}", of_size(clock, 1000))
    assert len(users) > 300
    assert len(decodes) < 2 * len(users) + 10 * refusals


# ---- the index of what expires when ----


def test_the_index_is_as_long_as_the_longest_life(store: MemoryStore, clock: FakeClock) -> None:
    """A cart that is changed every minute for ever leaves no more minutes behind than it has before it."""
    life = 30 * MINUTE
    for _ in range(1000):
        put(store, "u", a_record(clock, lives=life))
        clock.advance(MINUTE)
        assert len(store._expiry_index) <= 32
        assert len(store._minutes) <= 32


def test_the_index_does_not_grow_within_a_minute(store: MemoryStore, clock: FakeClock) -> None:
    """Nor does one that comes and goes."""
    for n in range(1000):
        put(store, f"u{n}", a_record(clock, lives=DAY))
        remove(store, f"u{n}")
    assert len(store._expiry_index) <= 1
    assert len(store._minutes) <= 1
    assert used(store) == 0


@pytest.mark.parametrize("stay", [0, 1])
def test_the_index_gives_back_what_carts_that_moved_on_took(store: MemoryStore, clock: FakeClock, stay: int) -> None:
    """Carts in use move to a later minute all the time: the minutes they left take no memory for them any more."""
    carts = 1000
    for minute in range(60):
        for n in range(carts):
            put(store, f"u{n}", a_record(clock, lives=DAY))
        for n in range(stay):
            put(store, f"left-{minute}-{n}", a_record(clock, lives=DAY))
        clock.advance(MINUTE)
    index = sum(sys.getsizeof(users) for users in store._expiry_index.values())
    assert index <= 200 * carts + 60 * 1000


# ---- any sequence of calls ----


class BooksMachine(RuleBasedStateMachine):
    """Drives a store that is often full and a plain dict side by side, and audits the store's books."""

    users = st.sampled_from([f"u{n}" for n in range(12)])
    lives = st.sampled_from([1, 1000, MINUTE - 1, MINUTE, MINUTE + 1, 5 * MINUTE, DAY])

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.model: dict[str, Record] = {}

    @initialize(limit=st.sampled_from([1500, 4000, AMPLE]))
    def open(self, limit: int) -> None:
        """Start with little room, or enough."""
        self.limit = limit
        self.store = MemoryStore(clock=self.clock, limit=limit)

    @rule(user=users, lives=lives, size=st.sampled_from([0, 10, 300, 1000, 3000]))
    def write(self, user: str, lives: int, size: int) -> None:
        """Make or change a record; it is refused only when what lived a second ago leaves no room for it."""
        record = of_size(self.clock, size, lives=lives)
        kept = self._live()
        before = kept.get(user)
        cost = self._cost(user, record)
        others = sum(self._cost(other, there) for other, there in kept.items() if other != user)
        grows = before is None or cost > self._cost(user, before)
        lately = sum(self._cost(other, self.model[other]) for other in self._expired_lately() if other != user)
        try:
            put(self.store, user, record)
        except StoreFull:
            assert grows
            assert others + lately + cost > self.limit
        else:
            assert not grows or others + cost <= self.limit
            self.model[user] = record

    @rule(user=users)
    def take(self, user: str) -> None:
        """Remove a record, there or not."""
        remove(self.store, user)
        self.model.pop(user, None)

    @rule(user=users)
    def leave(self, user: str) -> None:
        """Return the same record."""
        assert self.store.update(user, lambda there: (there, there)) == self._live().get(user)

    @rule(milliseconds=st.sampled_from([0, 1, 1000, MINUTE - 1, MINUTE, 5 * MINUTE, DAY]))
    def wait(self, milliseconds: int) -> None:
        """Let time pass."""
        self.clock.advance(milliseconds)

    @rule(user=users, early=st.sampled_from([0, 1]))
    def wait_for(self, user: str, early: int) -> None:
        """Let time pass until a record's last moment, or its end."""
        if user in self._live():
            self.clock.advance(self.model[user].expires_at - self.clock() - early)

    def _live(self) -> dict[str, Record]:
        return {user: record for user, record in self.model.items() if record.expires_at > self.clock()}

    def _expired_lately(self) -> set[str]:
        """What may still be there: a full store searches the minute that runs only once a second."""
        return {user for user, record in self.model.items() if 0 <= self.clock() - record.expires_at < 1000}

    @staticmethod
    def _cost(user: str, record: Record) -> int:
        return _memory_cost(user, records.encode(record))

    @invariant()
    def the_books_are_right(self) -> None:
        """What lives is there, the rest is at least accounted for, and the limit holds."""
        if hasattr(self, "store"):
            assert dict(self.store.scan()) == self._live()
            assert_books_are_right(self.store)
            assert used(self.store) <= self.limit

    def teardown(self) -> None:
        """When everything has expired or is removed, some writes later nothing is left, in no book."""
        if not hasattr(self, "store"):
            return
        self.clock.advance(2 * DAY)
        for _ in range(len(self.model) + 1):
            self.store.update("nobody", putting(None))
        leftovers: list[Any] = [used(self.store), self.store._records, self.store._expiry_index, self.store._minutes]
        assert leftovers == [0, {}, {}, []]


TestBooks = BooksMachine.TestCase


def test_an_unreadable_record_of_this_minute_stops_no_clearing(
    store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has expired beside it is cleared; it goes itself when its minute is over."""
    put(store, "readable", a_record(clock, lives=10))
    with monkeypatch.context() as patch:
        patch.setattr("cartsvc.carts.record.encode", lambda _: b"\x02")
        put(store, "damaged", a_record(clock, lives=10))
    clock.advance(10)
    assert store.purge_expired() == 1
    assert set(store._records) == {"damaged"}
    clock.advance(MINUTE)
    assert store.purge_expired() == 1
    assert_books_are_right(store)
