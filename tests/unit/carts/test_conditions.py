"""Holds the writes to the terms that clients put on them: keys that make retries safe, and preconditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cartsvc.carts.cart import Cart, Limits
from cartsvc.carts.conditions import ANY_TAG, Outcome, WriteConditions
from cartsvc.carts.record import Policy, Record
from cartsvc.carts.validation import ItemChange, NewItem
from cartsvc.errors import (
    CartNotFound,
    CartSealed,
    CartsvcError,
    CurrencyMismatch,
    IdempotencyKeyReused,
    InvalidRequest,
    ItemNotFound,
    LimitExceeded,
    PreconditionFailed,
    StoreFull,
)
from tests.support.clock import FakeClock
from tests.support.faults import Crash, FaultyStore, crash
from tests.support.memory_store import MemoryStore
from tests.support.services import make_service, racing

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.service import CartService

    Call = Callable[[CartService, WriteConditions], Outcome]

HOUR = 3_600_000
DAY = 24 * HOUR
POLICY = Policy(limits=Limits(max_quantity=50), guest_ttl_ms=HOUR)
NONE = WriteConditions()


class Shop:
    """A service over a store of its own; its carts live a month, guests' an hour, keys a day."""

    def __init__(self, *, policy: Policy = POLICY) -> None:
        self.clock = FakeClock()
        self.store = FaultyStore(MemoryStore(clock=self.clock, limit=2**30))
        self.service = make_service(self.store, self.clock, policy=policy)

    def add(self, quantity: int = 1, *, user: str = "u", conditions: WriteConditions = NONE) -> Outcome:
        """Add so many of a."""
        return self.service.add(user, [NewItem("a", quantity)], conditions=conditions)

    def cart(self, user: str = "u") -> Cart:
        """What the user reads."""
        cart = self.service.get(user)
        assert cart is not None
        return cart

    def record(self, user: str = "u") -> Record:
        """What the store keeps."""
        record = self.store.get(user)
        assert record is not None
        return record

    def quantity(self, user: str = "u") -> int:
        """How many items the user has."""
        cart = self.service.get(user)
        return sum(item.quantity for item in cart.items) if cart else 0


@pytest.fixture
def shop() -> Shop:
    return Shop()


def keyed(key: str = "k", request: str = "r", **more: frozenset[str] | None) -> WriteConditions:
    """An Idempotency-Key, on a request that says this."""
    return WriteConditions(key.encode(), request.encode(), **more)


def tag(*tags: str) -> frozenset[str]:
    return frozenset(tags)


def seal(shop: Shop, user: str, *, target: str = "elsewhere") -> None:
    """Begin to merge the user's cart away, and crash after its second step."""
    shop.store.plan(after={2: crash})
    with pytest.raises(Crash):
        shop.service.merge(target, user, "sum", conditions=NONE)
    shop.store.plan()


# Each write on a cart that holds one a and one b, and its status.
WRITES: dict[str, tuple[Call, int]] = {
    "add": (lambda s, conditions: s.add("u", [NewItem("a", 2)], conditions=conditions), 200),
    "replace": (lambda s, conditions: s.replace("u", [NewItem("c", 2)], currency=None, conditions=conditions), 200),
    "set_item": (lambda s, conditions: s.update_item("u", "a", ItemChange(quantity=5), conditions=conditions), 200),
    "remove_item": (lambda s, conditions: s.remove_item("u", "a", conditions=conditions), 200),
    "remove": (lambda s, conditions: s.remove("u", conditions=conditions), 204),
    "merge": (lambda s, conditions: s.merge("u", "other", "sum", conditions=conditions), 200),
    "merge of an absent cart": (lambda s, conditions: s.merge("u", "nobody", "replace", conditions=conditions), 200),
}
each_write = pytest.mark.parametrize(("call", "status"), WRITES.values(), ids=list(WRITES))


def fill(shop: Shop) -> None:
    shop.service.add("u", [NewItem("a", 1), NewItem("b", 1)], conditions=NONE)
    shop.service.add("other", [NewItem("a", 1)], conditions=NONE)


# ---- keys ----


@each_write
def test_a_repetition_changes_nothing_and_answers_what_is_there_now(shop: Shop, call: Call, status: int) -> None:
    """Every write: the same status, marked as a replay, with the cart as others have left it meanwhile."""
    fill(shop)
    first = call(shop.service, keyed())
    assert (first.status, first.replayed) == (status, False)
    again = call(shop.service, keyed())
    assert again == Outcome(first.cart, status, replayed=True)
    shop.add(7)
    before = shop.record()
    shop.clock.advance(HOUR)
    assert call(shop.service, keyed()) == Outcome(shop.cart(), status, replayed=True)
    assert shop.record() == before


