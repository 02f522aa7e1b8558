"""Define the record that a store keeps for one user_id, its next state after a change, and its bytes.

The bytes are a format number followed by MessagePack. A new format gets a new number. A version rejects the numbers
that it does not know, so an older version never misreads the carts of a newer one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from cartsvc.carts.cart import Cart, Limits, Revision
from cartsvc.carts.combine import Strategy
from cartsvc.errors import RecordUnreadable

if TYPE_CHECKING:
    from collections.abc import Container

GUEST_PREFIX = "guest-"  # begins the user_id of a guest
DAY_MS = 86_400_000
CLOCK_MARGIN_MS = DAY_MS  # marks outlive their use by this much, so servers whose clocks differ by less find them
ABANDONED_AFTER_MS = 60_000  # a pending mark of this age is not used any more
MAX_MARKS = 64  # in one record
DIGEST_BYTES = 16  # of an Idempotency-Key, and of its request
_FORMAT = b"\x01"


class IdempotencyKey(Struct, frozen=True, array_like=True):
    """An accepted Idempotency-Key: digests of the key and of its request, the status of the response, and the time."""

    key_digest: bytes
    fingerprint: bytes
    status: int
    at: int


class MergeMark(Struct, frozen=True, array_like=True):
    """One merge into this cart: pending until its items have been moved here, ``done`` afterwards.

    A pending mark is the permission to move the items: removing it aborts the merge for good, so it may be removed at
    any time. It permits nothing from ABANDONED_AFTER_MS on, long before it expires, because a server whose clock is
    ahead takes an expired mark for a removed one. A done mark must stay for as long as the source can have the seal of
    this merge.
    """

    merge_id: str
    source: str
    done: bool
    at: int
    source_expires_at: int

    def is_abandoned(self, now: int) -> bool:
        """Return whether the mark is pending, and too old to be used."""
        return not self.done and now - self.at >= ABANDONED_AFTER_MS

    @property
    def expires_at(self) -> int:
        """The time from which on the next write removes the mark."""
        return (self.source_expires_at if self.done else self.at) + CLOCK_MARGIN_MS


class Seal(Struct, frozen=True, array_like=True):
    """The lock on the source of a merge: the target, the strategy, and the time of sealing."""

    merge_id: str
    target: str
    strategy: Strategy
    at: int


class Record(Struct, frozen=True, array_like=True):
    """What a store keeps for one user_id. ``cart`` is None in a tombstone. Times are milliseconds since the epoch.

    ``tag`` is new with every write: a store compares it. From ``expires_at`` on, the latest time of its cart, keys and
    marks and of ``closed_until``, the record counts as absent. Until ``closed_until``, the record of a guest whose cart
    was merged into another one takes no cart; 0 in all other records. The ``with_...`` and ``without_...`` methods
    return the same object if nothing changes; :func:`next_record` prepares their result for the store.
    """

    tag: str
    cart: Cart | None
    idempotency_keys: tuple[IdempotencyKey, ...]
    merge_marks: tuple[MergeMark, ...]
    seal: Seal | None
    expires_at: int
    closed_until: int = 0

    def is_live(self, now: int) -> bool:
        """Return whether the record has not expired."""
        return self.expires_at > now

    def cart_at(self, now: int) -> Cart | None:
        """Return the cart, or None if it is absent or has expired."""
        return self.cart if self.cart is not None and self.cart.expires_at > now else None

    def with_cart(self, cart: Cart | None) -> Record:
        """Return the record with this cart; a record without a cart has no seal either."""
        if cart is self.cart:
            return self
        return structs.replace(self, cart=cart, seal=self.seal if cart is not None else None)

    def with_seal(self, seal: Seal) -> Record:
        """Return the record with its cart sealed."""
        return structs.replace(self, seal=seal)

    def without_seal(self) -> Record:
        """Return the record with its cart open for writes."""
        return self if self.seal is None else structs.replace(self, seal=None)

    def merged_away(self, closed_until: int) -> Record:
        """Return the record without its cart, which was merged into another one; closed until then."""
        return structs.replace(self, cart=None, seal=None, closed_until=closed_until)

    def with_key(self, key: IdempotencyKey | None) -> Record:
        """Return the record with this Idempotency-Key added, unless it is None."""
        return self if key is None else structs.replace(self, idempotency_keys=(*self.idempotency_keys, key))

    def with_mark(self, mark: MergeMark) -> Record:
        """Return the record with this mark, which replaces another mark of the same merge."""
        return structs.replace(self, merge_marks=(*self.without_marks((mark.merge_id,)).merge_marks, mark))

    def without_marks(self, merge_ids: Container[str]) -> Record:
        """Return the record without the marks of these merges."""
        marks = tuple([mark for mark in self.merge_marks if mark.merge_id not in merge_ids])
        return self if len(marks) == len(self.merge_marks) else structs.replace(self, merge_marks=marks)

    def find_mark(self, merge_id: str) -> MergeMark | None:
        """Return the mark of this merge, however old it is: clocks differ, ids do not."""
        return next((mark for mark in self.merge_marks if mark.merge_id == merge_id), None)


EMPTY = Record("", None, (), (), None, 0)  # an absent record, so that a change needs no second case
IDEMPOTENCY_TTL_RANGE_MS = (1_000, 30 * DAY_MS)  # minimum and maximum that settings allow for the life of a key
CART_TTL_RANGE_MS = (1_000, 3650 * DAY_MS)  # the same for a cart after its last change
MAX_IDEMPOTENCY_KEYS = 1000  # in one record: the maximum that settings allow


class Policy(Struct, frozen=True):
    """The settings of carts and records. Times are milliseconds."""

    limits: Limits = Limits()
    cart_ttl_ms: int = 30 * DAY_MS
    guest_ttl_ms: int = 7 * DAY_MS
    max_idempotency_keys: int = 32
    idempotency_ttl_ms: int = DAY_MS

    def new_revision(self, user_id: str, *, now: int, tag: str) -> Revision:
        """Return the metadata that a change at the time ``now`` gives the cart of this user."""
        ttl = self.guest_ttl_ms if is_guest(user_id) else self.cart_ttl_ms
        return Revision(at=now, etag=tag, expires_at=now + ttl)


def is_guest(user_id: str) -> bool:
    """Return whether this is the user_id of a guest, whose cart lives shorter and is closed once it was merged."""
    return user_id.startswith(GUEST_PREFIX)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """Return the record as bytes."""
    return _FORMAT + _encoder.encode(record)


def decode(data: bytes) -> Record:
    """Return the record of these bytes. Raises RecordUnreadable if they are damaged or of an unknown format."""
    if data[:1] != _FORMAT:
        raise RecordUnreadable
    try:
        return _decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordUnreadable from error


def find_idempotency_key(
    record: Record | None, key_digest: bytes, *, now: int, policy: Policy
) -> IdempotencyKey | None:
    """Return the Idempotency-Key with this digest, or None if it was never accepted or has expired."""
    for known in record.idempotency_keys if record else ():
        if known.key_digest == key_digest and known.at + policy.idempotency_ttl_ms > now:
            return known
    return None


def next_record(old: Record | None, new: Record, *, revision: Revision, policy: Policy) -> Record | None:
    """Return the record to store after ``old`` has become ``new``: with a new tag, without expired keys and marks.

    Returns ``old`` itself if nothing has changed, and None if nothing is left to keep.
    """
    if new is (old or EMPTY):
        return old
    keys = [key for key in new.idempotency_keys if key.at + policy.idempotency_ttl_ms > revision.at][
        -policy.max_idempotency_keys :
    ]
    marks = [mark for mark in new.merge_marks if mark.expires_at > revision.at]
    ends = [key.at + policy.idempotency_ttl_ms for key in keys] + [mark.expires_at for mark in marks]
    if new.cart is not None:
        ends.append(new.cart.expires_at)
    closed_until = new.closed_until if new.closed_until > revision.at else 0
    if closed_until:
        ends.append(closed_until)
    if not ends:
        return None
    return Record(revision.etag, new.cart, tuple(keys), tuple(marks), new.seal, max(ends), closed_until)
