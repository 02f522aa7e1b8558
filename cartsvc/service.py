"""The use cases: what the API asks for, as atomic changes of one record in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from cartsvc import cart as carts
from cartsvc.cart import Cart
from cartsvc.errors import CartNotFound
from cartsvc.record import Record, live_cart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cartsvc.cart import Item, ItemChange, Limits, Line, Stamp
    from cartsvc.stores.base import CartStore


class Replaced(Struct, frozen=True):
    """The cart after a replacement, and whether there was none before."""

    cart: Cart
    created: bool


class CartService:
    """Everything one can do with a cart.

    ``clock`` tells milliseconds since the epoch, ``new_tag`` a token never seen before; ``cart_ttl`` is milliseconds.
    Every method may also raise what the store raises; a method that raises has changed nothing.
    """

    def __init__(
        self,
        store: CartStore,
        *,
        limits: Limits,
        cart_ttl: int,
        clock: Callable[[], int],
        new_tag: Callable[[], str],
    ) -> None:
        self.limits = limits
        self._store = store
        self._cart_ttl = cart_ttl
        self._clock = clock
        self._new_tag = new_tag

    def get(self, user_id: str) -> Cart | None:
        """The cart, or None when there is none. A read creates nothing and slides no expiry."""
        return live_cart(self._store.get(user_id), now=self._clock())

    def get_item(self, user_id: str, item_id: str) -> tuple[Cart, Item]:
        """One item, and the cart it is in. Raises CartNotFound, ItemNotFound."""
        cart = self.get(user_id)
        if cart is None:
            raise CartNotFound
        return cart, carts.find(cart, item_id)

    def add(self, user_id: str, lines: Sequence[Line]) -> Cart:
        """Add all the lines, or none. Raises InvalidRequest, LimitExceeded, CurrencyMismatch."""
        stamp = self._stamp()
        additions = carts.gather(lines, limits=self.limits, at=stamp.at)
        return self._change(user_id, stamp, lambda cart: carts.add(cart, additions, limits=self.limits, stamp=stamp))

    def replace(self, user_id: str, lines: Sequence[Line], *, currency: str | None) -> Replaced:
        """Make the cart hold exactly these lines; ``currency`` stands for those that state none.

        Raises InvalidRequest.
        """
        stamp = self._stamp()
        additions = carts.gather(lines, limits=self.limits, at=stamp.at, currency=currency)

        def change(record: Record | None) -> tuple[Record, Replaced]:
            before = live_cart(record, now=stamp.at)
            cart = carts.replace(before, additions, stamp=stamp)
            return _with_cart(record, cart, stamp), Replaced(cart, created=before is None)

        return self._store.update(user_id, change)

    def set_item(self, user_id: str, item_id: str, wanted: ItemChange) -> Cart:
        """Set an item's quantity or price. Raises InvalidRequest, NotFound, LimitExceeded, CurrencyMismatch."""
        stamp = self._stamp()
        carts.check_change(wanted, limits=self.limits)
        return self._change(
            user_id, stamp, lambda cart: carts.set_item(_there(cart), item_id, wanted, limits=self.limits, stamp=stamp)
        )

    def remove_item(self, user_id: str, item_id: str) -> Cart:
        """Take one item out. Raises CartNotFound, ItemNotFound."""
        stamp = self._stamp()
        return self._change(user_id, stamp, lambda cart: carts.remove_item(_there(cart), item_id, stamp=stamp))

    def remove(self, user_id: str) -> None:
        """Remove the cart. Raises CartNotFound."""
        now = self._clock()

        def change(record: Record | None) -> tuple[None, None]:
            _there(live_cart(record, now=now))
            return None, None

        self._store.update(user_id, change)

    def check_ready(self) -> None:
        """Return when the store can answer; raise StoreError when it cannot."""
        self._store.ping()

    def _stamp(self) -> Stamp:
        now = self._clock()
        return carts.Stamp(at=now, etag=self._new_tag(), expires_at=now + self._cart_ttl)

    def _change(self, user_id: str, stamp: Stamp, rule: Callable[[Cart | None], Cart]) -> Cart:
        def change(record: Record | None) -> tuple[Record, Cart]:
            cart = rule(live_cart(record, now=stamp.at))
            return _with_cart(record, cart, stamp), cart

        return self._store.update(user_id, change)


def _there(cart: Cart | None) -> Cart:
    if cart is None:
        raise CartNotFound
    return cart


def _with_cart(record: Record | None, cart: Cart, stamp: Stamp) -> Record:
    """The record to write for this cart: the very same one when the cart is the one it holds."""
    if record is not None and record.cart is cart:
        return record
    keys, marks, seal = (record.keys, record.marks, record.seal) if record else ((), (), None)
    return Record(stamp.etag, cart, keys, marks, seal, cart.expires_at)