@each_write
def test_without_a_key_a_repetition_is_a_new_request(shop: Shop, call: Call, status: int) -> None:
    """Nothing is remembered, and nothing is ever called a replay."""
    fill(shop)
    assert call(shop.service, NONE).status == status
    stored = shop.store.get("u")
    assert (stored.idempotency_keys if stored else ()) == ()
    try:
        assert call(shop.service, NONE).replayed is False
    except CartsvcError as error:
        assert type(error) in {CartNotFound, ItemNotFound}  # noqa: PT017 - some writes can be made once only


@each_write
def test_a_key_on_another_request_is_refused(shop: Shop, call: Call, status: int) -> None:
    """Whatever stands behind it, and nothing changes."""
    fill(shop)
    assert call(shop.service, keyed()).status == status
    before, source = shop.record(), shop.store.get("other")
    with pytest.raises(IdempotencyKeyReused):
        call(shop.service, keyed(request="another"))
    with pytest.raises(IdempotencyKeyReused):
        shop.add(conditions=keyed(request="another"))
    assert shop.record() == before
    assert shop.store.get("other") == source


def test_a_key_belongs_to_one_cart(shop: Shop) -> None:
    """Another cart knows nothing of it."""
    shop.add(conditions=keyed())
    assert shop.add(user="U", conditions=keyed(request="another")).replayed is False
    assert (shop.quantity(), shop.quantity("U")) == (1, 1)


def test_a_created_cart_is_replayed_as_created(shop: Shop) -> None:
    """A PUT that made the cart says 201 again, though the cart was there by then."""
    for replayed in (False, True, True):
        outcome = shop.service.replace("u", [NewItem("a", 1)], currency=None, conditions=keyed())
        assert outcome == Outcome(shop.cart(), 201, replayed=replayed)
    assert shop.cart().version == 1


def test_a_replay_shows_an_absent_cart_as_absent(shop: Shop) -> None:
    """What was added and then removed is not brought back by a late repetition."""
    shop.add(conditions=keyed())
    shop.service.remove("u", conditions=NONE)
    assert shop.add(conditions=keyed()) == Outcome(None, 200, replayed=True)
    assert shop.service.get("u") is None


def test_a_key_lives_a_day(shop: Shop) -> None:
    """To the millisecond; a replay does not prolong it; afterwards the same key is a new one."""
    shop.add(conditions=keyed())
    shop.clock.advance(DAY - 1)
    assert shop.add(conditions=keyed()).replayed is True
    shop.clock.advance(1)
    assert shop.add(conditions=keyed(request="another")).replayed is False
    assert shop.quantity() == 2
    assert [key.fingerprint for key in shop.record().idempotency_keys] == [b"another"]


def test_the_last_32_keys_are_remembered(shop: Shop) -> None:
    """The 33rd takes the place of the first; replays take none."""
    for number in range(32):
        shop.add(conditions=keyed(f"k{number}"))
    for number in range(32):
        assert shop.add(conditions=keyed(f"k{number}")).replayed is True
    shop.add(conditions=keyed("k32"))
    assert shop.add(conditions=keyed("k1")).replayed is True
    assert len(shop.record().idempotency_keys) == 32
    assert shop.add(conditions=keyed("k0")).replayed is False
    assert shop.quantity() == 34


def test_the_number_of_keys_and_their_life_are_settings() -> None:
    """One key for ten seconds, if one wants."""
    shop = Shop(policy=Policy(max_idempotency_keys=1, idempotency_ttl_ms=10_000))
    shop.add(conditions=keyed("k1"))
    shop.add(conditions=keyed("k2"))
    assert shop.add(conditions=keyed("k1")).replayed is False
    shop.clock.advance(9_999)
    assert shop.add(conditions=keyed("k1")).replayed is True
    shop.clock.advance(1)
    assert shop.add(conditions=keyed("k1")).replayed is False


