"""Holds the use cases to what the contract says of carts over time: making, changing, expiring, and many at once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartsvc.carts.cart import Cart, Limits, subtotal
from cartsvc.carts.conditions import Outcome, WriteConditions
from cartsvc.carts.record import IdempotencyKey, MergeMark, Policy, Record, Seal
from cartsvc.carts.validation import ItemChange, NewItem
from cartsvc.errors import (
    CartNotFound,
    CartsvcError,
    CurrencyMismatch,
    InvalidRequest,
    ItemNotFound,
    LimitExceeded,
    StoreError,
    StoreFull,
)
from tests.support import strategies
from tests.support.clock import FakeClock
from tests.support.memory_store import MemoryStore
from tests.support.records import at_once
from tests.support.services import make_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cartsvc.carts.service import CartService

TTL = 10_000  # milliseconds
NONE = WriteConditions()


class Shop:
    """A service over a store of its own, with a clock to turn and tags that count."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock, limit=2**30)
        self.service = self.with_limits(limits or Limits())

    def with_limits(self, limits: Limits) -> CartService:
        """The service, started again with other limits."""
        return make_service(self.store, self.clock, policy=Policy(limits=limits, cart_ttl_ms=TTL))

    def add(self, *lines: NewItem, user: str = "u") -> Cart:
        """Add without terms; returns the cart answered."""
        return there(self.service.add(user, lines, conditions=NONE))

    def replace(self, lines: Sequence[NewItem]) -> Outcome:
        """Replace without terms."""
        return self.service.replace("u", lines, currency=None, conditions=NONE)

    def record(self) -> Record:
        """What the store keeps for u."""
        record = self.store.get("u")
        assert record is not None
        return record

    def cart(self) -> Cart:
        """What u reads."""
        cart = self.service.get("u")
        assert cart is not None
        return cart


def there(outcome: Outcome) -> Cart:
    """The cart of an answer that has one."""
    assert outcome.cart is not None
    return outcome.cart


@pytest.fixture
def shop() -> Shop:
    return Shop()


# ---- absent and empty ----


def test_what_was_never_made_is_absent(shop: Shop) -> None:
    """Nothing but adding and replacing makes a cart; reading, changing and removing find none."""
    tries: list[Callable[[], object]] = [
        lambda: shop.service.get_item("u", "a"),
        lambda: shop.service.update_item("u", "a", ItemChange(quantity=1), conditions=NONE),
        lambda: shop.service.update_item("u", "a", ItemChange(quantity=0), conditions=NONE),
        lambda: shop.service.remove_item("u", "a", conditions=NONE),
        lambda: shop.service.remove("u", conditions=NONE),
    ]
    for each in tries:
        with pytest.raises(CartNotFound):
            each()
        assert shop.service.get("u") is None
        assert list(shop.store.scan()) == []


def test_a_cart_without_items_is_there(shop: Shop) -> None:
    """Taking the last item out leaves an empty cart, and so does replacing by nothing; removing leaves none."""
    shop.add(NewItem("a", 1))
    assert there(shop.service.remove_item("u", "a", conditions=NONE)).items == ()
    assert shop.cart().items == ()
    with pytest.raises(ItemNotFound):
        shop.service.get_item("u", "a")
    shop.service.remove("u", conditions=NONE)
    assert shop.service.get("u") is None
    assert list(shop.store.scan()) == []
    assert shop.replace([]).status == 201
    assert shop.cart().items == ()


def test_an_item_is_read_with_its_cart(shop: Shop) -> None:
    """What is needed for the item's answer and its ETag."""
    shop.add(NewItem("a", 1), NewItem("b", 2))
    cart, item = shop.service.get_item("u", "b")
    assert cart == shop.cart()
    assert item is cart.items[1]


def test_created_tells_whether_there_was_a_cart(shop: Shop) -> None:
    """201 when it was absent: never made, removed or expired; an empty cart is not absent."""

    def created() -> bool:
        return {201: True, 200: False}[shop.replace([NewItem("a", 1)]).status]

    assert created() is True
    assert created() is False
    shop.service.remove_item("u", "a", conditions=NONE)
    assert created() is False
    shop.service.remove("u", conditions=NONE)
    assert created() is True
    shop.clock.advance(TTL - 1)
    assert created() is False
    shop.clock.advance(1)
    assert created() is True


