"""The service and a model of it, side by side, through everything that goes wrong: they agree after every step.

On every store, with real servers. The clock is handed in, and time jumps: forward only, for a server that clears away
by its own clock has that of the machine, and what a record has of it is a day later than what the service goes by.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cartsvc.carts.cart import Limits
from cartsvc.carts.conditions import ANY_TAG, Outcome, WriteConditions
from cartsvc.carts.merge import Merger
from cartsvc.carts.record import Policy
from cartsvc.carts.service import CartService
from cartsvc.carts.validation import ItemChange, NewItem
from cartsvc.errors import CartsvcError
from cartsvc.stores import open_store
from cartsvc.stores.urls import parse_store_url
from tests.support.carts import id_of, options_of
from tests.support.clock import FakeClock
from tests.support.faults import Crash, FaultyStore, crash
from tests.support.model import DAY, HOUR, Change, Expected, Line, Model, Rejected, Request
from tests.support.valkeys import cluster, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cartsvc.carts.cart import Cart
    from tests.support import model
    from tests.support.postgresqls import Postgresql

pytestmark = [pytest.mark.search, pytest.mark.server]

USERS = ["alice", "bob", "guest-1"]
PRODUCTS = ["a", "a/M", "b", "c"]  # a product, or a product and its size
MONEY = ["EUR", "USD"]
POLICY = Policy(limits=Limits(max_quantity=9, max_items=3, max_metadata=2), max_idempotency_keys=3)

users = st.sampled_from(USERS)
products = st.sampled_from(PRODUCTS)
prices = st.none() | st.integers(0, 3)
# None: nothing goes wrong. Else the process dies at this write of a record, before or after it.
faults = st.none() | st.tuples(st.integers(1, 6), st.sampled_from(["before", "after"]))
conditions = st.fixed_dictionaries(
    {
        "key": st.none() | st.sampled_from(["k1", "k2", "k3", "k4", "k5"]),
        "tag": st.none() | st.integers(-1, 30),
        "create": st.sampled_from([False, False, False, True]),
    }
)
NO_CONDITIONS = {"key": None, "tag": None, "create": False}
pairs = st.permutations(USERS)
strategies = st.sampled_from(["sum", "sum", "max", "keep", "replace"])
on_limits = st.sampled_from(["refuse", "clamp"])
members = st.sampled_from([(), (("n", "1"),), (("n", "2"),), (("m", "1"), ("n", "1")), (("o", "\n"),)])
maybe_members = st.none() | members
keys = st.none() | st.sampled_from(["k1", "k2"])
deaths = st.tuples(st.integers(1, 6), st.sampled_from(["before", "after"]))
times = st.sampled_from([1, 4_000, 6_000, 61_000, HOUR, DAY - 1000, DAY, 8 * DAY, 31 * DAY])


@st.composite
def some_lines(draw: st.DrawFn) -> tuple[Line, ...]:
    """One or two lines, in one currency, right by themselves."""
    money = draw(st.sampled_from(MONEY))
    lines = draw(st.lists(st.tuples(products, st.integers(1, 4), prices, maybe_members), min_size=1, max_size=2))
    return tuple(Line(name, quantity, price, money, metadata) for name, quantity, price, metadata in lines)


@st.composite
def some_changes(draw: st.DrawFn) -> tuple[Change, ...]:
    """Changes of one to three items, in one currency, right by themselves."""
    money = draw(st.sampled_from(MONEY))
    found = []
    for name in draw(st.lists(products, min_size=1, max_size=3, unique=True)):
        quantity, price, metadata = draw(st.none() | st.integers(0, 9)), draw(prices), draw(maybe_members)
        size = draw(st.sampled_from([None, None, "", "M"]))
        if (quantity, price, metadata, size) == (None, None, None, None):
            quantity = 1
        found.append(Change(name, quantity, price, money, metadata, size))
    return tuple(found)


class Stage:
    """A store on a clock, and how long to search on it. Each example finds it empty, at the same time of day."""

    def __init__(self, url: str, *, share: float) -> None:
        self.settings = settings(max_examples=max(1, int(share * settings().max_examples)))
        self.clock = FakeClock(time.time_ns() // 1_000_000)
        self.store = open_store(parse_store_url(url), clock=self.clock, memory_limit=2**30, max_readers=10, timeout=20)
        self._began = self.clock.now

    def clear(self) -> None:
        """Begin anew."""
        self.clock.now = self._began
        for user in USERS:
            self.store.delete(user)


class Machine(RuleBasedStateMachine):
    """The service, the model, and how to send both the same and compare."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        stage.clear()
        self.clock = stage.clock
        self.store = FaultyStore(stage.store)
        numbers = count()

        def new_tag() -> str:
            return f"tag-{next(numbers)}"

        merger = Merger(self.store, policy=POLICY, clock=self.clock, new_tag=new_tag)
        self.service = CartService(
            self.store, merger, policy=POLICY, clock=self.clock, new_tag=new_tag, new_guest=lambda: "1"
        )
        limits = POLICY.limits
        self.model = Model(
            max_quantity=limits.max_quantity,
            max_items=limits.max_items,
            max_metadata=limits.max_metadata,
            max_idempotency_keys=POLICY.max_idempotency_keys,
            now=self.clock.now,
        )
        self.etags: dict[int, str] = {}  # of the model's states, as far as they were ever seen
        self.sent: list[Request] = []

    # ---- what happens to all ----

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 11), fault=faults)
    def repeat(self, which: int, fault: Any) -> None:
        """A request is delivered once more: a retry, or a network that doubles."""
        self.perform(self.sent[-1 - which % len(self.sent)], fault)

    def wait(self, milliseconds: int) -> None:
        """Time passes."""
        self.clock.advance(milliseconds)
        self.model.now = self.clock.now

    # ---- what must be so ----

    @invariant()
    def carts_are_as_they_should_be(self) -> None:
        """Each cart is what the model says, under an ETag that never named another state."""
        for user in USERS:
            self.compare(self.service.get(user), self.model.cart(user))

    @invariant()
    def records_are_bounded(self) -> None:
        """No more keys are remembered than the settings say."""
        for _, record in self.store.scan():
            assert len(record.idempotency_keys) <= POLICY.max_idempotency_keys

    # ---- how it is done ----

    def send(self, user: str, what: tuple[object, ...], conditions: dict[str, Any], fault: Any) -> None:
        """Send a new request."""
        tag = conditions["tag"]
        if tag is not None and tag >= 0:
            tag = sorted(self.etags)[-1 - tag % len(self.etags)] if self.etags else None
        request = Request(user, what, conditions["key"], tag, conditions["create"])
        self.sent.append(request)
        self.perform(request, fault)

    def perform(self, request: Request, fault: tuple[int, str] | None) -> None:
        """Send it to both, with the same fault, and compare what they say."""
        expected = self.expect(request, fault)
        planned = {fault[0]: crash} if fault else {}
        when = fault[1] if fault else ""
        self.store.plan(before=planned if when == "before" else {}, after=planned if when == "after" else {})
        told = self.call_and_catch(request)
        if isinstance(expected, str) or isinstance(told, str):
            assert told == expected
            return
        assert (told.status, told.replayed) == (expected.status, expected.replayed)
        cuts = [(cut.item_id, cut.code, cut.requested, cut.applied) for cut in told.adjustments]
        assert cuts == [(id_of(name), *rest) for name, *rest in expected.cuts]
        self.compare(told.cart, expected.cart)

    def call_and_catch(self, request: Request) -> Outcome | str:
        """What the service tells, the name of the error, or that nobody is left to tell anything."""
        try:
            return self.call(request)
        except Crash:
            return "crash"
        except CartsvcError as error:
            return type(error).__name__

    def expect(self, request: Request, fault: tuple[int, str] | None) -> Expected | str:
        """What the model tells, the name of the error, or that nobody is left to tell anything."""
        steps = self.model.run(request)
        writes = 0
        try:
            while True:
                moment = next(steps)
                writes += moment == "before"
                if (writes, moment) == fault:
                    steps.close()
                    return "crash"
        except StopIteration as end:
            told: Expected = end.value
            return told
        except Rejected as refused:
            return refused.kind

    def call(self, request: Request) -> Outcome:  # noqa: PLR0911 - one for each operation
        """Send it to the service."""
        user, (operation, *arguments) = request.user, request.what
        conditions = WriteConditions(
            key_digest=request.key.encode() if request.key else None,
            fingerprint=repr(request.what).encode(),
            if_match=None if request.wants is None else frozenset([self.etags.get(request.wants, "no-such-tag")]),
            if_none_match=ANY_TAG if request.create else None,
        )
        match operation, arguments:
            case "add", [lines]:
                return self.service.add(user, as_lines(lines), conditions=conditions)
            case "replace", [lines, metadata]:
                given = None if metadata is None else dict(metadata)
                return self.service.replace(user, as_lines(lines), currency=None, metadata=given, conditions=conditions)
            case "update", [changes]:
                return self.service.update_items(user, as_changes(changes), conditions=conditions)
            case "describe", [metadata]:
                return self.service.update(user, dict(metadata), conditions=conditions)
            case "remove_item", [name]:
                return self.service.remove_item(user, id_of(name), conditions=conditions)
            case "remove", []:
                return self.service.remove(user, conditions=conditions)
            case "merge", [source, strategy, on_limit]:
                return self.service.merge(user, source, strategy, on_limit, conditions=conditions)
        raise AssertionError(operation)

    def compare(self, cart: Cart | None, expected: model.Cart | None) -> None:
        """The cart is the one expected, and its ETag is that of its state and of no other."""
        if cart is None or expected is None:
            assert cart is expected
            return
        items = [(each.item_id, each.quantity, each.unit_price, each.added_at, each.metadata) for each in cart.items]
        assert items == [
            (id_of(name), each.quantity, each.price, each.added_at, each.metadata)
            for name, each in expected.items.items()
        ]
        assert (cart.currency, cart.metadata) == (expected.currency, expected.metadata)
        assert cart.version == expected.version
        assert (cart.created_at, cart.updated_at, cart.expires_at) == (
            expected.created_at,
            expected.updated_at,
            expected.expires_at,
        )
        if expected.state not in self.etags:
            assert cart.etag not in self.etags.values()
            self.etags[expected.state] = cart.etag
        assert cart.etag == self.etags[expected.state]


