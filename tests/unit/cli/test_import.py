"""Holds export and import to each other: import takes what the service can have stored, all of it, and nothing else."""

from __future__ import annotations

import base64
import copy
import json
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from msgspec import structs

from cartsvc.carts.cart import MAX_VERSION, Limits
from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.merge import Merger
from cartsvc.carts.record import (
    CART_TTL_RANGE_MS,
    CLOCK_MARGIN_MS,
    IDEMPOTENCY_TTL_RANGE_MS,
    MAX_IDEMPOTENCY_KEYS,
    MAX_MARKS,
    Policy,
)
from cartsvc.carts.record_check import CLOCK_TOLERANCE_MS
from cartsvc.carts.service import CartService
from cartsvc.carts.validation import NewItem
from cartsvc.cli.backup import read_line, write_line
from cartsvc.errors import CartsvcError, InvalidRequest
from tests.support.carts_cli import CartsCli
from tests.support.clock import FakeClock
from tests.support.faults import Crash, FaultyStore, crash
from tests.support.importable import Stored, stored
from tests.support.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.combine import Strategy
    from cartsvc.carts.store import CartStore

DAY = 86_400_000
HALF = DAY // 2  # by which a clock may differ from the true time

slow_to_draw = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


# ---- what is accepted ----


@slow_to_draw
@given(stored())
def test_export_and_import_are_inverse(of: Stored) -> None:
    """Whatever import accepts goes out as the line it came from, and comes in as the record that went out."""
    line = write_line(of.user_id, of.record)
    user_id, record = read_line(line, tag=of.record.tag, now=of.now)
    assert (user_id, record) == (of.user_id, of.record)
    assert write_line(user_id, record) == line


@slow_to_draw
@given(st.data())
def test_the_commands_are_inverse(data: st.DataObject) -> None:
    """The same for whole backups, through the commands; only expired records are skipped."""
    cli = CartsCli()
    names = data.draw(st.lists(st.sampled_from("abcd"), max_size=3, unique=True))
    records = [data.draw(stored(now=cli.clock.now, user_id=name)) for name in names]
    lines = {of.user_id: write_line(of.user_id, of.record) for of in records}
    live = {of.user_id for of in records if of.record.expires_at > of.now}
    imported = cli.run("import", stdin=b"".join(lines.values()))
    assert imported.exit_code == 0, imported.stderr
    assert cli.run("export").stdout_bytes.splitlines(keepends=True) == [lines[name] for name in sorted(live)]
    again = cli.run("import", stdin=b"".join(lines.values()))
    assert f"{len(live)} unchanged" in again.stderr


# ---- what is rejected ----


