"""The real server and the model side by side: keys, tags, repetitions, answers that get lost, duplicates that race."""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cartsvc import errors
from cartsvc.api.problems import PROBLEM_BY_ERROR
from tests.support.carts import id_of, options_of
from tests.support.http_clients import SECONDS, Client, Response
from tests.support.model import Change, Expected, Line, Model, Rejected, Request
from tests.support.servers import serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from tests.support import model
    from tests.support.postgresqls import Postgresql
    from tests.support.servers import Server

MAX_QUANTITY, MAX_ITEMS, MAX_METADATA, MAX_KEYS = 9, 3, 2, 3
SETTINGS = {
    "CARTSVC_MAX_QUANTITY": str(MAX_QUANTITY),
    "CARTSVC_MAX_ITEMS": str(MAX_ITEMS),
    "CARTSVC_MAX_METADATA": str(MAX_METADATA),
    "CARTSVC_IDEMPOTENCY_KEYS": str(MAX_KEYS),
    "CARTSVC_KEEP_ALIVE": "3600",  # a connection waits for hypothesis, not for a shopper
}
PRODUCTS = ["a", "a/M", "b", "c"]  # a product, or a product and its size
DAY = 86_400

users = st.integers(0, 2)
products = st.sampled_from(PRODUCTS)
money = st.sampled_from(["EUR", "USD"])
prices = st.none() | st.integers(0, 3)
strategies = st.sampled_from(["sum", "max", "keep", "replace"])
on_limits = st.sampled_from(["refuse", "clamp"])
members = st.sampled_from([(), (("n", "1"),), (("n", "2"),), (("m", "1"), ("n", "1"))])
maybe_members = st.none() | members
keys = st.none() | st.sampled_from(["k1", "k2", "k3", "k4", "k5"])
fates = st.sampled_from(["answered", "answered", "answered", "lost", "doubled"])
examples = count(1)


class Conditions(NamedTuple):
    """What a request says beside what to do. ``tag`` is the place of a state in all that were seen, -1 none of them."""

    key: str | None
    tag: int | None
    create: bool


NO_CONDITIONS = Conditions(None, None, create=False)
conditions = st.just(NO_CONDITIONS) | st.builds(
    Conditions, key=keys, tag=st.none() | st.integers(-1, 5), create=st.sampled_from([False, False, False, True])
)


@st.composite
def some_lines(draw: st.DrawFn) -> tuple[Line, ...]:
    """One or two lines, in one currency, right by themselves."""
    currency = draw(money)
    lines = draw(st.lists(st.tuples(products, st.integers(1, 4), prices, maybe_members), min_size=1, max_size=2))
    return tuple(Line(name, quantity, price, currency, metadata) for name, quantity, price, metadata in lines)


@st.composite
def some_changes(draw: st.DrawFn) -> tuple[Change, ...]:
    """Changes of one or two items, in one currency, right by themselves."""
    currency, found = draw(money), []
    for name in draw(st.lists(products, min_size=1, max_size=2, unique=True)):
        quantity, price, metadata = draw(st.none() | st.integers(0, MAX_QUANTITY)), draw(prices), draw(maybe_members)
        size = draw(st.sampled_from([None, None, "", "M"]))
        if (quantity, price, metadata, size) == (None, None, None, None):
            quantity = 1
        found.append(Change(name, quantity, price, currency, metadata, size))
    return tuple(found)