class ServiceMachine(Machine):
    """Every call with every term and fault, repetitions, and time that passes."""

    @rule(user=users, lines=some_lines(), conditions=conditions, fault=faults)
    def add(self, user: str, lines: tuple[object, ...], conditions: dict[str, Any], fault: Any) -> None:
        """A client adds."""
        self.send(user, ("add", lines), conditions, fault)

    @rule(user=users, lines=some_lines(), metadata=maybe_members, conditions=conditions, fault=faults)
    def replace(
        self, *, user: str, lines: tuple[object, ...], metadata: object, conditions: dict[str, Any], fault: Any
    ) -> None:
        """A client puts a whole cart."""
        self.send(user, ("replace", lines, metadata), conditions, fault)

    @rule(user=users, changes=some_changes(), conditions=conditions, fault=faults)
    def update(self, user: str, changes: tuple[Change, ...], conditions: dict[str, Any], fault: Any) -> None:
        """A client changes items: quantities, prices, metadata, sizes."""
        self.send(user, ("update", changes), conditions, fault)

    @rule(user=users, metadata=members, conditions=conditions, fault=faults)
    def describe(self, user: str, metadata: object, conditions: dict[str, Any], fault: Any) -> None:
        """A client sets the metadata of a cart."""
        self.send(user, ("describe", metadata), conditions, fault)

    @rule(user=users, product=products, conditions=conditions, fault=faults)
    def remove_item(self, user: str, product: str, conditions: dict[str, Any], fault: Any) -> None:
        """A client takes an item out."""
        self.send(user, ("remove_item", product), conditions, fault)

    @rule(user=users, conditions=conditions, fault=faults)
    def remove(self, user: str, conditions: dict[str, Any], fault: Any) -> None:
        """A client removes a cart."""
        self.send(user, ("remove",), conditions, fault)

    @rule(
        pair=st.permutations(USERS),
        strategy=st.sampled_from(["sum", "max", "keep", "replace"]),
        on_limit=on_limits,
        conditions=conditions,
        fault=faults,
    )
    def merge(self, *, pair: list[str], strategy: str, on_limit: str, conditions: dict[str, Any], fault: Any) -> None:
        """A client merges one cart into another."""
        self.send(pair[0], ("merge", pair[1], strategy, on_limit), conditions, fault)

    @rule(milliseconds=times)
    def some_time(self, milliseconds: int) -> None:
        """From a moment to a month."""
        self.wait(milliseconds)