def test_a_replaced_cart_is_answered_and_stored(shop: Shop) -> None:
    """The answer is what is read afterwards; the request's currency stands for lines that state none."""
    shop.add(NewItem("old", 1))
    lines = [NewItem("b", 2, unit_price=3), NewItem("a", 1, unit_price=4)]
    cart = there(shop.service.replace("u", lines, currency="EUR", conditions=NONE))
    assert cart == shop.cart()
    assert [(item.item_id, item.quantity) for item in cart.items] == [("b", 2), ("a", 1)]
    assert (cart.currency, subtotal(cart.items)) == ("EUR", 10)


# ---- time ----


def test_a_change_slides_the_expiry_and_a_read_does_not(shop: Shop) -> None:
    """A cart expires so long after its last change."""
    made = shop.clock()
    assert shop.add(NewItem("a", 1)).expires_at == made + TTL
    shop.clock.advance(TTL - 1)
    assert shop.cart().expires_at == made + TTL
    shop.service.get_item("u", "a")
    changed = shop.clock()
    cart = shop.add(NewItem("a", 1))
    assert (cart.created_at, cart.updated_at, cart.expires_at) == (made, changed, changed + TTL)
    assert shop.record().expires_at == changed + TTL
    shop.clock.advance(TTL - 1)
    assert shop.cart() == cart
    shop.clock.advance(1)
    assert shop.service.get("u") is None
    with pytest.raises(CartNotFound):
        shop.service.remove("u", conditions=NONE)


