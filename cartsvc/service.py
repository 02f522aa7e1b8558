"""The use cases: what the API asks for, as atomic changes of one record in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cartsvc import cart as carts
from cartsvc.errors import CartNotFound, CartSealed, StoreFull
from cartsvc.record import GUEST, following, live_cart
from cartsvc.terms import OldSeal, Outcome, Terms, check_conditions, check_seal, key_for, replay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cartsvc.cart import Cart, Item, ItemChange, Line, Stamp, Strategy
    from cartsvc.merge import Merger
    from cartsvc.record import Policy, Record
    from cartsvc.stores.base import CartStore

_ATTEMPTS = 8  # a cart can be sealed again between settling and writing; not often


class CartService:
    """Everything one can do with a cart.

    ``clock`` tells milliseconds since the epoch, ``new_tag`` makes a token never seen before, ``new_guest`` one that
    nobody can guess. Every write takes the client's terms and may raise KeyReused, CartSealed and PreconditionFailed
    besides what it says itself and what the store raises; a method that raises has changed nothing.
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
        """The cart, or None when there is none. A read creates nothing and slides no expiry."""
        return live_cart(self._store.get(user_id), now=self._clock())

    def get_item(self, user_id: str, item_id: str) -> tuple[Cart, Item]:
        """One item, and the cart it is in. Raises CartNotFound, ItemNotFound."""
        cart = _there(self.get(user_id))
        return cart, carts.find(cart, item_id)

    def add(self, user_id: str, lines: Sequence[Line], *, terms: Terms) -> Outcome:
        """Add all the lines, or none. Raises InvalidRequest, LimitExceeded, CurrencyMismatch."""
        limits = self._policy.limits
        additions = carts.gather(lines, limits=limits, at=self._clock())

        def rule(cart: Cart | None, stamp: Stamp) -> Cart:
            return carts.add(cart, additions, limits=limits, stamp=stamp)

        return self._write(user_id, rule, terms=terms)

    def replace(self, user_id: str, lines: Sequence[Line], *, currency: str | None, terms: Terms) -> Outcome:
        """Make the cart hold exactly these lines; ``currency`` stands for those that state none.

        The status is 201 when there was no cart. Raises InvalidRequest.
        """
        additions = carts.gather(lines, limits=self._policy.limits, at=self._clock(), currency=currency)

        def rule(cart: Cart | None, stamp: Stamp) -> Cart:
            return carts.replace(cart, additions, stamp=stamp)

        return self._write(user_id, rule, terms=terms, absent_status=201)

    def set_item(self, user_id: str, item_id: str, wanted: ItemChange, *, terms: Terms) -> Outcome:
        """Set an item's quantity or price. Raises InvalidRequest, NotFound, LimitExceeded, CurrencyMismatch."""
        limits = self._policy.limits
        carts.check_change(wanted, limits=limits)

        def rule(cart: Cart | None, stamp: Stamp) -> Cart:
            return carts.set_item(_there(cart), item_id, wanted, limits=limits, stamp=stamp)

        return self._write(user_id, rule, terms=terms, needs=lambda cart: carts.find(_there(cart), item_id))

    def remove_item(self, user_id: str, item_id: str, *, terms: Terms) -> Outcome:
        """Take one item out. Raises CartNotFound, ItemNotFound."""

        def rule(cart: Cart | None, stamp: Stamp) -> Cart:
            return carts.remove_item(_there(cart), item_id, stamp=stamp)

        return self._write(user_id, rule, terms=terms, needs=lambda cart: carts.find(_there(cart), item_id))

    def remove(self, user_id: str, *, terms: Terms) -> Outcome:
        """Remove the cart. The status is 204. Raises CartNotFound."""
        return self._write(user_id, lambda _cart, _stamp: None, terms=terms, needs=_there, status=204)

    def merge(self, user_id: str, source: str, strategy: Strategy, *, terms: Terms) -> Outcome:
        """Move another cart's items into this one; the other one is gone afterwards.

        Raises InvalidRequest, LimitExceeded, CurrencyMismatch, MergeAborted, TooManyMerges.
        """
        with self._store.one_request():
            return self._merger.merge(user_id, source, strategy, terms=terms)

    def new_guest(self) -> str:
        """A user_id for a shopper without an account. It allocates nothing: the first add does."""
        return GUEST + self._new_guest()

    def check_ready(self) -> Literal["ok", "full"]:
        """Return whether the store takes new carts; raise StoreError when it fails.

        A full store is ready, because carts can be read, made smaller and removed.
        """
        try:
            self._store.ping()
        except StoreFull:
            return "full"
        return "ok"

    def advice(self) -> list[str]:
        """What whoever runs the store should know at the start."""
        return self._store.advice()

    def _write(
        self,
        user_id: str,
        rule: Callable[[Cart | None, Stamp], Cart | None],
        *,
        terms: Terms,
        needs: Callable[[Cart | None], object] = lambda _: None,
        status: int = 200,
        absent_status: int | None = None,
    ) -> Outcome:
        """One change of one record: the client's terms first, in the order of RFC 9110, section 13.2, then the rule."""
        with self._store.one_request():
            for _ in range(_ATTEMPTS):
                tag = self._new_tag()

                def change(record: Record | None, tag: str = tag) -> tuple[Record | None, Outcome]:
                    # Read here: whoever waited for the turn must not take what came meanwhile for the future.
                    stamp = self._policy.stamp(user_id, now=self._clock(), tag=tag)
                    repeated = replay(record, terms, now=stamp.at, policy=self._policy)
                    if repeated is not None:
                        return record, repeated
                    check_seal(record, now=stamp.at)
                    before = live_cart(record, now=stamp.at)
                    needs(before)
                    check_conditions(terms, before)
                    cart = rule(before, stamp)
                    answer = status if before is not None or absent_status is None else absent_status
                    key = key_for(terms, status=answer, now=stamp.at)
                    return following(record, cart, stamp=stamp, policy=self._policy, key=key), Outcome(cart, answer)

                try:
                    return self._store.update(user_id, change)
                except OldSeal as old:
                    self._merger.settle(user_id, old.seal)
        raise CartSealed


def _there(cart: Cart | None) -> Cart:
    if cart is None:
        raise CartNotFound
    return cart