class MergeMachine(Machine):
    """Merges that die on their way, and what meets them then: mostly such steps, so that they meet."""

    @rule(user=users, product=st.sampled_from("ab"), quantity=st.integers(1, 3), price=st.sampled_from([None, None, 1]))
    def add(self, user: str, product: str, quantity: int, price: int | None) -> None:
        """A client adds; what is sealed for long is settled by that."""
        self.send(user, ("add", (Line(product, quantity, price, MONEY[0]),)), NO_CONDITIONS, None)

    @rule(user=users, fault=deaths)
    def die_adding(self, user: str, fault: Any) -> None:
        """A client adds, and the process dies; perhaps while it settles."""
        self.send(user, ("add", (Line("c", 1),)), NO_CONDITIONS, fault)

    @rule(pair=pairs, strategy=strategies, on_limit=on_limits, key=keys, fault=deaths)
    def die_merging(self, *, pair: list[str], strategy: str, on_limit: str, key: str | None, fault: Any) -> None:
        """A client merges, and the process dies on the way."""
        self.send(pair[0], ("merge", pair[1], strategy, on_limit), NO_CONDITIONS | {"key": key}, fault)

    @rule(pair=pairs, strategy=strategies, on_limit=on_limits, key=keys)
    def merge(self, pair: list[str], strategy: str, on_limit: str, key: str | None) -> None:
        """A client merges."""
        self.send(pair[0], ("merge", pair[1], strategy, on_limit), NO_CONDITIONS | {"key": key}, None)

    @rule(user=users)
    def remove(self, user: str) -> None:
        """A client removes a cart."""
        self.send(user, ("remove",), NO_CONDITIONS, None)

    @rule(milliseconds=st.sampled_from([1_000, 6_000, 6_000, 61_000, 8 * DAY]))
    def some_time(self, milliseconds: int) -> None:
        """Mostly long enough for a seal to be old."""
        self.wait(milliseconds)


