"""The terms a client puts on a write: its Idempotency-Key and its preconditions (RFC 9110, section 13). Pure.

They are looked at inside the store's update, in this order: replay, seal, is there such a cart or item, preconditions,
rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from cartsvc.cart import Cart
from cartsvc.errors import CartSealed, KeyReused, PreconditionFailed
from cartsvc.record import Key, Seal, find_key, live_cart

if TYPE_CHECKING:
    from cartsvc.record import Policy, Record

SEAL_TIMEOUT_MS = 5_000  # a merge may take this long before the next write to its source resolves it

ANY = frozenset('"')  # stands for a bare *; a quote is what no entity tag can hold, though "*" is one


class Terms(Struct, frozen=True):
    """What a request says besides what to do. Tags are without their quotes; ANY stands for ``*``.

    ``key`` and ``request`` are digests; ``request`` covers all that must be the same in a repetition.
    """

    key: bytes | None = None
    request: bytes = b""
    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None


class Outcome(Struct, frozen=True):
    """What a write has to say: the cart as it is now, the HTTP status, and whether this was a replay."""

    cart: Cart | None
    status: int
    replayed: bool = False


class StaleSeal(Exception):
    """The cart of ``user_id`` bears the seal of a merge that was interrupted: resolve it, then try again."""

    def __init__(self, user_id: str, seal: Seal) -> None:
        self.user_id = user_id
        self.seal = seal
        super().__init__(seal.merge_id)


def replay(record: Record | None, terms: Terms, *, now: int, policy: Policy) -> Outcome | None:
    """What to answer when this request was accepted before; None when it was not. Raises KeyReused."""
    known = None if terms.key is None else find_key(record, terms.key, now=now, policy=policy)
    if known is None:
        return None
    if known.request != terms.request:
        raise KeyReused
    return Outcome(live_cart(record, now=now), known.status, replayed=True)


def key_for(terms: Terms, *, status: int, now: int) -> Key | None:
    """What to remember of a request that was accepted with this status; None when it has no key."""
    return None if terms.key is None else Key(terms.key, terms.request, status, now)


def check_seal(user_id: str, record: Record | None, *, now: int) -> None:
    """Raise CartSealed while a merge is at work on this cart, and StaleSeal when one was interrupted.

    The time decides only how long others wait. A seal from the future counts as stale, because the clock of the server
    that made it is ahead; resolving a merge that is still at work aborts it and loses nothing.
    """
    seal = record.seal if record is not None else None
    if seal is None:
        return
    if 0 <= now - seal.at <= SEAL_TIMEOUT_MS:
        raise CartSealed
    raise StaleSeal(user_id, seal)


def check_conditions(terms: Terms, cart: Cart | None) -> None:
    """Raise PreconditionFailed unless the cart is in the state that the terms ask for."""
    wanted, unwanted = terms.if_match, terms.if_none_match
    if wanted is not None and (cart is None or (wanted != ANY and cart.etag not in wanted)):
        raise PreconditionFailed(cart)
    if unwanted is not None and cart is not None and (unwanted == ANY or cart.etag in unwanted):
        raise PreconditionFailed(cart)