@pytest.mark.parametrize(
    "call",
    [
        lambda s, conditions: s.update_item("u", "a", ItemChange(quantity=1), conditions=conditions),
        lambda s, conditions: s.replace("u", [NewItem("a", 1), NewItem("b", 1)], currency=None, conditions=conditions),
        lambda s, conditions: s.merge("u", "nobody", "sum", conditions=conditions),
        lambda s, conditions: s.merge("u", "nobody", "replace", conditions=conditions),
    ],
)
def test_what_was_accepted_and_changed_nothing_is_remembered(shop: Shop, call: Call) -> None:
    """The cart is the very same afterwards: its ETag, its version, its expiry; the key is known."""
    fill(shop)
    cart, stored = shop.cart(), shop.record()
    shop.clock.advance(HOUR)
    assert call(shop.service, keyed()) == Outcome(cart, 200)
    assert (shop.cart(), shop.record().expires_at) == (cart, cart.expires_at)
    assert shop.record().tag != stored.tag
    assert call(shop.service, keyed()) == Outcome(cart, 200, replayed=True)
    with pytest.raises(IdempotencyKeyReused):
        shop.add(conditions=keyed(request="another"))


def test_a_cart_that_ends_before_a_key_of_its_own_ends_in_time(shop: Shop) -> None:
    """A keyed write that changes nothing keeps the record for the key, and not the cart."""
    shop.add(user="guest-1")
    shop.clock.advance(HOUR - 1)
    shop.service.update_item("guest-1", "a", ItemChange(quantity=1), conditions=keyed())
    assert shop.record("guest-1").expires_at == shop.clock() + DAY
    shop.clock.advance(1)
    assert shop.service.get("guest-1") is None
    assert shop.service.update_item("guest-1", "a", ItemChange(quantity=1), conditions=keyed()) == Outcome(
        None, 200, replayed=True
    )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s, conditions: s.add("u", [NewItem("a", 51)], conditions=conditions), InvalidRequest),
        (lambda s, conditions: s.add("u", [NewItem("a", 50)], conditions=conditions), LimitExceeded),
        (lambda s, conditions: s.add("u", [NewItem("c", 1, {}, 1, "USD")], conditions=conditions), CurrencyMismatch),
        (
            lambda s, conditions: s.update_item("u", "none such", ItemChange(quantity=1), conditions=conditions),
            ItemNotFound,
        ),
        (lambda s, conditions: s.remove_item("u", "none such", conditions=conditions), ItemNotFound),
        (lambda s, conditions: s.remove("absent", conditions=conditions), CartNotFound),
        (lambda s, conditions: s.remove_item("absent", "a", conditions=conditions), CartNotFound),
        (lambda s, conditions: s.merge("u", "u", "sum", conditions=conditions), InvalidRequest),
        (lambda s, conditions: s.merge("u", "full", "sum", conditions=conditions), LimitExceeded),
        (
            lambda s, conditions: s.add("u", [NewItem("a", 1)], conditions=_with_tag(conditions, "x")),
            PreconditionFailed,
        ),
        (lambda s, conditions: s.merge("u", "full", "keep", conditions=_with_tag(conditions, "x")), PreconditionFailed),
        (
            lambda s, conditions: s.merge("u", "nobody", "keep", conditions=_with_tag(conditions, "x")),
            PreconditionFailed,
        ),
    ],
)
def test_what_was_refused_is_not_remembered(shop: Shop, call: Call, error: type[CartsvcError]) -> None:
    """The same key is good for the corrected request."""
    shop.service.add("u", [NewItem("a", 1, {}, 1, "EUR")], conditions=NONE)
    shop.add(50, user="full")
    with pytest.raises(error):
        call(shop.service, keyed())
    assert shop.record().idempotency_keys == ()
    assert shop.store.get("absent") is None
    assert shop.add(conditions=keyed(request="corrected")).replayed is False


def _with_tag(conditions: WriteConditions, wanted: str) -> WriteConditions:
    return WriteConditions(conditions.key_digest, conditions.fingerprint, tag(wanted))


def test_a_replay_is_answered_before_everything_else(shop: Shop) -> None:
    """It needs no cart, fits any precondition, breaks no rule, and passes a seal."""
    shop.add(50, conditions=keyed())
    impossible = keyed(if_match=tag("other"), if_none_match=ANY_TAG)
    assert shop.add(50, conditions=impossible).replayed is True
    seal(shop, "u")
    assert shop.add(50, conditions=impossible).replayed is True
    assert shop.record().seal is not None
    shop.clock.advance(6000)
    assert shop.add(50, conditions=impossible).replayed is True
    assert shop.record().seal is not None, "a replay writes nothing, and so settles nothing"
    shop.service.remove("u", conditions=NONE)
    assert shop.add(50, conditions=impossible).replayed is True
    with pytest.raises(IdempotencyKeyReused):
        shop.add(50, conditions=keyed(request="another", if_match=tag("other")))