def as_lines(lines: Any) -> list[NewItem]:
    """The lines as the API reads them."""
    return [
        NewItem(
            name.partition("/")[0],
            quantity,
            options_of(name),
            price,
            None if price is None else money,
            metadata=None if metadata is None else dict(metadata),
        )
        for name, quantity, price, money, metadata in lines
    ]


def as_changes(changes: tuple[Change, ...]) -> list[ItemChange]:
    """The changes as the API reads them."""
    return [
        ItemChange(
            each.quantity,
            each.price,
            None if each.price is None else each.money,
            item_id=id_of(each.name),
            options=None if each.size is None else options_of(each.next_name),
            metadata=None if each.metadata is None else dict(each.metadata),
            pointer=f"/items/{number}",
        )
        for number, each in enumerate(changes)
    ]


# How much of what other searches take. Memory is the heart of the matter: 6,000 examples of each machine in a soak.
SHARES = {"memory": 4, "valkey": 1, "cluster": 1 / 2, "postgresql": 1 / 2}
# The contract of stores is the same for all, and has a model of its own; one server is enough for a run of the suite.
STORES = ["memory", "valkey", *[pytest.param(name, marks=pytest.mark.soak) for name in ("cluster", "postgresql")]]


@pytest.fixture(scope="module", params=STORES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Each store in turn."""
    with ExitStack() as stack:
        match request.param:
            case "valkey":
                url = stack.enter_context(valkey()).url
            case "cluster":
                nodes = stack.enter_context(cluster())
                url = "valkey+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
            case "postgresql":
                there: Postgresql = request.getfixturevalue("postgresql_server")
                url = there.url_of(there.empty_database())
            case _:
                url = "memory://"
        stage = Stage(url, share=SHARES[request.param])
        yield stage
        stage.store.close()


def test_the_service_does_what_the_model_does(stage: Stage) -> None:
    """Whatever is called in whatever order, dies on its way, is repeated, or expires."""
    run_state_machine_as_test(lambda: ServiceMachine(stage), settings=stage.settings)


def test_merges_do_what_the_model_does(stage: Stage) -> None:
    """Merges that die at any of their writes, and whoever meets them."""
    run_state_machine_as_test(lambda: MergeMachine(stage), settings=stage.settings)
