"""What a store keeps for one user_id, what may follow it, and its bytes.

The bytes are one format number and then MessagePack. A newer format gets a new number; this version reads the numbers
it knows and refuses the others, so that an older version never misreads a newer one's carts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from cartsvc.cart import Cart, Limits, Stamp, Strategy
from cartsvc.errors import RecordUnreadable

if TYPE_CHECKING:
    from collections.abc import Container

GUEST = "guest-"  # how a guest's user_id begins
MARK_LIFE = 60_000  # milliseconds an aborted mark lives, and a done one at the least
MARK_KEPT = 86_400_000  # milliseconds that a record may keep a mark past its expires_at
MAX_STORED_MARKS = 256  # in one record, with those whose time is over
DIGEST_BYTES = 16  # of a key, and of its request
_FORMAT = b"\x01"


class Key(Struct, frozen=True, array_like=True):
    """One Idempotency-Key that was accepted: digests of the key and of its request, the answer's status, the time."""

    key: bytes
    request: bytes
    status: int
    at: int


class Mark(Struct, frozen=True, array_like=True):
    """What became of one merge into this cart: ``done`` or aborted; and when its source expires."""

    merge_id: str
    source: str
    done: bool
    at: int
    source_expires_at: int

    @property
    def expires_at(self) -> int:
        """A done mark outlives its source, so that no repetition of the merge finds the one without the other."""
        least = self.at + MARK_LIFE
        return max(least, self.source_expires_at) if self.done else least


class Seal(Struct, frozen=True, array_like=True):
    """A cart that is being merged away: into which target, how, and since when."""

    merge_id: str
    target: str
    strategy: Strategy
    at: int


class Record(Struct, frozen=True, array_like=True):
    """One value a user_id, in every store. ``cart`` is None in a tombstone. Times are milliseconds since the epoch.

    ``tag`` is new at every write: the store's compare token. The record reads as absent from ``expires_at`` on, which
    is the latest of its cart's, keys' and marks' times.
    """

    tag: str
    cart: Cart | None
    keys: tuple[Key, ...]
    marks: tuple[Mark, ...]
    seal: Seal | None
    expires_at: int


KEY_LIFE = (1_000, 30 * 86_400_000)  # milliseconds a key may live: the least and the most that settings allow
CART_LIFE = (1_000, 3650 * 86_400_000)  # the same of a cart after its last change
MAX_KEYS = 1000  # the most keys in one record that settings allow


class Policy(Struct, frozen=True):
    """What the settings say of carts and records. Times are milliseconds."""

    limits: Limits = Limits()
    cart_ttl: int = 30 * 86_400_000
    guest_ttl: int = 7 * 86_400_000
    max_keys: int = 32
    key_ttl: int = 86_400_000

    def stamp(self, user_id: str, *, now: int, tag: str) -> Stamp:
        """What a change made now leaves on this user's cart."""
        ttl = self.guest_ttl if user_id.startswith(GUEST) else self.cart_ttl
        return Stamp(at=now, etag=tag, expires_at=now + ttl)


_NOTHING = Record("", None, (), (), None, 0)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """The record's bytes."""
    return _FORMAT + _encoder.encode(record)


def decode(data: bytes) -> Record:
    """The record of these bytes. Raises RecordUnreadable when they are damaged or of an unknown format."""
    if data[:1] != _FORMAT:
        raise RecordUnreadable
    try:
        return _decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordUnreadable from error


def live_cart(record: Record | None, *, now: int) -> Cart | None:
    """The record's cart, unless there is none or its time is over."""
    if record is None or record.cart is None or record.cart.expires_at <= now:
        return None
    return record.cart


def live_marks(record: Record | None, *, now: int) -> dict[str, Mark]:
    """What became of the merges into this cart, by their ids."""
    return {mark.merge_id: mark for mark in record.marks if mark.expires_at > now} if record else {}


def find_key(record: Record | None, key: bytes, *, now: int, policy: Policy) -> Key | None:
    """The key of this digest, unless it was never accepted or is forgotten."""
    for known in record.keys if record else ():
        if known.key == key and known.at + policy.key_ttl > now:
            return known
    return None


def following(
    old: Record | None,
    cart: Cart | None,
    *,
    stamp: Stamp,
    policy: Policy,
    key: Key | None = None,
    mark: Mark | None = None,
    seal: Seal | None = None,
    forget: Container[str] = (),
) -> Record | None:
    """The record after ``old`` with this cart and seal, and with this key and mark added.

    The same object when that changes nothing; None when there is nothing to keep. What has expired is left out, and so
    are the marks of the merge ids in ``forget``.
    """
    before = old or _NOTHING
    if cart is before.cart and seal == before.seal and key is None and mark is None and not forget:
        return old
    keys = [each for each in before.keys if each.at + policy.key_ttl > stamp.at]
    if key is not None:
        keys = [*keys, key][-policy.max_keys :]
    marks = [each for each in before.marks if each.expires_at > stamp.at and each.merge_id not in forget]
    if mark is not None:
        marks.append(mark)
    ends = [each.at + policy.key_ttl for each in keys] + [each.expires_at for each in marks]
    if cart is not None:
        ends.append(cart.expires_at)
    if not ends:
        return None
    return Record(stamp.etag, cart, tuple(keys), tuple(marks), seal if cart is not None else None, max(ends))