def test_a_seal_comes_before_404_and_404_before_412(shop: Shop) -> None:
    """RFC 9110, section 13.2.1: preconditions are looked at last before the rules."""
    wrong = WriteConditions(if_match=tag("x"))
    too_many = ItemChange(quantity=50)
    shop.service.add("u", [NewItem("a", 1, {}, 2**31, "EUR")], conditions=NONE)
    with pytest.raises(PreconditionFailed):
        shop.service.add("u", [NewItem("a", 50)], conditions=wrong)
    with pytest.raises(ItemNotFound):
        shop.service.update_item("u", "none such", too_many, conditions=wrong)
    with pytest.raises(ItemNotFound):
        shop.service.remove_item("u", "none such", conditions=wrong)
    with pytest.raises(CartNotFound):
        shop.service.update_item("absent", "a", too_many, conditions=wrong)
    with pytest.raises(CartNotFound):
        shop.service.remove("absent", conditions=wrong)
    seal(shop, "u")
    for call in (
        lambda: shop.service.remove_item("u", "none such", conditions=wrong),
        lambda: shop.service.add("u", [NewItem("a", 50)], conditions=wrong),
        lambda: shop.service.merge("u", "nobody", "sum", conditions=wrong),
    ):
        with pytest.raises(CartSealed):
            call()


# ---- what removal leaves ----


def test_a_removed_cart_knows_its_keys_for_a_day(shop: Shop) -> None:
    """A repeated DELETE is a replay and no 404; the tombstone reads as absent, and then it goes."""
    shop.add(conditions=keyed("add"))
    shop.clock.advance(HOUR)
    assert shop.service.remove("u", conditions=keyed("delete")) == Outcome(None, 204)
    removed_at = shop.clock()
    record = shop.record()
    assert (record.cart, [key.key_digest for key in record.idempotency_keys]) == (None, [b"add", b"delete"])
    assert record.expires_at == removed_at + DAY
    assert shop.service.get("u") is None
    with pytest.raises(CartNotFound):
        shop.service.remove("u", conditions=NONE)
    assert shop.service.remove("u", conditions=keyed("delete")) == Outcome(None, 204, replayed=True)
    shop.clock.advance(DAY - 1)
    assert shop.service.remove("u", conditions=keyed("delete")).replayed is True
    assert shop.add(user="u", conditions=keyed("add2")).replayed is False
    shop.service.remove("u", conditions=NONE)
    shop.clock.advance(1)
    with pytest.raises(CartNotFound):
        shop.service.remove("u", conditions=keyed("delete"))


def test_a_tombstone_goes_by_itself(shop: Shop) -> None:
    """When its last key has ended there is nothing left, and a cart without keys leaves nothing at once."""
    shop.add(conditions=keyed())
    shop.service.remove("u", conditions=NONE)
    shop.clock.advance(DAY)
    assert shop.store.get("u") is None
    assert list(shop.store.scan()) == []
    shop.add()
    shop.service.remove("u", conditions=NONE)
    assert list(shop.store.scan()) == []


def test_a_cart_that_time_has_removed_knows_its_keys(shop: Shop) -> None:
    """A guest's cart is gone after an hour; the key of its last add still stands for a day."""
    shop.add(user="guest-1", conditions=keyed())
    shop.clock.advance(HOUR)
    assert shop.service.get("guest-1") is None
    assert shop.add(user="guest-1", conditions=keyed()) == Outcome(None, 200, replayed=True)
    assert shop.add(user="guest-1").cart == shop.cart("guest-1")
    assert shop.cart("guest-1").version == 1
    assert shop.add(user="guest-1", conditions=keyed()).replayed is True
    assert shop.quantity("guest-1") == 1


@pytest.mark.parametrize("how", ["removed", "expired", "merged away"])
def test_a_tag_never_names_two_states(shop: Shop, how: str) -> None:
    """The same cart made again has another ETag, and the old one does not match it."""
    old = shop.add(user="guest-1", conditions=keyed()).cart
    assert old is not None
    if how == "removed":
        shop.service.remove("guest-1", conditions=NONE)
    elif how == "merged away":
        shop.service.merge("u", "guest-1", "sum", conditions=NONE)
        shop.clock.advance(HOUR)  # a guest is closed until then
    else:
        shop.clock.advance(HOUR)
    again = shop.add(user="guest-1").cart
    assert again is not None
    assert (again.version, again.etag != old.etag) == (1, True)
    with pytest.raises(PreconditionFailed) as error:
        shop.add(user="guest-1", conditions=WriteConditions(if_match=tag(old.etag)))
    assert error.value.cart == again