def test_a_request_that_changes_nothing_slides_nothing(shop: Shop) -> None:
    """Setting what is set and putting what is there leave cart, record and expiry as they are."""
    lines = [NewItem("a", 2, unit_price=5, currency="EUR")]
    shop.add(*lines)
    before = shop.record()
    shop.clock.advance(TTL // 2)
    shop.service.update_item("u", "a", ItemChange(quantity=2), conditions=NONE)
    shop.service.update_item("u", "a", ItemChange(unit_price=5, currency="EUR"), conditions=NONE)
    assert shop.replace(lines).status == 200
    assert shop.record() == before
    shop.clock.advance(TTL // 2)
    assert shop.service.get("u") is None


def test_an_expired_cart_leaves_nothing_to_the_next(shop: Shop) -> None:
    """A cart made after another has expired begins at version 1, with its own items, times and currency."""
    shop.add(NewItem("a", 1, unit_price=5, currency="EUR"))
    shop.clock.advance(TTL)
    cart = shop.add(NewItem("b", 1, unit_price=5, currency="USD"))
    assert (cart.version, cart.created_at, cart.currency) == (1, shop.clock(), "USD")
    assert [item.item_id for item in cart.items] == ["b"]


@pytest.mark.parametrize("how", ["added", "replaced"])
def test_a_cart_expires_by_its_own_time(shop: Shop, how: str) -> None:
    """A record that outlives its cart keeps its keys and marks; the next cart is a new one, and bears no seal."""
    shop.add(NewItem("a", 1))
    now = shop.clock()
    keys, marks = (IdempotencyKey(b"k", b"r", 200, now),), (MergeMark("m", "s", True, now, now + 9 * TTL),)  # noqa: FBT003 - its own field
    seal = Seal("i", "t", "sum", now)
    put = Record("t", shop.cart(), keys, marks, seal, now + 9 * TTL)
    shop.store.update("u", lambda _: (put, None))
    shop.clock.advance(TTL)
    assert shop.service.get("u") is None
    with pytest.raises(CartNotFound):
        shop.service.remove_item("u", "a", conditions=NONE)
    if how == "added":
        cart = shop.add(NewItem("b", 1))
    else:
        outcome = shop.replace([NewItem("b", 1)])
        assert outcome.status == 201
        cart = there(outcome)
    assert (cart.version, cart.created_at, [item.item_id for item in cart.items]) == (1, shop.clock(), ["b"])
    record = shop.record()
    assert (record.idempotency_keys, record.merge_marks, record.seal) == (keys, marks, None)


# ---- tags, ETags and versions ----


def test_versions_count_changes(shop: Shop) -> None:
    """From 1, one for each change, and none for what changes nothing."""
    versions = [
        shop.add(NewItem("a", 1), NewItem("b", 1)).version,
        shop.add(NewItem("a", 1)).version,
        there(shop.service.update_item("u", "a", ItemChange(quantity=2), conditions=NONE)).version,
        there(shop.service.update_item("u", "a", ItemChange(quantity=0), conditions=NONE)).version,
        there(shop.service.remove_item("u", "b", conditions=NONE)).version,
        there(shop.replace([])).version,
        there(shop.replace([NewItem("c", 1)])).version,
    ]
    assert versions == [1, 2, 2, 3, 4, 4, 5]


OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.lists(strategies.lines(currencies=("EUR", "EUR", "USD")), min_size=1, max_size=3)),
    st.tuples(st.just("replace"), st.lists(strategies.lines(), max_size=3)),
    st.tuples(st.just("again"), st.none()),
    st.tuples(st.just("set"), st.tuples(st.integers(0, 3), st.integers(0, 60))),
    st.tuples(st.just("remove item"), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.none()),
    st.tuples(st.just("read"), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([1, TTL // 2, TTL])),
)


@given(st.lists(OPERATIONS, max_size=25))
def test_the_etag_is_new_when_the_cart_changes_and_only_then(operations: list[tuple[str, object]]) -> None:
    """In any sequence of calls; every write of the record has a new tag, and what is refused writes nothing."""
    shop = Shop(limits=Limits(max_quantity=50, max_items=4))
    etags: set[str] = set()
    tags: set[str] = set()
    for operation in operations:
        before, cart_before = shop.store.get("u"), shop.service.get("u")
        refused = _try(shop, cart_before, *operation)
        record, cart = shop.store.get("u"), shop.service.get("u")
        if cart is None or record is None:
            assert operation[0] in {"remove", "wait"} or cart_before is None
            continue
        if refused or (cart_before is not None and _content(cart) == _content(cart_before)):
            assert (cart, record) == (cart_before, before)
            continue
        assert cart.version == (cart_before.version + 1 if cart_before else 1)
        assert cart.etag not in etags
        assert record.tag not in tags
        assert record.expires_at == cart.expires_at == shop.clock() + TTL
        etags.add(cart.etag)
        tags.add(record.tag)


def _content(cart: Cart) -> tuple[object, ...]:
    return (cart.items, cart.currency, cart.created_at)


def _try(shop: Shop, cart: Cart | None, kind: str, what: object) -> bool:
    """Do it; returns whether it was refused."""
    ids = [item.item_id for item in cart.items] if cart else []
    service = shop.service
    try:
        match kind, what:
            case "add", list(lines):
                service.add("u", lines, conditions=NONE)
            case "replace", list(lines):
                service.replace("u", lines, currency=None, conditions=NONE)
            case "again", _ if cart:
                lines = [NewItem(i.product_id, i.quantity, dict(i.options), i.unit_price) for i in cart.items]
                service.replace("u", lines, currency=cart.currency, conditions=NONE)
            case "set", (int(place), int(quantity)):
                wanted = [*ids, "none such"][place % (len(ids) + 1)]
                service.update_item("u", wanted, ItemChange(quantity=quantity), conditions=NONE)
            case "remove item", int(place):
                service.remove_item("u", [*ids, "none such"][place % (len(ids) + 1)], conditions=NONE)
            case "remove", _:
                service.remove("u", conditions=NONE)
            case "wait", int(milliseconds):
                shop.clock.advance(milliseconds)
            case _:
                service.get("u")
    except CartsvcError:
        return True
    return False


# ---- refusals ----


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.add("u", [NewItem("b", 1), NewItem("a", 0)], conditions=NONE), InvalidRequest),
        (lambda s: s.add("u", [NewItem("b", 1), NewItem("a", 6)], conditions=NONE), LimitExceeded),
        (
            lambda s: s.add("u", [NewItem("b", 1), NewItem("c", 1, unit_price=1, currency="USD")], conditions=NONE),
            CurrencyMismatch,
        ),
        (lambda s: s.add("u", [NewItem(each, 1) for each in "bcd"], conditions=NONE), LimitExceeded),
        (
            lambda s: s.replace("u", [NewItem(each, 1) for each in "bcde"], currency=None, conditions=NONE),
            InvalidRequest,
        ),
        (lambda s: s.replace("u", [], currency="eur", conditions=NONE), InvalidRequest),
        (lambda s: s.update_item("u", "a", ItemChange(), conditions=NONE), InvalidRequest),
        (lambda s: s.update_item("u", "a", ItemChange(quantity=11), conditions=NONE), InvalidRequest),
        (lambda s: s.update_item("u", "b", ItemChange(quantity=1), conditions=NONE), ItemNotFound),
        (
            lambda s: s.update_item("u", "a", ItemChange(unit_price=1, currency="USD"), conditions=NONE),
            CurrencyMismatch,
        ),
        (lambda s: s.remove_item("u", "b", conditions=NONE), ItemNotFound),
    ],
)
def test_what_is_refused_changes_nothing(call: Callable[[CartService], object], error: type[CartsvcError]) -> None:
    """Nothing is clamped and nothing half done: the record is the one it was."""
    shop = Shop(limits=Limits(max_quantity=10, max_items=3))
    shop.add(NewItem("a", 5, unit_price=1, currency="EUR"))
    before = shop.record()
    shop.clock.advance(1)
    with pytest.raises(error):
        call(shop.service)
    assert shop.record() == before