def _time(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _key(at: int, number: int = 0) -> dict[str, Any]:
    key = base64.b64encode(b"another key %04d" % number).decode()
    return {"key": key, "request": key, "status": 200, "at": _time(at)}


def _mark(at: int, number: int = 0, *, done: bool = False) -> dict[str, Any]:
    mark = {"merge_id": f"another-merge-{number}", "source": "another", "done": done, "at": _time(at)}
    return mark | {"source_expires_at": _time(at)}


class Wrong(NamedTuple):
    """A change that makes a line wrong, given its record and the time; and the place that is to be named."""

    place: str
    change: Callable[[dict[str, Any], Stored], object]


def _set(place: str, value: Callable[[Stored], Any], named: str | None = None) -> Wrong:
    *path, last = place[1:].split("/")

    def change(line: dict[str, Any], of: Stored) -> None:
        part: Any = line
        for each in path:
            part = part[int(each) if each.isdigit() else each]
        part[last] = value(of)

    return Wrong(named or place, change)


def _all_latest(of: Stored) -> int:
    record = of.record
    assert record.cart is not None
    assert record.seal is not None
    times = [each.at for each in (*record.idempotency_keys, *record.merge_marks, record.seal)]
    return max(record.cart.created_at, record.cart.updated_at, *times)


def _cart(of: Stored) -> Any:
    return of.record.cart


_FUTURE = CLOCK_TOLERANCE_MS + 1
_ITEM = {"item_id": "a", "product_id": "a", "options": {}, "quantity": 1, "unit_price": None, "added_at": _time(0)}

WRONG: dict[str, Wrong] = {
    "version 0": _set("/cart/version", lambda _: 0),
    "version too high": _set("/cart/version", lambda _: MAX_VERSION + 1),
    "version at the edge": _set("/cart/version", lambda _: 2**53 - 1),
    "first version changed": Wrong(
        "/cart/updated_at",
        lambda line, of: line["cart"].update(version=1, created_at=_time(_cart(of).updated_at + 1)),
    ),
    "updated before created": Wrong(
        "/cart/updated_at",
        lambda line, of: line["cart"].update(version=2, created_at=_time(_cart(of).updated_at + _FUTURE)),
    ),
    "updated in the future": _set("/cart/updated_at", lambda of: _time(of.now + _FUTURE)),
    "created in the future": _set("/cart/created_at", lambda of: _time(of.now + _FUTURE)),
    "cart expires at once": _set("/cart/expires_at", lambda of: _time(_cart(of).updated_at + CART_TTL_RANGE_MS[0] - 1)),
    "cart lives too long": _set("/cart/expires_at", lambda of: _time(_cart(of).updated_at + CART_TTL_RANGE_MS[1] + 1)),
    "item added too late": Wrong(
        "/cart/items/0/added_at",
        lambda line, of: line["cart"].update(
            items=[_ITEM | {"added_at": _time(_cart(of).updated_at + _FUTURE)}], currency=None
        ),
    ),
    "item added in the future": Wrong(
        "/cart/items/0/added_at",
        lambda line, of: line["cart"].update(items=[_ITEM | {"added_at": _time(of.now + _FUTURE)}], currency=None),
    ),
    "item twice": Wrong("/cart/items", lambda line, _: line["cart"].update(items=[_ITEM, _ITEM], currency=None)),
    "quantity 0": Wrong(
        "/cart/items/0/quantity", lambda line, _: line["cart"].update(items=[_ITEM | {"quantity": 0}], currency=None)
    ),
    "currency without a price": Wrong(
        "/cart/currency", lambda line, _: line["cart"].update(items=[_ITEM], currency="EUR")
    ),
    "sealed before its change": Wrong(
        "/seal/at",
        lambda line, of: (
            line["cart"].update(updated_at=_time(of.now), expires_at=_time(of.now + 1000)),
            line["seal"].update(at=_time(of.now - _FUTURE)),
        ),
    ),
    "sealed when expired": _set("/seal/at", lambda of: _time(_cart(of).expires_at)),
    "seal without a cart": Wrong("/seal", lambda line, _: line.update(cart=None)),
    "seal into itself": _set("/seal/target", lambda of: of.user_id),
    "seal of a mark": Wrong(
        "/seal/merge_id",
        lambda line, of: line["marks"].append(_mark(of.now) | {"merge_id": line["seal"]["merge_id"]}),
    ),
    "key twice": Wrong("/keys/1/key", lambda line, of: line.update(keys=[_key(of.now), _key(of.now)])),
    "too many keys": Wrong(
        "/keys", lambda line, of: line.update(keys=[_key(of.now, number) for number in range(MAX_IDEMPOTENCY_KEYS + 1)])
    ),
    **{
        f"status {status}": Wrong(
            "/keys/0/status", lambda line, of, status=status: line.update(keys=[_key(of.now) | {"status": status}])
        )
        for status in (0, 199, 202, 203, 205, 299, 304, 404)
    },
    "key in the future": Wrong("/keys/0/at", lambda line, of: line.update(keys=[_key(of.now + _FUTURE)])),
    "key left out later": Wrong(
        "/keys/0/at", lambda line, of: line["keys"].insert(0, _key(_all_latest(of) - IDEMPOTENCY_TTL_RANGE_MS[1]))
    ),
    "keys out of order": Wrong(
        "/keys/1/at", lambda line, of: line.update(keys=[_key(of.now), _key(of.now - _FUTURE, 1)])
    ),
    "merge both done and pending": Wrong(
        "/marks/1/merge_id", lambda line, of: line.update(marks=[_mark(of.now), _mark(of.now, done=True)])
    ),
    "too many marks": Wrong(
        "/marks", lambda line, of: line.update(marks=[_mark(of.now, number) for number in range(MAX_MARKS + 1)])
    ),
    "mark in the future": Wrong("/marks/0/at", lambda line, of: line.update(marks=[_mark(of.now + _FUTURE)])),
    "mark left out later": Wrong(
        "/marks/0/at", lambda line, of: line["marks"].insert(0, _mark(_all_latest(of) - CLOCK_MARGIN_MS))
    ),
    "marks out of order": Wrong(
        "/marks/1/at",
        lambda line, of: line.update(
            marks=[_mark(of.now), _mark(of.now - _FUTURE, 1, done=True) | {"source_expires_at": _time(of.now + DAY)}]
        ),
    ),
    "mark of an expired source": Wrong(
        "/marks/0/source_expires_at",
        lambda line, of: line.update(
            marks=[_mark(of.now) | {"source_expires_at": _time(of.now - CLOCK_MARGIN_MS - CLOCK_TOLERANCE_MS - 1)}]
        ),
    ),
    "mark of a source forever": Wrong(
        "/marks/0/source_expires_at",
        lambda line, of: line.update(
            marks=[_mark(of.now) | {"source_expires_at": _time(of.now + CART_TTL_RANGE_MS[1] + CLOCK_TOLERANCE_MS + 1)}]
        ),
    ),
    "mark of itself": Wrong(
        "/marks/0/source", lambda line, of: line.update(marks=[_mark(of.now) | {"source": of.user_id}])
    ),
    "no user_id": _set("/user_id", lambda _: ".."),
    "expires too late": Wrong(
        "/expires_at",
        lambda line, of: line.update(keys=[], marks=[], expires_at=_time(_cart(of).expires_at + 1)),
    ),
    "expires too early": Wrong("/expires_at", lambda line, of: line.update(expires_at=_time(_cart(of).expires_at - 1))),
    "metadata of the cart": _set("/cart/metadata", lambda _: {"": "x"}),
    "metadata of an item": Wrong(
        "/cart/items/0/metadata/n",
        lambda line, _: line["cart"].update(items=[_ITEM | {"metadata": {"n": "\0"}}], currency=None),
    ),
    "closed with a cart": Wrong(
        "/closed_until", lambda line, of: line.update(user_id="guest-1", closed_until=_time(of.now + 1))
    ),
    "closed, and no guest": Wrong(
        "/closed_until",
        lambda line, of: line.update(user_id="shopper", cart=None, seal=None, closed_until=_time(of.now + 1)),
    ),
    "closed forever": Wrong(
        "/closed_until",
        lambda line, of: line.update(
            user_id="guest-1",
            cart=None,
            seal=None,
            closed_until=_time(of.now + CART_TTL_RANGE_MS[1] + CLOCK_TOLERANCE_MS + 1),
        ),
    ),
    "nothing in it": Wrong("", lambda line, _: line.update(cart=None, seal=None, keys=[], marks=[])),
}


@slow_to_draw
@given(stored(whole=True))
def test_a_record_that_cannot_be_is_refused(of: Stored) -> None:
    """One step past each bound, in any record that is accepted otherwise: refused, and the place is named."""
    line = json.loads(write_line(of.user_id, of.record))
    for name, (place, change) in WRONG.items():
        note(name)  # a failure shows the names up to the change that was accepted
        changed = copy.deepcopy(line)
        change(changed, of)
        with pytest.raises(InvalidRequest) as error:
            read_line(json.dumps(changed).encode(), tag="t", now=of.now)
        assert place in [fault.pointer for fault in error.value.faults]


@slow_to_draw
@given(of=stored(whole=True), name=st.sampled_from(sorted(WRONG)))
def test_nothing_of_a_refused_record_is_stored(of: Stored, name: str) -> None:
    """Through the command: its line and its place are named, and the store is as it was."""
    cli = CartsCli(FakeClock(of.now))
    place, change = WRONG[name]
    line = json.loads(write_line(of.user_id, of.record))
    change(line, of)
    imported = cli.run("import", stdin="\n" + json.dumps(line))
    assert imported.exit_code == 1
    assert imported.stderr.startswith("line 2: ")
    assert f"{place} " in imported.stderr
    assert cli.content() == {}


@pytest.mark.parametrize(
    ("found", "repeated", "place"),
    [
        (b'"user_id":', b'"user_id":"bob","user_id":', ""),
        (b'"etag":', b'"etag":"x","etag":', "/cart"),
        (b'"options":{', b'"options":{"a~/b":"1","a~/b":"2",', "/cart/items/0/options"),
        (b'"done":', b'"done":true,"done":', "/marks/0"),
    ],
)
def test_a_name_that_is_there_twice_is_refused(found: bytes, repeated: bytes, place: str) -> None:
    """Which of the two values counts is unpredictable (RFC 8259, section 4), so neither does."""
    cli = CartsCli()
    cli.fill()
    line = next(line for line in cli.run("export").stdout_bytes.splitlines() if b'"alice"' in line)
    line = line.replace(b'"options":{}', b'"options":{"a":"1"}', 1) if b"options" in repeated else line
    line = line.replace(found, repeated, 1)
    with pytest.raises(InvalidRequest) as error:
        read_line(line, tag="t", now=cli.clock())
    assert [(fault.pointer, "twice" in fault.detail) for fault in error.value.faults] == [(place, True)] or (
        b"options" in repeated
    )
    assert place in [fault.pointer for fault in error.value.faults]


# ---- what the service leaves ----

USERS = ["alice", "bob", "guest-1"]
PRODUCTS = ["a", "caf\u00e9", "cafe\u0301", "\ufb2c" * 128]
TTLS = [CART_TTL_RANGE_MS[0], DAY, CART_TTL_RANGE_MS[1]]

policies = st.builds(
    Policy,
    limits=st.just(Limits(max_items=2, max_quantity=5)),
    cart_ttl_ms=st.sampled_from(TTLS),
    guest_ttl_ms=st.sampled_from(TTLS),
    max_idempotency_keys=st.sampled_from([1, 3, MAX_IDEMPOTENCY_KEYS]),
    idempotency_ttl_ms=st.sampled_from([*IDEMPOTENCY_TTL_RANGE_MS, DAY]),
)
conditions = st.builds(
    WriteConditions,
    key_digest=st.none() | st.sampled_from([bytes([each]) * 16 for each in range(4)]),
    fingerprint=st.sampled_from([bytes(16), b"r" * 16]),
)
some_lines = st.lists(
    st.builds(
        NewItem,
        st.sampled_from(PRODUCTS),
        st.integers(1, 3),
        st.sampled_from([{}, {"s": "M"}, {"e\u0301": "\n"}]),
        st.sampled_from([None, 5]),
    ),
    min_size=1,
    max_size=2,
).map(lambda lines: [structs.replace(line, currency="EUR" if line.unit_price else None) for line in lines])
users = st.sampled_from(USERS)
servers = st.integers(0, 1)
merges = st.tuples(
    st.just("merge"),
    servers,
    users,
    st.tuples(users, st.sampled_from(["sum", "max", "keep", "replace"]), st.none() | st.integers(1, 4)),
    conditions,
)
calls = st.one_of(
    st.tuples(st.just("add"), servers, users, some_lines, conditions),
    st.tuples(st.just("add"), servers, users, some_lines, conditions),
    st.tuples(st.just("replace"), servers, users, some_lines, conditions),
    st.tuples(st.just("empty"), servers, users, st.none(), conditions),
    st.tuples(st.just("remove"), servers, users, st.none(), conditions),
    merges,
)
happenings = st.one_of(
    calls,
    calls,
    merges,
    st.tuples(st.just("wait"), st.sampled_from([1, 6_000, 6_000, 61_000, DAY, 8 * DAY, 31 * DAY, 3651 * DAY])),
    st.tuples(st.just("step"), servers, st.sampled_from([-HALF, -61_000, 0, 61_000, HALF])),
    st.tuples(st.just("restart"), servers, policies),
)


class World:
    """Two servers on one store, each with a clock that is wrong by half of the tolerance at most."""

    def __init__(self, store: CartStore, time: FakeClock, *, ahead: int = 0) -> None:
        self.store = store
        self.time = time
        self.faulty = FaultyStore(store)
        self.wrong = [ahead, ahead]
        self.ahead = ahead
        self.policies = [Policy(), Policy()]
        self.tags = map("made-{}".format, count())

    def service(self, number: int) -> CartService:
        """A server, as it is set up now."""

        def clock() -> int:
            return self.time() + self.wrong[number]

        policy, tags = self.policies[number], self.tags.__next__
        merger = Merger(self.faulty, policy=policy, clock=clock, new_tag=tags)
        return CartService(self.faulty, merger, policy=policy, clock=clock, new_tag=tags, new_guest=lambda: "1")

    def happen(self, kind: str, *what: Any) -> None:
        """Perform the operation; a rejected one and a crash are part of the run."""
        if kind == "wait":
            self.time.advance(what[0])
        elif kind == "step":
            self.wrong[what[0]] = self.ahead + what[1]
        elif kind == "restart":
            self.policies[what[0]] = what[1]
        else:
            try:
                self._call(kind, *what)
            except (CartsvcError, Crash):
                pass
            finally:
                self.faulty.plan()

    def _call(self, kind: str, server: int, user: str, what: Any, conditions: WriteConditions) -> None:
        service = self.service(server)
        if kind == "add":
            service.add(user, what, conditions=conditions)
        elif kind == "replace":
            service.replace(user, what, currency=None, conditions=conditions)
        elif kind == "empty":
            service.replace(user, [], currency=None, conditions=conditions)
        elif kind == "remove":
            service.remove(user, conditions=conditions)
        else:
            source, strategy, dies = what
            chosen: Strategy = strategy
            if dies is not None:
                self.faulty.plan(before={dies: crash})
            service.merge(user, source, chosen, conditions=conditions)

    def check(self, now: int) -> None:
        """Every record that is stored is accepted by then, and comes back as it is."""
        for user_id, record in self.store.scan():
            line = write_line(user_id, record)
            assert read_line(line, tag=record.tag, now=now) == (user_id, record)


@given(st.lists(happenings, min_size=15, max_size=40))
def test_whatever_the_service_leaves_is_accepted(what: list[tuple[Any, ...]]) -> None:
    """After any calls, on servers with other settings and wrong clocks, with merges that died: also where the clock of
    the import is behind.
    """
    time = FakeClock()
    world = World(MemoryStore(clock=FakeClock(0), limit=2**30), time)
    for each in what:
        world.happen(*each)
        world.check(time() - HALF)


@slow_to_draw
@given(data=st.data(), what=st.lists(happenings, max_size=12))
def test_what_was_imported_can_be_written_and_imported(data: st.DataObject, what: list[tuple[Any, ...]]) -> None:
    """Whatever is accepted stays so when the service goes on with it: versions, keys, marks, seals and times."""
    time = FakeClock()
    store = MemoryStore(clock=FakeClock(0), limit=2**30)
    for user in data.draw(st.lists(users, min_size=1, unique=True)):
        of = data.draw(stored(now=time(), user_id=user))
        store.update(user, lambda _, record=of.record: (record, None))
    world = World(store, time, ahead=HALF)
    for each in what:
        world.happen(*each)
        world.check(time())