class HttpMachine(RuleBasedStateMachine):
    """The server, the model, and how to send both the same and compare. Carts of an example are its own."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.client = Client(url)
        example = next(examples)
        self.users = [f"alice-{example}", f"bob-{example}", f"guest-{example}"]
        self.model = Model(
            max_quantity=MAX_QUANTITY,
            max_items=MAX_ITEMS,
            max_metadata=MAX_METADATA,
            max_idempotency_keys=MAX_KEYS,
            now=0,
        )
        self.etags: dict[int, str] = {}  # of the model's states, as far as they were ever seen
        self.sent: list[Request] = []

    def teardown(self) -> None:
        """Let the connection go."""
        self.client.connection.close()

    # ---- what can happen ----

    @rule(user=users, lines=some_lines(), conditions=conditions, fate=fates)
    def add(self, user: int, lines: tuple[object, ...], conditions: Conditions, fate: str) -> None:
        """A client adds."""
        self.send(user, ("add", lines), conditions, fate)

    @rule(user=users, lines=some_lines(), metadata=maybe_members, conditions=conditions, fate=fates)
    def replace(
        self, *, user: int, lines: tuple[object, ...], metadata: object, conditions: Conditions, fate: str
    ) -> None:
        """A client puts a whole cart."""
        self.send(user, ("replace", lines, metadata), conditions, fate)

    @rule(user=users, changes=some_changes(), conditions=conditions, fate=fates)
    def update(self, user: int, changes: tuple[Change, ...], conditions: Conditions, fate: str) -> None:
        """A client changes items: quantities, prices, metadata, sizes."""
        self.send(user, ("update", changes), conditions, fate)

    @rule(user=users, metadata=members, conditions=conditions, fate=fates)
    def describe(self, user: int, metadata: object, conditions: Conditions, fate: str) -> None:
        """A client sets the metadata of a cart."""
        self.send(user, ("describe", metadata), conditions, fate)

    @rule(user=users, product=products, conditions=conditions, fate=fates)
    def remove_item(self, user: int, product: str, conditions: Conditions, fate: str) -> None:
        """A client takes an item out."""
        self.send(user, ("remove_item", product), conditions, fate)

    @rule(user=users, conditions=conditions, fate=fates)
    def remove(self, user: int, conditions: Conditions, fate: str) -> None:
        """A client removes a cart."""
        self.send(user, ("remove",), conditions, fate)

    @rule(pair=st.permutations(range(3)), strategy=strategies, on_limit=on_limits, conditions=conditions, fate=fates)
    def merge(self, *, pair: list[int], strategy: str, on_limit: str, conditions: Conditions, fate: str) -> None:
        """A client merges one cart into another."""
        self.send(pair[0], ("merge", self.users[pair[1]], strategy, on_limit), conditions, fate)

    @rule(pair=st.permutations(range(3)), key=keys, fate=fates)
    def sign_in(self, pair: list[int], key: str | None, fate: str) -> None:
        """A client merges one cart into another, and does so once more."""
        self.send(pair[0], ("merge", self.users[pair[1]], "max", "refuse"), Conditions(key, None, create=False), fate)
        self.perform(self.sent[-1], fate)

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 7), fate=fates)
    def repeat(self, which: int, fate: str) -> None:
        """A request is sent once more: a retry after a lost answer, or one long after."""
        self.perform(self.sent[-1 - which % len(self.sent)], fate)

    # ---- what must be so ----

    @invariant()
    def carts_are_as_they_should_be(self) -> None:
        """Each cart is what the model says, under an ETag that never named another state."""
        for user in self.users:
            response = self.client.call("GET", f"/cart/{user}")
            assert response.status == 200
            self.compare(response.body, response.headers["ETag"], self.model.cart(user))

    # ---- how it is done ----

    def send(self, user: int, what: tuple[object, ...], conditions: Conditions, fate: str) -> None:
        """Send a new request."""
        state = conditions.tag
        if state is not None and state >= 0:
            seen = sorted(self.etags)
            state = seen[-1 - state % len(seen)] if seen else None
        request = Request(self.users[user], what, conditions.key, state, conditions.create)
        self.sent.append(request)
        self.perform(request, fate)

    def perform(self, request: Request, fate: str) -> None:
        """Send it to both and compare what they say.

        An answer may be lost: its client is gone before it comes. A request with a key may be sent once more at the
        same time, on another connection: whichever comes first is done, and the other one is its repetition.
        """
        self.wait_a_moment()
        expected = self.expect(request)
        if fate == "answered" or (fate == "doubled" and request.key is None):
            self.compare_answers(self.call(request), expected)
            return
        with Client(self.url) as lost:
            self.write(lost, request)
            lost.connection.sock.shutdown(socket.SHUT_WR)
            if fate == "doubled":
                self.compare_answers(self.call(request), expected, doubled=True)
            # It is done when an answer comes, which nobody reads.
            assert select.select([lost.connection.sock], [], [], SECONDS)[0] != []
            assert lost.connection.sock.recv(1, socket.MSG_PEEK) != b""

    def wait_a_moment(self) -> None:
        """The next item is added at another time: a merge that brings the same item of another time is a change."""
        last = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == last:
            pass
        self.model.now += 1

    def expect(self, request: Request) -> Expected | str:
        """What the model tells, or the name of the error."""
        steps = self.model.run(request)
        try:
            while True:
                next(steps)
        except StopIteration as end:
            told: Expected = end.value
            return told
        except Rejected as refused:
            return refused.kind

    def call(self, request: Request) -> Response:
        """Send it and read its answer."""
        self.write(self.client, request)
        return self.client.answer()

    def write(self, client: Client, request: Request) -> None:
        """Send it."""
        method, rest, body = as_http(request.what)
        conditions = {}
        if request.key is not None:
            conditions["Idempotency_Key"] = request.key
        if request.wants is not None:
            conditions["If_Match"] = self.etags.get(request.wants, '"no-such-tag"')
        if request.create:
            conditions["If_None_Match"] = "*"
        client.send(method, f"/cart/{request.user}{rest}", body, **conditions)

    def compare_answers(self, response: Response, expected: Expected | str, *, doubled: bool = False) -> None:
        """The answer is what the model tells; of two at the same time either may be the first."""
        if isinstance(expected, str):
            assert told_of(response) == problem_of(expected)
            return
        assert response.status == expected.status, response.body
        replayed = response.headers["Idempotency-Replayed"] == "true"
        assert replayed == expected.replayed or (doubled and replayed)
        if response.body is not None:
            self.compare(response.body, response.headers["ETag"], expected.cart)
        if response.body is not None and "adjustments" in response.body and not (doubled and replayed):
            cuts = [tuple(each.values()) for each in response.body["adjustments"]]
            assert cuts == [(id_of(name), *rest) for name, *rest in expected.cuts]

    def compare(self, body: dict[str, Any], etag: str | None, expected: model.Cart | None) -> None:
        """The cart is the one expected, and its ETag is that of its state and of no other."""
        if expected is None:
            assert (body["version"], body["items"], etag) == (0, [], None)
            return
        items = [(item["item_id"], item["quantity"], item["unit_price"], item["metadata"]) for item in body["items"]]
        assert items == [
            (id_of(name), item.quantity, item.price, dict(item.metadata)) for name, item in expected.items.items()
        ]
        assert (body["currency"], body["version"]) == (expected.currency, expected.version)
        assert body["metadata"] == dict(expected.metadata)
        if expected.state not in self.etags:
            assert etag is not None
            assert etag not in self.etags.values()
            self.etags[expected.state] = etag
        assert etag == self.etags[expected.state]


def as_http(what: tuple[Any, ...]) -> tuple[str, str, object]:  # noqa: PLR0911 - one for each operation
    """Method, rest of the path and body of an operation."""
    operation, *arguments = what
    match operation, arguments:
        case "add", [lines]:
            return "POST", "/items", {"items": [as_line(each) for each in lines]}
        case "replace", [lines, metadata]:
            return "PUT", "", {"items": [as_line(each) for each in lines], **as_metadata(metadata)}
        case "update", [[change]]:  # one change is the call for one item
            return "PATCH", f"/items/{id_of(change.name)}", as_change(change)
        case "update", [changes]:
            return "PATCH", "/items", {"items": [{"item_id": id_of(each.name), **as_change(each)} for each in changes]}
        case "describe", [metadata]:
            return "PATCH", "", as_metadata(metadata)
        case "remove_item", [name]:
            return "DELETE", f"/items/{id_of(name)}", None
        case "remove", []:
            return "DELETE", "", None
        case "merge", [source, strategy, on_limit]:
            return "POST", "/merge", {"from_user_id": source, "strategy": strategy, "on_limit": on_limit}
    raise AssertionError(operation)


def as_line(line: Line) -> dict[str, object]:
    """A line as the API reads it."""
    name, quantity, price, currency, metadata = line
    product = name.partition("/")[0]
    members = {"product_id": product, "quantity": quantity, "options": options_of(name)}
    return {**members, **as_price(price, currency), **as_metadata(metadata)}


def as_change(change: Change) -> dict[str, object]:
    """A change as the API reads it."""
    members: dict[str, object] = {"quantity": change.quantity, **as_price(change.price, change.money)}
    if change.size is not None:
        members["options"] = options_of(change.next_name)
    return {**members, **as_metadata(change.metadata)}


def as_metadata(metadata: Any) -> dict[str, object]:
    """Metadata as the API reads it, or nothing."""
    return {} if metadata is None else {"metadata": dict(metadata)}


def as_price(price: int | None, currency: str) -> dict[str, object]:
    """A price as the API reads it, or nothing."""
    return {} if price is None else {"unit_price": price, "currency": currency}


def told_of(response: Response) -> tuple[int, str]:
    """The status and the slug of a problem."""
    assert response.headers["Content-Type"] == "application/problem+json", response
    return response.status, response.body["type"].removeprefix("urn:cartsvc:problem:")


def problem_of(name: str) -> tuple[int, str]:
    """How the API tells this error."""
    kind = PROBLEM_BY_ERROR[getattr(errors, name)]
    return kind.status, kind.slug


@pytest.mark.parametrize("threads", ["0", "4"], ids=["gevent", "threads"])
def test_the_server_does_what_the_model_says(threads: str) -> None:
    """Every accepted change is in effect exactly once, whatever is repeated, doubled or never answered."""
    with serve(**SETTINGS, CARTSVC_THREADS=threads) as server:
        search(server, share=1 / 2)


@pytest.mark.parametrize(
    ("store", "threads"),
    [
        ("valkey", "0"),
        ("valkey", "4"),
        pytest.param("postgresql", "0", marks=pytest.mark.soak),
    ],
)
def test_several_workers_do_what_the_model_says(store: str, threads: str, request: pytest.FixtureRequest) -> None:
    """So it is on a server, when each request may be answered by another of three processes."""
    with ExitStack() as stack:
        if store == "valkey":
            url = stack.enter_context(valkey()).url
        else:
            there: Postgresql = request.getfixturevalue("postgresql_server")
            url = there.url_of(there.empty_database())
        workers = {"CARTSVC_STORE_URL": url, "CARTSVC_THREADS": threads, "WEB_CONCURRENCY": "3"}
        server = stack.enter_context(serve(**SETTINGS, **workers))
        search(server, share=1 / 6)


def search(server: Server, *, share: float) -> None:
    """Each step is a few requests: only a share of the examples that are tried elsewhere."""
    few = settings(max_examples=max(1, int(share * settings().max_examples)))
    run_state_machine_as_test(lambda: HttpMachine(server.url), settings=few)
