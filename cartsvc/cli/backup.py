"""Write a record as one line of a backup, JSON with named members, and read it back strictly.

Each line is complete and contains the version of its format, so that backups can be split, joined and searched. It has
everything that the store keeps for a user_id except the tag, which is new at every write. Times have milliseconds.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, structs

from cartsvc.carts.cart import MAX_LIMITS, Cart, sorted_pairs
from cartsvc.carts.combine import Strategy
from cartsvc.carts.record import DIGEST_BYTES, IdempotencyKey, MergeMark, Record, Seal
from cartsvc.carts.record_check import record_faults
from cartsvc.carts.validation import NewItem, validate_new_items
from cartsvc.errors import Fault, InvalidRequest, RecordUnreadable, pointer_segment

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT: Final = 1

_EPOCH = datetime.fromtimestamp(0, UTC)
_MESSAGE = re.compile(r"(?P<detail>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_PATH_SEGMENT = re.compile(r"\.(\w+)|\[(\d+)\]")  # msgspec writes [...] for any member of options


class _Time:
    """A time; in the line as 2026-01-02T03:04:05.678Z (RFC 3339)."""

    __slots__ = ("ms",)

    def __init__(self, ms: int) -> None:
        self.ms = ms  # milliseconds since the epoch

    def __str__(self) -> str:
        """Return the text in the line. Raise OverflowError before the year 1 and after 9999."""
        moment = _EPOCH + timedelta(milliseconds=self.ms)
        return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


_Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]  # part of a header (ETag): no quote, no line end
_Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]

# ---- the members of a line, in their order; their names are public, those of a record's attributes are not ----


class _Item(Struct, forbid_unknown_fields=True):
    item_id: str
    product_id: str
    options: dict[str, str]
    quantity: int
    unit_price: int | None
    added_at: _Time
    metadata: dict[str, str] = {}


class _Cart(Struct, forbid_unknown_fields=True):
    etag: _Token
    version: int
    items: list[_Item]
    currency: str | None
    created_at: _Time
    updated_at: _Time
    expires_at: _Time
    metadata: dict[str, str] = {}


class _Seal(Struct, forbid_unknown_fields=True):
    merge_id: _Token
    target: str
    strategy: Strategy
    at: _Time


class _Key(Struct, forbid_unknown_fields=True):
    key: _Digest
    request: _Digest
    status: int
    at: _Time


class _Mark(Struct, forbid_unknown_fields=True):
    merge_id: _Token
    source: str
    done: bool
    at: _Time
    source_expires_at: _Time


class _Line(Struct, forbid_unknown_fields=True):
    format: Literal[1]
    user_id: str
    expires_at: _Time
    cart: _Cart | None
    seal: _Seal | None
    keys: list[_Key]
    marks: list[_Mark]
    closed_until: _Time | None = None


# ---- writing ----


def write_line(user_id: str, record: Record) -> bytes:
    """Return the record as one line, with its end. Raise RecordUnreadable when a time is outside the calendar."""
    try:
        return _encoder.encode(_to_line(user_id, record)) + b"\n"
    except OverflowError as error:
        raise RecordUnreadable from error


def _to_line(user_id: str, record: Record) -> _Line:
    cart, seal = record.cart, record.seal
    return _Line(
        FORMAT,
        user_id,
        _Time(record.expires_at),
        None if cart is None else _to_cart(cart),
        None if seal is None else _Seal(seal.merge_id, seal.target, seal.strategy, _Time(seal.at)),
        [_Key(key.key_digest, key.fingerprint, key.status, _Time(key.at)) for key in record.idempotency_keys],
        [
            _Mark(mark.merge_id, mark.source, mark.done, _Time(mark.at), _Time(mark.source_expires_at))
            for mark in record.merge_marks
        ],
        _Time(record.closed_until) if record.closed_until else None,
    )


def _to_cart(cart: Cart) -> _Cart:
    items = [
        _Item(
            item.item_id,
            item.product_id,
            dict(item.options),
            item.quantity,
            item.unit_price,
            _Time(item.added_at),
            dict(item.metadata),
        )
        for item in cart.items
    ]
    times = (_Time(cart.created_at), _Time(cart.updated_at), _Time(cart.expires_at))
    return _Cart(cart.etag, cart.version, items, cart.currency, *times, dict(cart.metadata))


_encoder = msgspec.json.Encoder(enc_hook=str)  # of _Time; msgspec knows the other types


# ---- reading ----


def read_line(line: bytes, *, tag: str, now: int) -> tuple[str, Record]:
    """Return the user_id and the record of a line; the record gets this tag.

    ``now`` is in milliseconds since the epoch. Raise InvalidRequest, which lists the faults with their places, unless
    the service could have written this record by now.
    """
    try:
        parsed = _decoder.decode(line)
    except msgspec.ValidationError as error:
        found = _MESSAGE.fullmatch(str(error))
        detail, path = found.group("detail", "path") if found else (str(error), None)
        pointer = "".join(f"/{name or index}" for name, index in _PATH_SEGMENT.findall(path or ""))
        raise InvalidRequest([Fault(pointer, f"{detail}.")]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest([Fault("", f"This is not JSON: {error}.")]) from None
    if faults := list(_repeated_names(line)):
        raise InvalidRequest(faults)
    record = _from_line(parsed, tag)
    if faults := list(record_faults(parsed.user_id, record, now=now)):
        raise InvalidRequest(faults)
    return parsed.user_id, record


def _from_line(line: _Line, tag: str) -> Record:
    cart, seal = line.cart, line.seal
    return Record(
        tag,
        None if cart is None else _from_cart(cart),
        tuple([IdempotencyKey(key.key, key.request, key.status, key.at.ms) for key in line.keys]),
        tuple(
            [
                MergeMark(mark.merge_id, mark.source, mark.done, mark.at.ms, mark.source_expires_at.ms)
                for mark in line.marks
            ]
        ),
        None if seal is None else Seal(seal.merge_id, seal.target, seal.strategy, seal.at.ms),
        line.expires_at.ms,
        0 if line.closed_until is None else line.closed_until.ms,
    )


def _parse_time(_: type, text: object) -> _Time:
    """Return the time of a text that is exactly as _Time writes it; no other type of a line needs this hook."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else _EPOCH
        time = _Time((moment - _EPOCH) // timedelta(milliseconds=1))
    except (ValueError, TypeError):  # not a time; a time without a zone
        time = _Time(0)
    if time.ms < 0 or str(time) != text:
        raise ValueError("A time is written as in 2026-01-02T03:04:05.678Z")
    return time


_decoder = msgspec.json.Decoder(_Line, dec_hook=_parse_time)


def _from_cart(cart: _Cart) -> Cart:
    """Return the cart. Raise InvalidRequest unless the rules of carts create the same cart from its content."""
    pointers = [f"/cart/items/{number}" for number in range(len(cart.items))]
    new_items = [
        NewItem(
            item.product_id,
            item.quantity,
            item.options,
            item.unit_price,
            _currency(cart, item),
            pointer,
            item.metadata,
        )
        for item, pointer in zip(cart.items, pointers, strict=True)
    ]
    # The limits are the greatest that settings allow, because the backup may come from a shop with larger ones. Texts
    # stay as they are, because the id of an item that was stored before texts were normalised depends on them.
    made = validate_new_items(new_items, limits=MAX_LIMITS, at=cart.updated_at.ms, as_stored=True).items
    faults = [
        Fault(pointer + "/item_id", "This is not the item_id of the product and its options.")
        for pointer, item, expected in zip(pointers, cart.items, made, strict=False)
        if item.item_id != expected.item_id
    ]
    if len(made) < len(cart.items):  # two items became one, so later ones were compared with the wrong item
        faults = [Fault("/cart/items", "Two items have the same product and the same options.")]
    if cart.currency is not None and all(item.unit_price is None for item in cart.items):
        faults.append(Fault("/cart/currency", "A currency is allowed only if an item has a price."))
    if faults:
        raise InvalidRequest(faults)
    items = [structs.replace(new, added_at=item.added_at.ms) for new, item in zip(made, cart.items, strict=True)]
    times = (cart.created_at.ms, cart.updated_at.ms, cart.expires_at.ms)
    return Cart(cart.etag, cart.version, tuple(items), cart.currency, *times, sorted_pairs(cart.metadata))


def _currency(cart: _Cart, item: _Item) -> str | None:
    return None if item.unit_price is None else cart.currency


class _Repeating(dict[str, Any]):
    """An object of the line that has a name more than once."""


def _repeated_names(line: bytes) -> Iterator[Fault]:
    """Yield a fault for each object with a repeated name, because msgspec silently uses the last value."""
    repeats = False

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeats
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        repeats = True
        return _Repeating(found)

    parsed = json.loads(line, object_pairs_hook=members)
    if repeats:
        yield from _repeating(parsed, "")


def _repeating(part: Any, pointer: str) -> Iterator[Fault]:  # noqa: ANN401 - what JSON is made of
    if isinstance(part, _Repeating):
        yield Fault(pointer, "This object has a name twice.")
    members = enumerate(part) if isinstance(part, list) else part.items() if isinstance(part, dict) else ()
    for name, each in members:
        yield from _repeating(each, pointer + pointer_segment(str(name)))