# ---- preconditions ----


@pytest.mark.parametrize(("call", "status"), [WRITES[each] for each in WRITES], ids=list(WRITES))
def test_every_write_takes_if_match(shop: Shop, call: Call, status: int) -> None:
    """A list with the current tag, or any, goes through; a stale one is refused with the cart as it is."""
    fill(shop)
    stale = shop.cart().etag
    shop.add()
    before = shop.record()
    for wrong in (
        WriteConditions(if_match=tag(stale)),
        WriteConditions(if_match=tag()),
        WriteConditions(if_match=tag("x", "y")),
    ):
        with pytest.raises(PreconditionFailed) as error:
            call(shop.service, wrong)
        assert error.value.cart == before.cart
        assert shop.cart() == before.cart
    right = WriteConditions(if_match=tag("x", shop.cart().etag, stale))
    assert call(shop.service, right).status == status


@pytest.mark.parametrize(("call", "status"), [WRITES[each] for each in WRITES], ids=list(WRITES))
def test_any_asks_that_there_is_a_cart(shop: Shop, call: Call, status: int) -> None:
    """If-Match: * on a cart that is there."""
    fill(shop)
    assert call(shop.service, WriteConditions(if_match=ANY_TAG)).status == status


@pytest.mark.parametrize("wanted", [ANY_TAG, tag("x"), tag()])
@pytest.mark.parametrize("made", ["never", "removed", "expired"])
def test_no_if_match_fits_an_absent_cart(shop: Shop, wanted: frozenset[str], made: str) -> None:
    """Not even any; the refusal says that there is none, and makes none."""
    if made != "never":
        shop.add(user="guest-1", conditions=keyed())
    if made == "removed":
        shop.service.remove("guest-1", conditions=NONE)
    if made == "expired":
        shop.clock.advance(HOUR)
    for call in (
        lambda conditions: shop.add(user="guest-1", conditions=conditions),
        lambda conditions: shop.service.replace("guest-1", [], currency=None, conditions=conditions),
        lambda conditions: shop.service.merge("guest-1", "nobody", "sum", conditions=conditions),
    ):
        with pytest.raises(PreconditionFailed) as error:
            call(WriteConditions(if_match=wanted))
        assert error.value.cart is None
        assert shop.service.get("guest-1") is None


def test_if_none_match_creates_only(shop: Shop) -> None:
    """With *: when there is a cart, an empty one too, it is refused with that cart; and not when it was removed."""
    create = WriteConditions(if_none_match=ANY_TAG)

    def put() -> Outcome:
        return shop.service.replace("u", [], currency=None, conditions=create)

    assert put().status == 201
    with pytest.raises(PreconditionFailed) as error:
        put()
    assert error.value.cart == shop.cart()
    shop.service.remove("u", conditions=keyed())
    assert put().status == 201


def test_if_none_match_with_tags_refuses_those_states(shop: Shop) -> None:
    """A cart that is in none of them may be changed; so may an absent one."""
    none_of = WriteConditions(if_none_match=tag("x", "y"))
    assert shop.add(conditions=none_of).status == 200
    assert shop.add(conditions=none_of).status == 200
    with pytest.raises(PreconditionFailed):
        shop.add(conditions=WriteConditions(if_none_match=tag("x", shop.cart().etag)))


def test_both_preconditions_must_hold(shop: Shop) -> None:
    """One that fits does not make up for one that does not."""
    shop.add()
    here = tag(shop.cart().etag)
    with pytest.raises(PreconditionFailed):
        shop.add(conditions=WriteConditions(if_match=here, if_none_match=here))
    assert shop.add(conditions=WriteConditions(if_match=here, if_none_match=tag("x"))).status == 200


def test_an_unconditional_add_never_conflicts(shop: Shop) -> None:
    """Whatever the cart went through."""
    for _ in range(3):
        shop.add()
    assert shop.quantity() == 3


def test_a_lost_answer_and_a_stale_tag_are_a_replay(shop: Shop) -> None:
    """The retry of a conditional write that was accepted carries the old tag: the key comes first."""
    shop.add()
    conditions = keyed(if_match=tag(shop.cart().etag))
    shop.store.plan(after={1: crash})
    with pytest.raises(Crash):
        shop.add(2, conditions=conditions)
    assert shop.add(2, conditions=conditions) == Outcome(shop.cart(), 200, replayed=True)
    assert shop.quantity() == 3


