"""Find what no run of the service can have left in one record: the rules that ``carts import`` adds to those of carts.

Each rule follows from the code that writes records: ``record.next_record``, ``cart._next_cart`` and the steps of a
merge.

Wall clocks are not monotonic, and servers that share a store have clocks of their own, so a later write can have an
earlier time. The rules therefore assume only that every clock was within half of CLOCK_TOLERANCE_MS of the true time:
what happened later may then have a time that is earlier by at most CLOCK_TOLERANCE_MS. A day is far beyond what a clock
under NTP shows and accepts what a wrong time zone or a suspended virtual machine causes; a backup whose times
contradict each other by more than a day was made by hand or is damaged. What one write reads from one clock (a cart's
``updated_at`` and ``expires_at``) is compared without tolerance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cartsvc.carts.cart import MAX_LIMITS, MAX_VERSION
from cartsvc.carts.record import (
    CART_TTL_RANGE_MS,
    CLOCK_MARGIN_MS,
    IDEMPOTENCY_TTL_RANGE_MS,
    MAX_IDEMPOTENCY_KEYS,
    MAX_MARKS,
    is_guest,
)
from cartsvc.carts.validation import check_user_id, metadata_faults
from cartsvc.errors import Fault, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cartsvc.carts.cart import Cart
    from cartsvc.carts.record import IdempotencyKey, Record

CLOCK_TOLERANCE_MS = 86_400_000
STATUSES = (200, 201, 204)  # of the responses that a key remembers: done, created, removed


def record_faults(user_id: str, record: Record, *, now: int) -> Iterator[Fault]:
    """Yield what the service cannot have stored for this user by ``now``; each fault has its JSON Pointer in a line.

    The items are not checked: cart.validate_new_items has their rules. ``now`` is in milliseconds since the epoch.
    """
    yield from _id_faults(user_id, record)
    if record.cart is not None:
        yield from _cart_faults(record.cart)
    yield from _seal_faults(record)
    yield from _closed_faults(user_id, record, now)
    yield from _key_faults(record.idempotency_keys)
    yield from _mark_faults(record)
    yield from _future_faults(record, now)
    yield from _pruned_faults(record)
    yield from _expiry_faults(record)


def _id_faults(user_id: str, record: Record) -> Iterator[Fault]:
    others = [(f"/marks/{number}/source", mark.source) for number, mark in enumerate(record.merge_marks)]
    if record.seal is not None:
        others.append(("/seal/target", record.seal.target))
    for pointer, each in [("/user_id", user_id), *others]:
        try:
            check_user_id(each, pointer=pointer)
        except InvalidRequest as error:
            yield from error.faults
    for pointer, each in others:
        if each == user_id:
            yield Fault(pointer, "A cart is not merged into itself.")


def _cart_faults(cart: Cart) -> Iterator[Fault]:
    if not 1 <= cart.version <= MAX_VERSION:
        yield Fault("/cart/version", f"A version is 1 to {MAX_VERSION}.")
    if cart.updated_at < cart.created_at - CLOCK_TOLERANCE_MS:
        yield Fault("/cart/updated_at", "A cart is not changed before it is created.")
    if cart.version == 1 and cart.updated_at != cart.created_at:
        yield Fault("/cart/updated_at", "A cart of version 1 was last changed when it was created.")
    least, most = CART_TTL_RANGE_MS
    if not least <= cart.expires_at - cart.updated_at <= most:
        detail = f"A cart expires {least // 1000} second to {most // 86_400_000} days after its last change."
        yield Fault("/cart/expires_at", detail)
    yield from metadata_faults(dict(cart.metadata), "/cart", MAX_LIMITS)
    for number, item in enumerate(cart.items):
        if item.added_at > cart.updated_at + CLOCK_TOLERANCE_MS:
            yield Fault(f"/cart/items/{number}/added_at", "An item is not added after the cart's last change.")


def _seal_faults(record: Record) -> Iterator[Fault]:
    seal, cart = record.seal, record.cart
    if seal is None:
        return
    if cart is None:
        yield Fault("/seal", "Only a cart can be sealed.")
    elif not cart.updated_at - CLOCK_TOLERANCE_MS <= seal.at < cart.expires_at:
        yield Fault("/seal/at", "A cart is sealed after its last change and before it expires.")
    if any(mark.merge_id == seal.merge_id for mark in record.merge_marks):
        yield Fault("/seal/merge_id", "One merge does not take this cart both as its source and as its target.")


def _closed_faults(user_id: str, record: Record, now: int) -> Iterator[Fault]:
    """Yield what is wrong with a guest's record that is closed because its cart was merged into another one."""
    if not record.closed_until:
        return
    if not is_guest(user_id):
        yield Fault("/closed_until", "Only the record of a guest is closed.")
    if record.cart is not None:
        yield Fault("/closed_until", "A closed record has no cart.")
    if record.closed_until > now + CLOCK_TOLERANCE_MS + CART_TTL_RANGE_MS[1]:
        yield Fault("/closed_until", "A record is closed for the longest life of a cart at most.")


