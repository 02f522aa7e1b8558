"""The tests of the CartStore contract: each store's test file subclasses StoreContract and opens its store."""

from __future__ import annotations

import sys
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cartsvc.carts.cart import Revision, add
from cartsvc.carts.record import IdempotencyKey, MergeMark, Record, Seal
from cartsvc.carts.validation import NewItem, validate_new_items
from cartsvc.errors import RecordUnreadable
from tests.support import strategies
from tests.support.clock import FakeClock
from tests.support.records import DAY, ROOMY, RejectedError, a_record, adding, at_once, put, remove, tags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cartsvc.carts.store import CartStore


class Race(NamedTuple):
    """How long the window between reading and writing is."""

    switch_interval: float | None  # seconds after which the interpreter turns to another thread
    spins: int  # turns of an empty loop between reading and returning


class StoreContract:
    """The tests. Override the fixture ``store``: it opens an empty store on ``clock``, and closes it."""

    THREADS = 32
    ADDS = 200  # of each thread
    PART = 1  # this part of the examples of other searches

    @pytest.fixture
    def clock(self) -> FakeClock:
        """Return the clock of the store."""
        return FakeClock()

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[CartStore]:
        """Return the store under test."""
        raise NotImplementedError

    # ---- one record ----

    def test_it_answers_a_ping(self, store: CartStore) -> None:
        """ping() of an available store returns."""
        store.ping()

    def test_a_get_creates_nothing(self, store: CartStore) -> None:
        """Reading an absent record leaves it absent."""
        assert store.get("u") is None
        assert list(store.scan()) == []
        assert store.update("u", lambda record: (None, record)) is None

    def test_what_was_written_is_read(self, store: CartStore, clock: FakeClock) -> None:
        """A record is made, changed and removed, and read as it is each time."""
        first = put(store, "u", a_record(clock, note="1"))
        assert store.get("u") == first
        second = put(store, "u", a_record(clock, note="2"))
        assert store.get("u") == second
        remove(store, "u")
        assert store.get("u") is None
        third = put(store, "u", a_record(clock, note="3"))
        assert store.get("u") == third

    def test_a_change_is_given_what_is_there(self, store: CartStore, clock: FakeClock) -> None:
        """None first, then the record as it was written."""
        seen: list[Record | None] = []

        def look(record: Record | None) -> tuple[Record | None, None]:
            seen.append(record)
            return record, None

        store.update("u", look)
        record = put(store, "u", a_record(clock))
        store.update("u", look)
        assert seen == [None, record]

    def test_the_answer_is_handed_out(self, store: CartStore, clock: FakeClock) -> None:
        """update() returns what the change returned: for a write, no change, a removal, an absent record."""
        answers = [object() for _ in range(4)]
        record = a_record(clock)
        assert store.update("u", lambda _: (record, answers[0])) is answers[0]
        assert store.update("u", lambda there: (there, answers[1])) is answers[1]
        assert store.update("u", lambda _: (None, answers[2])) is answers[2]
        assert store.update("u", lambda _: (None, answers[3])) is answers[3]

    def test_the_same_record_is_left_as_it_was(self, store: CartStore, clock: FakeClock) -> None:
        """Returning what was given changes nothing: neither content, nor tag, nor how long it lives."""
        record = put(store, "u", a_record(clock, lives=100))
        clock.advance(50)
        store.update("u", lambda there: (there, None))
        assert store.get("u") == record
        clock.advance(50)
        assert store.get("u") is None

    def test_a_change_that_raises_changes_nothing(self, store: CartStore, clock: FakeClock) -> None:
        """Absent stays absent, present stays as it was, the exception comes out, and the next change goes through."""

        def refuse(_: Record | None) -> tuple[Record | None, None]:
            raise RejectedError

        with pytest.raises(RejectedError):
            store.update("u", refuse)
        assert store.get("u") is None
        record = put(store, "u", a_record(clock))
        with pytest.raises(RejectedError):
            store.update("u", refuse)
        assert store.get("u") == record
        remove(store, "u")
        assert store.get("u") is None

    def test_nothing_changes_behind_its_back(self, store: CartStore, clock: FakeClock) -> None:
        """Neither the record passed in nor a record returned gives access to the stored one."""
        record = a_record(clock)
        expected = msgspec.structs.replace(record)
        put(store, "u", record)
        msgspec.structs.force_setattr(record, "tag", "tampered")
        assert store.get("u") == expected
        for tampered in (store.get("u"), dict(store.scan())["u"]):
            assert tampered is not None
            msgspec.structs.force_setattr(tampered, "tag", "tampered")
            msgspec.structs.force_setattr(tampered.cart, "version", 77)

        def tamper(there: Record | None) -> tuple[Record | None, None]:
            assert there is not None
            msgspec.structs.force_setattr(there, "tag", "tampered")
            return there, None

        store.update("u", tamper)
        assert store.get("u") == expected

    @pytest.mark.parametrize("name", ["tag", "cart", "keys", "expires_at"])
    def test_records_are_frozen(self, store: CartStore, clock: FakeClock, name: str) -> None:
        """A record that was read cannot be changed in place."""
        put(store, "u", a_record(clock))
        with pytest.raises(AttributeError):
            setattr(store.get("u"), name, None)

    def test_all_of_a_large_record_is_kept(self, store: CartStore, clock: FakeClock) -> None:
        """A full cart with all its keys, marks and a seal is returned whole."""
        lines = [NewItem("ü" * 100, 1, {"o": f"{n:0100}"}, 10**10, "EUR") for n in range(500)]
        now = clock()
        revision = Revision(at=now, etag=next(tags), expires_at=now + DAY)
        cart = add(None, validate_new_items(lines, limits=ROOMY, at=now), limits=ROOMY, revision=revision)
        keys = tuple(IdempotencyKey(bytes([n]) * 32, bytes(32), 200, now) for n in range(32))
        marks = tuple(MergeMark(f"merge-{n}", "s" * 255, bool(n % 2), now, now + DAY) for n in range(64))
        seal = Seal("merge", "t" * 255, "sum", now)
        record = put(store, "u", Record(revision.etag, cart, keys, marks, seal, now + DAY))
        assert store.get("u") == record
        assert dict(store.scan()) == {"u": record}

    def test_a_tombstone_is_a_record(self, store: CartStore, clock: FakeClock) -> None:
        """A record without a cart is stored like any other."""
        mark = MergeMark("m", "s", True, clock(), clock() + DAY)  # noqa: FBT003 - the struct's own field
        tombstone = put(store, "u", Record("t", None, (), (mark,), None, clock() + DAY))
        assert store.get("u") == tombstone
        assert dict(store.scan()) == {"u": tombstone}

    def test_every_user_id_has_a_record_of_its_own(self, store: CartStore, clock: FakeClock) -> None:
        """Long, odd and nearly equal user ids have separate records."""
        long = "u" * 254
        odd = [
            "~@:+|-",
            "...",
            "-",
            ":",
            "|",
            "a",
            "A",
            "aa",
            "a|b",
            "a:b",
            "a+b",
            "guest-a",
            "user@shop.example",
        ]
        user_ids = [*odd, *(long + end for end in "aA~"), long, *strategies.USER_ID_CHARACTERS.replace(".", "")]
        user_ids = list(dict.fromkeys(user_ids))
        records = {user_id: put(store, user_id, a_record(clock, note=user_id)) for user_id in user_ids}
        assert {user_id: store.get(user_id) for user_id in user_ids} == records
        assert dict(store.scan()) == records
        for user_id in user_ids[::2]:
            remove(store, user_id)
        assert dict(store.scan()) == {user_id: records[user_id] for user_id in user_ids[1::2]}

    # ---- time ----

    @pytest.mark.parametrize("lives", [1, 59_999, 60_000, 60_001, 30 * DAY])
    def test_a_record_lives_until_its_time(self, store: CartStore, clock: FakeClock, lives: int) -> None:
        """A record exists a millisecond before its expires_at and is absent at it, for every call."""
        record = put(store, "u", a_record(clock, lives=lives))
        clock.advance(lives - 1)
        assert store.get("u") == record
        assert dict(store.scan()) == {"u": record}
        assert store.update("u", lambda there: (there, there)) == record
        clock.advance(1)
        assert store.get("u") is None
        assert list(store.scan()) == []
        assert store.update("u", lambda there: (there, there)) is None

    def test_a_read_does_not_lengthen_a_life(self, store: CartStore, clock: FakeClock) -> None:
        """Reading a record does not change its expiry."""
        put(store, "u", a_record(clock, lives=100))
        for _ in range(100):
            store.get("u")
            list(store.scan())
            clock.advance(1)
        assert store.get("u") is None

    def test_a_write_sets_a_new_time(self, store: CartStore, clock: FakeClock) -> None:
        """A later expires_at keeps the record, an earlier one ends it sooner."""
        put(store, "u", a_record(clock, lives=100))
        clock.advance(99)
        later = put(store, "u", a_record(clock, lives=1_000_000))
        clock.advance(999_999)
        assert store.get("u") == later
        put(store, "u", a_record(clock, lives=1_000_000))
        put(store, "u", a_record(clock, lives=5))
        clock.advance(5)
        assert store.get("u") is None

    def test_an_expired_record_gives_way(self, store: CartStore, clock: FakeClock) -> None:
        """A new record replaces it; a removal or an error leaves it absent."""

        def refuse(there: Record | None) -> tuple[Record | None, None]:
            assert there is None
            raise RejectedError

        for lives in (10, 200_000):
            for user_id in ("new", "removed", "refused"):
                put(store, user_id, a_record(clock, lives=lives))
            clock.advance(lives)
            new = put(store, "new", a_record(clock, lives=5))
            remove(store, "removed")
            with pytest.raises(RejectedError):
                store.update("refused", refuse)
            assert dict(store.scan()) == {"new": new}
            clock.advance(5)

    def test_a_record_from_before_1970_is_absent(self, store: CartStore, clock: FakeClock) -> None:
        """An import may contain one; it can be written and is never returned."""
        put(store, "u", a_record(clock, lives=-clock() - DAY))
        assert store.get("u") is None
        assert list(store.scan()) == []
        assert store.update("u", lambda there: (there, there)) is None

    # ---- scan ----

    def test_a_scan_sees_all_that_live(self, store: CartStore, clock: FakeClock) -> None:
        """scan() yields all live records with their user ids, and no expired one."""
        for n in range(150):
            put(store, f"short-{n}", a_record(clock, lives=10))
        records = {f"long-{n}": put(store, f"long-{n}", a_record(clock, note=str(n))) for n in range(150)}
        assert len(dict(store.scan())) == 300
        clock.advance(10)
        assert dict(store.scan()) == records

    def test_a_scan_survives_changes(self, store: CartStore, clock: FakeClock) -> None:
        """Records that appear, change, disappear or expire while it runs do not stop it or hide other records."""
        stay = {f"stay-{n}": put(store, f"stay-{n}", a_record(clock)) for n in range(100)}
        for n in range(100):
            put(store, f"go-{n}", a_record(clock))
            put(store, f"change-{n}", a_record(clock))
            put(store, f"expire-{n}", a_record(clock, lives=50))
        seen: dict[str, Record] = {}
        for n, (user_id, record) in enumerate(store.scan()):
            seen[user_id] = record
            put(store, f"come-{n}", a_record(clock))
            if n < 100:
                remove(store, f"go-{n}")
                put(store, f"change-{n}", a_record(clock))
                clock.advance(1)
        assert {user_id: record for user_id, record in seen.items() if user_id in stay} == stay
        assert {user_id for user_id in seen if user_id.startswith("change-")} == {f"change-{n}" for n in range(100)}

    def test_a_scan_survives_changes_from_other_threads(self, store: CartStore, clock: FakeClock) -> None:
        """Four threads write and remove while four scan: each scan sees the records that stay."""
        stay = {f"stay-{n}": put(store, f"stay-{n}", a_record(clock)) for n in range(50)}

        def work(number: int) -> None:
            for n in range(min(40, self.ADDS)):
                if number % 2:
                    put(store, f"come-{number}-{n}", a_record(clock))
                    remove(store, f"come-{number}-{n // 2}")
                else:
                    assert {each: record for each, record in store.scan() if each in stay} == stay

        at_once(8, work)

    # ---- erase and purge ----

    def test_what_is_erased_is_gone(self, store: CartStore, clock: FakeClock) -> None:
        """delete() removes and returns one record, expired or not, or returns None; the others stay."""
        put(store, "expired", expired := a_record(clock, lives=-1))
        assert store.delete("expired") in {expired, None}  # a write may have cleared it
        records = {user_id: put(store, user_id, a_record(clock, note=user_id)) for user_id in "abc"}
        assert store.delete("b") == records["b"]
        assert store.delete("b") is None
        assert store.delete("nobody") is None
        assert store.get("b") is None
        assert dict(store.scan()) == {"a": records["a"], "c": records["c"]}

    @pytest.mark.parametrize("lives", [10, 200_000])
    def test_a_record_made_after_an_erasure_lives_its_own_life(
        self, store: CartStore, clock: FakeClock, lives: int
    ) -> None:
        """The expiry of the deleted record does not apply to it."""
        put(store, "u", a_record(clock, lives=lives))
        store.delete("u")
        anew = put(store, "u", a_record(clock, lives=2 * lives))
        clock.advance(2 * lives - 1)
        put(store, "other", a_record(clock))
        store.purge_expired()
        assert store.get("u") == anew

    def test_a_purge_takes_what_has_expired(self, store: CartStore, clock: FakeClock) -> None:
        """purge_expired() removes nothing else, also when repeated."""
        for n in range(300):
            put(store, f"short-{n}", a_record(clock, lives=10))
        records = {f"long-{n}": put(store, f"long-{n}", a_record(clock, lives=DAY)) for n in range(20)}
        clock.advance(60_000)
        assert store.purge_expired() >= 0
        assert dict(store.scan()) == records
        assert store.purge_expired() == 0
        assert dict(store.scan()) == records
        anew = put(store, "short-0", a_record(clock))
        assert dict(store.scan()) == records | {"short-0": anew}

    # ---- what cannot be decoded ----

    @pytest.fixture(
        params=[b"\x01", b"\x01\x97\xa1", b"\x02\x96", b"\xff" * 500], ids=["cut", "damaged", "newer", "0xff"]
    )
    def unreadable(self, store: CartStore, clock: FakeClock, request: pytest.FixtureRequest) -> str:
        """Return a user whose record cannot be decoded and expires in ten minutes. It is stored between two others."""
        put(store, "a", a_record(clock, note="a"))
        put(store, "c", a_record(clock, note="c"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cartsvc.carts.record.encode", lambda _: request.param)
            put(store, "b", a_record(clock, lives=600_000))
        return "b"

    def test_an_unreadable_record_is_an_error_of_its_own(
        self, store: CartStore, clock: FakeClock, unreadable: str
    ) -> None:
        """It can be neither read nor changed, and does not count as absent; other records work."""

        def change(_: Record | None) -> tuple[Record | None, None]:
            raise AssertionError

        for _ in range(2):
            with pytest.raises(RecordUnreadable):
                store.get(unreadable)
            with pytest.raises(RecordUnreadable):
                store.update(unreadable, change)
        changed = put(store, "a", a_record(clock, note="changed"))
        assert store.get("a") == changed

    def test_a_scan_names_an_unreadable_record(self, store: CartStore, unreadable: str) -> None:
        """scan() yields the error, and the other records."""
        found = dict(store.scan())
        assert isinstance(found.pop(unreadable), RecordUnreadable)
        assert found == {"a": store.get("a"), "c": store.get("c")}

    def test_an_unreadable_record_can_be_erased(self, store: CartStore, clock: FakeClock, unreadable: str) -> None:
        """delete() returns the error; then the user can have a cart again, with its own expiry."""
        assert isinstance(store.delete(unreadable), RecordUnreadable)
        assert store.delete(unreadable) is None
        assert store.get(unreadable) is None
        assert set(dict(store.scan())) == {"a", "c"}
        anew = put(store, unreadable, a_record(clock, lives=1_200_000))
        clock.advance(1_199_999)
        store.purge_expired()
        assert dict(store.scan()) == {"a": store.get("a"), "b": anew, "c": store.get("c")}

    def test_an_unreadable_record_goes_with_its_time(self, store: CartStore, clock: FakeClock, unreadable: str) -> None:
        """A store that removes expired records finds it too; the other records work all the time."""
        clock.advance(600_000 + 60_000)
        store.purge_expired()
        changed = put(store, "a", a_record(clock, note="changed"))
        found = dict(store.scan())
        found.pop(unreadable, None)
        assert found == {"a": changed, "c": store.get("c")}

    @pytest.mark.parametrize(
        "name", ["\u00fc/x", "a b", "..", "\x1b[31m", "n" * 256, "\udcff\udc80"], ids=lambda name: ascii(name)[:12]
    )
    def test_a_name_that_is_no_user_id_is_unreadable(self, store: CartStore, clock: FakeClock, name: str) -> None:
        """Whatever is stored there: scan() reports it and continues, and delete() removes it."""
        others = {user_id: put(store, user_id, a_record(clock, note=user_id)) for user_id in ("a", "c")}
        record = put(store, name, a_record(clock))
        found = dict(store.scan())
        assert isinstance(found.pop(name), RecordUnreadable)
        assert found == others
        assert store.delete(name) == record
        assert dict(store.scan()) == others

    # ---- many threads ----

    @pytest.fixture(
        params=[Race(None, 0), Race(1e-6, 0), Race(1e-6, 300)], ids=["plain", "switching", "switching and spinning"]
    )
    def race(self, request: pytest.FixtureRequest) -> Iterator[Race]:
        """Return the race window: unchanged, and widened."""
        usual = sys.getswitchinterval()
        if request.param.switch_interval:
            sys.setswitchinterval(request.param.switch_interval)
        yield request.param
        sys.setswitchinterval(usual)

    def test_no_add_is_lost_on_one_cart(self, store: CartStore, clock: FakeClock, race: Race) -> None:
        """The total is exact, and so are the results: each number from one to the total once."""
        answers: list[list[int]] = [[] for _ in range(self.THREADS)]

        def work(number: int) -> None:
            for _ in range(self.ADDS):
                answers[number].append(store.update("u", adding(clock, spins=race.spins)))

        at_once(self.THREADS, work)
        total = self.THREADS * self.ADDS
        assert self._quantity(store, "u") == total
        assert sorted(result for each in answers for result in each) == list(range(1, total + 1))
        assert all(each == sorted(each) for each in answers)

    def test_no_add_is_lost_on_many_carts(self, store: CartStore, clock: FakeClock, race: Race) -> None:
        """Each thread adds to all carts, each starting at a different one: every total is exact."""
        users = [f"u{n}" for n in range(self.THREADS)]

        def work(number: int) -> None:
            for turn in range(self.ADDS):
                store.update(users[(number + turn) % len(users)], adding(clock, spins=race.spins))

        at_once(self.THREADS, work)
        expected = dict.fromkeys(users, 0)
        for number in range(self.THREADS):
            for turn in range(self.ADDS):
                expected[users[(number + turn) % len(users)]] += 1
        assert {user: self._quantity(store, user) for user in users} == expected

    def test_adds_that_raise_do_not_count(self, store: CartStore, clock: FakeClock, race: Race) -> None:
        """Every third change raises after its read: all others count, and no thread waits forever."""

        def work(number: int) -> None:
            for turn in range(self.ADDS):
                if (number + turn) % 3:
                    store.update("u", adding(clock, spins=race.spins))
                else:
                    with pytest.raises(RejectedError):
                        store.update("u", adding(clock, spins=race.spins, fail=True))

        at_once(self.THREADS, work)
        expected = sum(1 for number in range(self.THREADS) for turn in range(self.ADDS) if (number + turn) % 3)
        assert self._quantity(store, "u") == expected

    def test_a_record_is_made_once(self, store: CartStore, clock: FakeClock, race: Race) -> None:
        """Of many threads that find no record and create it, exactly one does."""
        made: list[int] = []
        spins = race.spins

        def make(there: Record | None) -> tuple[Record | None, bool]:
            if there is not None:
                return there, False
            for _ in range(spins):
                pass
            return a_record(clock), True

        def work(_: int) -> None:
            made.extend([turn for turn in range(self.ADDS // 4) if store.update(f"u{turn}", make)])

        at_once(self.THREADS, work)
        assert sorted(made) == list(range(self.ADDS // 4))

    @staticmethod
    def _quantity(store: CartStore, user_id: str) -> int:
        record = store.get(user_id)
        assert record is not None
        assert record.cart is not None
        return record.cart.items[0].quantity

    # ---- any sequence of calls ----

    def test_it_does_as_a_dict_does(self, store: CartStore, clock: FakeClock) -> None:
        """Any sequence of calls and of time leaves in the store what it leaves in a plain dict."""
        part = settings(max_examples=max(1, settings().max_examples // self.PART))
        run_state_machine_as_test(lambda: StoreMachine(store, clock), settings=part)


class StoreMachine(RuleBasedStateMachine):
    """Drives a store and a plain dict with the same calls."""

    _runs = count()

    def __init__(self, store: CartStore, clock: FakeClock) -> None:
        super().__init__()
        self.store = store
        self.clock = clock
        self.prefix = f"run-{next(self._runs)}-"  # one store serves all runs
        self.model: dict[str, Record] = {}

    users = st.sampled_from("abcdef")
    lives = st.sampled_from([1, 1000, 59_999, 60_000, 61_000, 200_000, DAY])

    @rule(user=users, lives=lives)
    def write(self, user: str, lives: int) -> None:
        """Make or change a record."""
        record = a_record(self.clock, lives=lives)
        before = self._update(user, record)
        assert before == self.model.get(user)
        self.model[user] = record

    @rule(user=users)
    def take(self, user: str) -> None:
        """Remove a record, there or not."""
        assert self._update(user, None) == self.model.pop(user, None)

    @rule(user=users)
    def leave(self, user: str) -> None:
        """Return the same record."""
        assert self.store.update(self.prefix + user, lambda there: (there, there)) == self.model.get(user)

    @rule(user=users)
    def refuse(self, user: str) -> None:
        """Raise from a change."""
        seen: list[Record | None] = []

        def change(there: Record | None) -> tuple[Record | None, None]:
            seen.append(there)
            raise RejectedError

        with pytest.raises(RejectedError):
            self.store.update(self.prefix + user, change)
        assert seen[-1] == self.model.get(user)

    @rule(milliseconds=st.sampled_from([0, 1, 999, 30_000, 60_000, 61_000, 300_000]))
    def wait(self, milliseconds: int) -> None:
        """Let time pass."""
        self._pass(milliseconds)

    @rule(user=users, early=st.sampled_from([0, 1]))
    def wait_for(self, user: str, early: int) -> None:
        """Let time pass until a record's last moment, or its end."""
        if user in self.model:
            self._pass(self.model[user].expires_at - self.clock() - early)

    def _pass(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)
        self.model = {user: record for user, record in self.model.items() if record.expires_at > self.clock()}

    def _update(self, user: str, record: Record | None) -> Record | None:
        return self.store.update(self.prefix + user, lambda there: (record, there))

    @invariant()
    def both_hold_the_same(self) -> None:
        """get() and scan() return what the dict contains."""
        assert {user: self.store.get(self.prefix + user) for user in "abcdef"} == {
            user: self.model.get(user) for user in "abcdef"
        }
        found = {user: record for user, record in self.store.scan() if user.startswith(self.prefix)}
        assert found == {self.prefix + user: record for user, record in self.model.items()}
