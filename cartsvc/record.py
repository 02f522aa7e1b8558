"""What a store keeps for one user_id, and its bytes.

The bytes are one format number and then MessagePack. A newer format gets a new number; this version reads the numbers
it knows and refuses the others, so that an older version never misreads a newer one's carts.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from cartsvc.cart import Cart
from cartsvc.errors import RecordUnreadable

_FORMAT = b"\x01"


class Key(Struct, frozen=True, array_like=True):
    """One Idempotency-Key that was accepted: digests of the key and of its request, the answer's status, the time."""

    key: bytes
    request: bytes
    status: int
    at: int


class Mark(Struct, frozen=True, array_like=True):
    """What became of one merge into this cart: ``done`` or ``aborted``; and when its source expires."""

    merge_id: str
    source: str
    done: bool
    at: int
    source_expires_at: int


class Seal(Struct, frozen=True, array_like=True):
    """A cart that is being merged away: into which target, how, and since when."""

    merge_id: str
    target: str
    strategy: str
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
