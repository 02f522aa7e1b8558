"""The use cases of the API, as atomic changes of one record in the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from cartsvc.carts import cart as carts
from cartsvc.carts.cart import Cart, Revision
from cartsvc.carts.conditions import (
    Outcome,
    StaleSeal,
    WriteConditions,
    check_open,
    check_preconditions,
    new_idempotency_key,
    replay,
)
from cartsvc.carts.record import EMPTY, GUEST_PREFIX, next_record
from cartsvc.carts.update import check_items, update_items
from cartsvc.carts.validation import MAX_LINES, validate_changes, validate_metadata, validate_new_items
from cartsvc.errors import CartNotFound, CartSealed, StoreFull

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cartsvc.carts.cart import Item
    from cartsvc.carts.combine import OnLimit, Strategy
    from cartsvc.carts.merge import Merger
    from cartsvc.carts.record import Policy, Record
    from cartsvc.carts.store import CartStore
    from cartsvc.carts.validation import ItemChange, NewItem

_MAX_ATTEMPTS = 8  # a cart can be sealed again between resolving and writing, which is rare


class Write(Struct, frozen=True):
    """One kind of change: the rule, a check that precedes the preconditions, and the status of the response."""

    change: Callable[[Cart | None, Revision], Cart | None]
    precheck: Callable[[Cart | None], object] | None = None
    status: int = 200
    status_if_absent: int = 200


class CartService:
    """Every operation on carts.

    ``clock`` returns milliseconds since the epoch, ``new_tag`` a token that was never returned before, and
    ``new_guest`` one that cannot be guessed. Every write takes the conditions of its request. In addition to the errors
    that its docstring lists and those of the store, it may raise IdempotencyKeyReused, CartMerged, CartSealed and
    PreconditionFailed. A method that raises has changed nothing.
    """

    def __init__(
        self,
        store: CartStore,
        merger: Merger,
        *,
        policy: Policy,
        clock: Callable[[], int],
        new_tag: Callable[[], str],
        new_guest: Callable[[], str],
    ) -> None:
        self._store = store
        self._merger = merger
        self._policy = policy
        self._clock = clock
        self._new_tag = new_tag
        self._new_guest = new_guest

    def get(self, user_id: str) -> Cart | None:
        """Return the cart, or None if it is absent. A read creates nothing and does not extend the life of a cart."""
        return (self._store.get(user_id) or EMPTY).cart_at(self._clock())

    def get_item(self, user_id: str, item_id: str) -> tuple[Cart, Item]:
        """Return the cart and one of its items. Raises CartNotFound, ItemNotFound."""
        cart = _require_cart(self.get(user_id))
        return cart, carts.find_item(cart, item_id)

    def add(
        self,
        user_id: str,
        new_items: Sequence[NewItem],
        *,
        currency: str | None = None,
        conditions: WriteConditions,
    ) -> Outcome:
        """Add all the items, or none; ``currency`` applies to items that have none.

        Raises InvalidRequest, LimitExceeded, CurrencyMismatch.
        """
        limits = self._policy.limits
        additions = validate_new_items(
            new_items, limits=limits, at=self._clock(), currency=currency, max_lines=MAX_LINES
        )

        def rule(cart: Cart | None, revision: Revision) -> Cart:
            return carts.add(cart, additions, limits=limits, revision=revision)

        return self._write(user_id, Write(rule), conditions=conditions)

    def replace(
        self,
        user_id: str,
        new_items: Sequence[NewItem],
        *,
        currency: str | None,
        metadata: Mapping[str, str] | None = None,
        conditions: WriteConditions,
    ) -> Outcome:
        """Replace the items of the cart by these; ``currency`` applies to items that have none.

        ``metadata`` None keeps that of the cart. The status is 201 if the cart was absent. Raises InvalidRequest,
        LimitExceeded.
        """
        limits = self._policy.limits
        additions = validate_new_items(new_items, limits=limits, at=self._clock(), currency=currency)
        pairs = validate_metadata(metadata, limits=limits)

        def rule(cart: Cart | None, revision: Revision) -> Cart:
            return carts.replace(cart, additions, metadata=pairs, limits=limits, revision=revision)

        return self._write(user_id, Write(rule, status_if_absent=201), conditions=conditions)

    def update(self, user_id: str, metadata: Mapping[str, str], *, conditions: WriteConditions) -> Outcome:
        """Set the metadata of the cart itself. Raises InvalidRequest, CartNotFound, LimitExceeded."""
        limits = self._policy.limits
        pairs = validate_metadata(metadata, limits=limits) or ()

        def rule(cart: Cart | None, revision: Revision) -> Cart:
            return carts.set_metadata(_require_cart(cart), pairs, limits=limits, revision=revision)

        return self._write(user_id, Write(rule, _require_cart), conditions=conditions)

    def update_items(self, user_id: str, changes: Sequence[ItemChange], *, conditions: WriteConditions) -> Outcome:
        """Apply all the changes of items, or none. Raises InvalidRequest, NotFound, LimitExceeded, CurrencyMismatch."""
        limits = self._policy.limits
        validated = validate_changes(changes, limits=limits)

        def precheck(cart: Cart | None) -> None:
            check_items(_require_cart(cart), validated)

        def rule(cart: Cart | None, revision: Revision) -> Cart:
            return update_items(_require_cart(cart), validated, limits=limits, revision=revision)

        return self._write(user_id, Write(rule, precheck), conditions=conditions)

    def update_item(self, user_id: str, item_id: str, change: ItemChange, *, conditions: WriteConditions) -> Outcome:
        """Apply one change to the item with this id. Raises as :meth:`update_items`."""
        return self.update_items(user_id, [structs.replace(change, item_id=item_id)], conditions=conditions)

    def remove_item(self, user_id: str, item_id: str, *, conditions: WriteConditions) -> Outcome:
        """Remove one item. Raises CartNotFound, ItemNotFound."""

        def rule(cart: Cart | None, revision: Revision) -> Cart:
            return carts.remove_item(_require_cart(cart), item_id, revision=revision)

        precheck = partial(_require_item, item_id=item_id)
        return self._write(user_id, Write(rule, precheck), conditions=conditions)

    def remove(self, user_id: str, *, conditions: WriteConditions) -> Outcome:
        """Remove the cart. The status is 204. Raises CartNotFound."""
        return self._write(user_id, _REMOVE, conditions=conditions)

    def merge(
        self,
        user_id: str,
        source: str,
        strategy: Strategy,
        on_limit: OnLimit = "refuse",
        *,
        conditions: WriteConditions,
    ) -> Outcome:
        """Move the items of the cart ``source`` into this cart, and remove the source.

        With ``on_limit`` "clamp", what exceeds a limit is cut, and listed in the outcome's ``adjustments``. Raises
        InvalidRequest, LimitExceeded, CurrencyMismatch, MergeAborted, TooManyMerges.
        """
        with self._store.operation():
            return self._merger.merge(user_id, source, strategy, on_limit, conditions=conditions)

    def new_guest(self, known: str | None = None) -> str:
        """Return a user_id for a shopper without an account. It stores nothing; the first write creates the cart.

        This is the guest that is ``known`` already, unless that guest's cart was merged into another cart.
        """
        if known is not None and (self._store.get(known) or EMPTY).closed_until <= self._clock():
            return known
        return GUEST_PREFIX + self._new_guest()

    def check_ready(self) -> Literal["ok", "full"]:
        """Return "ok" if the store takes new carts, and "full" otherwise; raise StoreError if the store fails.

        A full store is ready, because carts can be read, made smaller and removed.
        """
        try:
            self._store.ping()
        except StoreFull:
            return "full"
        return "ok"

    def startup_warnings(self) -> list[str]:
        """Return warnings about the configuration of the store, for its operator."""
        return self._store.startup_warnings()

    def _write(self, user_id: str, write: Write, *, conditions: WriteConditions) -> Outcome:
        """Change one record. If an interrupted merge has sealed its cart, resolve that merge first."""
        with self._store.operation():
            for _ in range(_MAX_ATTEMPTS):
                try:
                    change = partial(
                        self._apply, user_id=user_id, write=write, conditions=conditions, tag=self._new_tag()
                    )
                    return self._store.update(user_id, change)
                except StaleSeal as stale:
                    self._merger.resolve(user_id, stale.seal)
        raise CartSealed

    def _apply(
        self, record: Record | None, *, user_id: str, write: Write, conditions: WriteConditions, tag: str
    ) -> tuple[Record | None, Outcome]:
        """Return the next record and the outcome: conditions first, in the order of RFC 9110, section 13.2.2."""
        # Read the clock here: a time from before the wait for a lock could be earlier than that of a newer seal.
        revision = self._policy.new_revision(user_id, now=self._clock(), tag=tag)
        repeated = replay(record, conditions, now=revision.at, policy=self._policy)
        if repeated is not None:
            return record, repeated
        check_open(user_id, record, now=revision.at)
        before = (record or EMPTY).cart_at(revision.at)
        if write.precheck is not None:
            write.precheck(before)
        check_preconditions(conditions, before)
        cart = write.change(before, revision)
        status = write.status if before is not None else write.status_if_absent
        key = new_idempotency_key(conditions, status=status, now=revision.at)
        after = (record or EMPTY).with_cart(cart).with_key(key)
        return next_record(record, after, revision=revision, policy=self._policy), Outcome(cart, status)


def _require_cart(cart: Cart | None) -> Cart:
    if cart is None:
        raise CartNotFound
    return cart


def _require_item(cart: Cart | None, *, item_id: str) -> Item:
    return carts.find_item(_require_cart(cart), item_id)


_REMOVE = Write(lambda _cart, _new_revision: None, _require_cart, status=204)