def _key_faults(keys: Sequence[IdempotencyKey]) -> Iterator[Fault]:
    if len(keys) > MAX_IDEMPOTENCY_KEYS:
        yield Fault("/keys", f"A record has at most {MAX_IDEMPOTENCY_KEYS} keys.")
    seen: set[bytes] = set()
    for number, key in enumerate(keys):
        if key.key_digest in seen:
            yield Fault(f"/keys/{number}/key", "This key is there twice.")
        seen.add(key.key_digest)
        if key.status not in STATUSES:
            yield Fault(f"/keys/{number}/status", f"A status is one of {', '.join(map(str, STATUSES))}.")
    yield from _order_faults("/keys", [key.at for key in keys])


def _mark_faults(record: Record) -> Iterator[Fault]:
    marks = record.merge_marks
    if len(marks) > MAX_MARKS:
        yield Fault("/marks", f"A record has at most {MAX_MARKS} marks.")
    seen: set[str] = set()
    for number, mark in enumerate(marks):
        if mark.merge_id in seen:
            yield Fault(f"/marks/{number}/merge_id", "This merge is there twice.")
        seen.add(mark.merge_id)
        # The source existed when the merge began, and its last change was not later.
        least = mark.at - CLOCK_TOLERANCE_MS - CLOCK_MARGIN_MS
        if not least <= mark.source_expires_at <= mark.at + CLOCK_TOLERANCE_MS + CART_TTL_RANGE_MS[1]:
            detail = "The source of a merge expires after it, and within the longest life of a cart."
            yield Fault(f"/marks/{number}/source_expires_at", detail)
    yield from _order_faults("/marks", [mark.at for mark in marks])


def _order_faults(pointer: str, times: Sequence[int]) -> Iterator[Fault]:
    """Yield a fault for each time that is out of order: keys and marks are kept in the order of their creation."""
    latest = 0
    for number, at in enumerate(times):
        if at < latest - CLOCK_TOLERANCE_MS:
            yield Fault(f"{pointer}/{number}/at", "This is earlier than the one before it.")
        latest = max(latest, at)


def _moments(record: Record) -> Iterator[tuple[str, int]]:
    """Yield the times at which this record was written, with their JSON Pointers."""
    if record.cart is not None:
        yield "/cart/created_at", record.cart.created_at
        yield "/cart/updated_at", record.cart.updated_at
    if record.seal is not None:
        yield "/seal/at", record.seal.at
    for number, key in enumerate(record.idempotency_keys):
        yield f"/keys/{number}/at", key.at
    for number, mark in enumerate(record.merge_marks):
        yield f"/marks/{number}/at", mark.at


def _future_faults(record: Record, now: int) -> Iterator[Fault]:
    items = record.cart.items if record.cart is not None else ()
    added = [(f"/cart/items/{number}/added_at", item.added_at) for number, item in enumerate(items)]
    for pointer, at in [*_moments(record), *added]:
        if at > now + CLOCK_TOLERANCE_MS:
            yield Fault(pointer, "This time is still to come.")


def _pruned_faults(record: Record) -> Iterator[Fault]:
    """Yield the keys and marks that had expired before a later write, which would have removed them."""
    latest = max([at for _, at in _moments(record)], default=0)
    for number, key in enumerate(record.idempotency_keys):
        if key.at + IDEMPOTENCY_TTL_RANGE_MS[1] <= latest:
            yield Fault(f"/keys/{number}/at", "A key as old as this was left out by a later write.")
    for number, mark in enumerate(record.merge_marks):
        if mark.expires_at <= latest:
            yield Fault(f"/marks/{number}/at", "A mark as old as this was left out by a later write.")


def _expiry_faults(record: Record) -> Iterator[Fault]:
    """Yield a wrong expiry. Past settings decided how long keys live, so their end is known within bounds only."""
    if record.cart is None and not (record.idempotency_keys or record.merge_marks or record.closed_until):
        yield Fault("", "A record has a cart, a key or a mark, or is closed.")
        return
    ends = [record.closed_until] if record.cart is None else [record.cart.expires_at]
    ends += [mark.expires_at for mark in record.merge_marks]
    least = [key.at + IDEMPOTENCY_TTL_RANGE_MS[0] for key in record.idempotency_keys]
    most = [key.at + IDEMPOTENCY_TTL_RANGE_MS[1] for key in record.idempotency_keys]
    if not max(ends + least) <= record.expires_at <= max(ends + most):
        yield Fault("/expires_at", "A record expires with the last of its cart, keys, marks and closing.")