def test_a_wrong_change_is_told_before_the_cart_is_looked_for(shop: Shop) -> None:
    """A request that is wrong by itself is wrong whatever there is."""
    with pytest.raises(InvalidRequest):
        shop.service.update_item("absent", "a", ItemChange(quantity=-1), conditions=NONE)


def test_a_full_store_changes_nothing() -> None:
    """The cart that cannot grow stays as it was, can be made smaller and removed."""
    shop = Shop()
    shop.add(NewItem("a", 5))
    before = shop.record()
    shop.store.leave_no_room()
    with pytest.raises(StoreFull):
        shop.add(*[NewItem(f"b{n}", 1, {"o": "x" * 200}) for n in range(9)])
    assert shop.record() == before
    assert there(shop.service.update_item("u", "a", ItemChange(quantity=1), conditions=NONE)).items[0].quantity == 1
    shop.service.remove("u", conditions=NONE)
    assert shop.service.get("u") is None


def test_a_lowered_limit_leaves_carts_usable(shop: Shop) -> None:
    """After a restart with lower limits a cart that is past them can shrink and be changed, and does not grow."""
    shop.add(*[NewItem(each, 50) for each in "abc"])
    later = shop.with_limits(Limits(max_quantity=10, max_items=2))
    with pytest.raises(LimitExceeded):
        later.add("u", [NewItem("a", 1)], conditions=NONE)
    with pytest.raises(LimitExceeded):
        later.add("u", [NewItem("d", 1)], conditions=NONE)
    later.update_item("u", "a", ItemChange(unit_price=5, currency="EUR"), conditions=NONE)
    later.update_item("u", "b", ItemChange(quantity=10), conditions=NONE)
    cart = there(later.remove_item("u", "c", conditions=NONE))
    assert [(item.item_id, item.quantity) for item in cart.items] == [("a", 50), ("b", 10)]


def test_it_is_ready_when_its_store_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the store says of itself comes through."""
    shop.service.check_ready()

    def away() -> None:
        raise StoreError

    monkeypatch.setattr(shop.store, "ping", away)
    with pytest.raises(StoreError):
        shop.service.check_ready()


def test_users_do_not_meet(shop: Shop) -> None:
    """What one user does leaves the others' carts as they were."""
    shop.add(NewItem("a", 1))
    other = shop.add(NewItem("b", 2), user="U")
    shop.service.remove("u", conditions=NONE)
    assert shop.service.get("U") == other


# ---- many at once ----


@pytest.fixture
def _switching() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_switching")
def test_adds_that_race_all_count() -> None:
    """32 threads add to one cart, each also an item of its own: all totals are exact, the version counts each add."""
    shop = Shop(limits=Limits(max_quantity=10**6))

    def work(number: int) -> None:
        for _ in range(100):
            shop.add(NewItem("shared", 1), NewItem(f"own-{number}", 2))

    at_once(32, work)
    cart = shop.cart()
    assert {item.item_id: item.quantity for item in cart.items} == {
        "shared": 3200,
        **{f"own-{number}": 200 for number in range(32)},
    }
    assert cart.version == 3200


@pytest.mark.usefixtures("_switching")
def test_a_limit_holds_in_a_race() -> None:
    """Of many adds that race for the last places exactly as many are accepted as there are places."""
    shop = Shop(limits=Limits(max_quantity=500))
    accepted: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            try:
                shop.add(NewItem("a", 1))
            except LimitExceeded:
                continue
            accepted.append(number)

    at_once(32, work)
    assert len(accepted) == 500
    assert shop.cart().items[0].quantity == 500


@pytest.mark.usefixtures("_switching")
def test_one_of_many_makes_the_cart() -> None:
    """Of many replacements and removals that race, created and removed alternate: each cart is made once."""
    shop = Shop()
    made: list[int] = []
    removed: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if shop.replace([NewItem("a", 1 + number)]).status == 201:
                made.append(number)
            if number % 2:
                try:
                    shop.service.remove("u", conditions=NONE)
                except CartNotFound:
                    continue
                removed.append(number)

    at_once(32, work)
    assert len(made) - len(removed) == (shop.service.get("u") is not None)
    assert len(made) > 1
