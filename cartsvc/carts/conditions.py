"""Check the conditions of a write: its Idempotency-Key, and its preconditions (RFC 9110, section 13). Pure.

They are checked inside the update of the store, in this order: replay, closed guest, seal, existence of the cart or
item, preconditions, rules of carts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from cartsvc.carts.cart import Cart
from cartsvc.carts.combine import Adjustment
from cartsvc.carts.record import EMPTY, IdempotencyKey, Seal, find_idempotency_key
from cartsvc.errors import CartMerged, CartSealed, IdempotencyKeyReused, PreconditionFailed

if TYPE_CHECKING:
    from cartsvc.carts.record import Policy, Record

SEAL_TIMEOUT_MS = 5_000  # a merge may take this long before the next write to its source resolves it

ANY_TAG = frozenset('"')  # for a bare *; a quote, because no entity tag can contain one, while "*" is a valid tag


class WriteConditions(Struct, frozen=True):
    """The conditions in the headers of a write. Entity tags are without their quotes; ANY_TAG is ``*``.

    ``key_digest`` is the digest of the Idempotency-Key, and ``fingerprint`` that of everything that must be the same in
    a retry.
    """

    key_digest: bytes | None = None
    fingerprint: bytes = b""
    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None


class Outcome(Struct, frozen=True):
    """The result of a write: the cart as it is now, the HTTP status, and whether the request was a replay.

    ``adjustments`` is what a merge has cut to stay within the limits.
    """

    cart: Cart | None
    status: int
    replayed: bool = False
    adjustments: tuple[Adjustment, ...] = ()


class StaleSeal(Exception):
    """The cart of ``user_id`` has the seal of an interrupted merge: resolve the merge, then try again."""

    def __init__(self, user_id: str, seal: Seal) -> None:
        self.user_id = user_id
        self.seal = seal
        super().__init__(seal.merge_id)


def replay(record: Record | None, conditions: WriteConditions, *, now: int, policy: Policy) -> Outcome | None:
    """Return the outcome of a request that was already accepted, or None if it was not. Raises IdempotencyKeyReused."""
    known = (
        None
        if conditions.key_digest is None
        else find_idempotency_key(record, conditions.key_digest, now=now, policy=policy)
    )
    if known is None:
        return None
    if known.fingerprint != conditions.fingerprint:
        raise IdempotencyKeyReused
    return Outcome((record or EMPTY).cart_at(now), known.status, replayed=True)


def new_idempotency_key(conditions: WriteConditions, *, status: int, now: int) -> IdempotencyKey | None:
    """Return the record of a request that was accepted with this status, or None if the request has no key."""
    return (
        None
        if conditions.key_digest is None
        else IdempotencyKey(conditions.key_digest, conditions.fingerprint, status, now)
    )


def check_open(user_id: str, record: Record | None, *, now: int) -> None:
    """Raise CartMerged if this guest's cart was merged into another cart, and what :func:`check_seal` raises."""
    if record is None:
        return
    if record.closed_until > now:
        raise CartMerged
    check_seal(user_id, record, now=now)


def check_seal(user_id: str, record: Record, *, now: int) -> None:
    """Raise CartSealed while a merge works on this cart, and StaleSeal if a merge was interrupted.

    The time decides only how long other requests wait. A seal with a time in the future counts as stale, because the
    clock of the server that made it is ahead; resolving a merge that still runs aborts it and loses nothing.
    """
    seal = record.seal
    if seal is None:
        return
    if 0 <= now - seal.at <= SEAL_TIMEOUT_MS:
        raise CartSealed
    raise StaleSeal(user_id, seal)


def check_preconditions(conditions: WriteConditions, cart: Cart | None) -> None:
    """Raise PreconditionFailed unless the cart matches ``If-Match`` and does not match ``If-None-Match``."""
    wanted, unwanted = conditions.if_match, conditions.if_none_match
    if wanted is not None and (cart is None or (wanted != ANY_TAG and cart.etag not in wanted)):
        raise PreconditionFailed(cart)
    if unwanted is not None and cart is not None and (unwanted == ANY_TAG or cart.etag in unwanted):
        raise PreconditionFailed(cart)