# ---- many at once ----


@each_write
def test_a_key_is_looked_up_inside_the_update(shop: Shop, call: Call, status: int) -> None:
    """The same request is delivered twice, and the other one gets in first: it counts once, and this is the replay."""
    fill(shop)
    told: list[Outcome] = []
    shop.store.plan(before={1: lambda: told.append(call(shop.service, keyed()))})
    told.append(call(shop.service, keyed()))
    cart = shop.service.get("u")
    assert told == [Outcome(cart, status), Outcome(cart, status, replayed=True)]


@each_write
def test_preconditions_are_decided_inside_the_update(shop: Shop, call: Call, status: int) -> None:
    """The tag was current when the request came; another write gets in first, and this one is refused."""
    fill(shop)
    conditions = WriteConditions(if_match=tag(shop.cart().etag))
    shop.store.plan(before={1: lambda: shop.add(1)})
    with pytest.raises(PreconditionFailed) as error:
        call(shop.service, conditions)
    assert error.value.cart == shop.cart()
    assert call(shop.service, WriteConditions(if_match=tag(shop.cart().etag))).status == status


def test_of_16_racing_conditional_writes_exactly_one_wins() -> None:
    """In every round: 16 threads with the same tag from a barrier; the others get the winner's cart."""
    shop = Shop(policy=Policy(limits=Limits(max_quantity=10**6)))
    for rounds in range(1, 21):
        conditions = (
            WriteConditions(if_match=tag(shop.cart().etag)) if rounds > 1 else WriteConditions(if_none_match=ANY_TAG)
        )
        won: list[Outcome] = []
        lost: list[Cart | None] = []

        def work(
            _: int, conditions: WriteConditions = conditions, won: list[Outcome] = won, lost: list[Cart | None] = lost
        ) -> None:
            try:
                won.append(shop.service.add("u", [NewItem("a", 1)], conditions=conditions))
            except PreconditionFailed as error:
                lost.append(error.cart)

        racing(16, work)
        assert (len(won), len(lost)) == (1, 15)
        assert lost == [shop.cart()] * 15
        assert (shop.quantity(), shop.cart().version) == (rounds, rounds)


@pytest.mark.parametrize("what", ["add", "merge"])
def test_16_at_once_with_one_key_are_applied_once(what: str) -> None:
    """All are answered 200 with the same cart; 15 of them are replays."""
    for rounds in range(20):
        shop = Shop()
        shop.add(3, user="other")
        told: list[Outcome] = []

        def work(_: int, shop: Shop = shop, told: list[Outcome] = told) -> None:
            if what == "add":
                told.append(shop.add(3, conditions=keyed()))
            else:
                told.append(shop.service.merge("u", "other", "sum", conditions=keyed()))

        racing(16, work)
        assert sorted(each.replayed for each in told) == [False] + [True] * 15, rounds
        assert [(each.status, each.cart) for each in told] == [(200, shop.cart())] * 16
        assert (shop.quantity(), shop.cart().version) == (3, 1)


# ---- a full store ----


def test_a_cart_on_a_full_store_can_be_removed_with_a_key() -> None:
    """A tombstone with its first key may be larger than the cart was: removing works all the same."""
    for items in ([], [NewItem("a", 1)]):
        shop = Shop()
        shop.service.replace("u", items, currency=None, conditions=NONE)
        _leave_no_room(shop)
        assert shop.service.remove("u", conditions=WriteConditions(b"k" * 16, b"r" * 16)).status == 204
        assert shop.service.remove("u", conditions=WriteConditions(b"k" * 16, b"r" * 16)).replayed is True


def test_a_cart_on_a_full_store_can_be_made_smaller_with_a_key() -> None:
    """The key comes on top of what is taken away, and is remembered all the same."""
    shop = Shop()
    shop.service.add("u", [NewItem("a", 9), NewItem("b", 1)], conditions=NONE)
    _leave_no_room(shop)
    with pytest.raises(StoreFull):
        shop.service.add("u", [NewItem("c", 1)], conditions=NONE)
    less = ItemChange(quantity=8)
    for replayed in (False, True):
        conditions = WriteConditions(b"k" * 16, b"r" * 16)
        assert shop.service.update_item("u", "a", less, conditions=conditions).replayed is replayed


def _leave_no_room(shop: Shop) -> None:
    inner = shop.store.inner
    assert isinstance(inner, MemoryStore)
    inner.leave_no_room()
