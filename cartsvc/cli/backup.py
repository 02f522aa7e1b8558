"""One line of a back-up: a record as JSON with named fields, and the strict way back.

Each line stands for itself and says its format, so that back-ups can be split, joined and searched. Whatever the store
keeps of a user_id is in it but the tag, which is new at every write. Times have their milliseconds.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, structs

from cartsvc.carts.cart import MAX_LIMITS, Cart, NewItem, Strategy, validate_new_items
from cartsvc.carts.record import DIGEST_BYTES, IdempotencyKey, MergeMark, Record, Seal
from cartsvc.carts.record_check import record_faults
from cartsvc.errors import Fault, InvalidRequest, RecordUnreadable, pointer_segment

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 1

_EPOCH = datetime.fromtimestamp(0, UTC)
_MESSAGE = re.compile(r"(?P<detail>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_PATH_SEGMENT = re.compile(r"\.(\w+)|\[(\d+)\]")  # msgspec writes [...] for a member of options, which it does not name


class _Time(int):
    """Milliseconds since the epoch; in the line as 2026-01-02T03:04:05.678Z (RFC 3339)."""

    __slots__ = ()


_Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]  # an ETag stands in a header: no quote, no line end
_Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class _Item(Struct, forbid_unknown_fields=True):
    item_id: str
    product_id: str
    options: dict[str, str]
    quantity: int
    unit_price: int | None
    added_at: _Time


class _Cart(Struct, forbid_unknown_fields=True):
    etag: _Token
    version: int
    items: list[_Item]
    currency: str | None
    created_at: _Time
    updated_at: _Time
    expires_at: _Time


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


# The names of a line are public; those of attributes are not. The tag is left out.
_PARTS = {
    "expires_at": "expires_at",
    "cart": "cart",
    "seal": "seal",
    "keys": "idempotency_keys",
    "marks": "merge_marks",
}
_JSON_NAMES = {"key_digest": "key", "fingerprint": "request"}  # where they differ


def write_line(user_id: str, record: Record) -> bytes:
    """The record as one line, with its end. Raises RecordUnreadable when it holds a time that no calendar has."""
    try:
        parts = {name: _to_json(name, getattr(record, attribute)) for name, attribute in _PARTS.items()}
    except OverflowError as error:
        raise RecordUnreadable from error
    return msgspec.json.encode({"format": FORMAT, "user_id": user_id, **parts}) + b"\n"


def read_line(line: bytes, *, tag: str, now: int) -> tuple[str, Record]:
    """Return the user_id and the record of a line; the record gets this tag.

    ``now`` is in milliseconds since the epoch. Raises InvalidRequest, which names what is wrong and where, unless the
    service could have made this record by now.
    """
    try:
        parsed = _decoder.decode(line)
    except msgspec.ValidationError as error:
        found = _MESSAGE.fullmatch(str(error))
        detail, path = found.group("detail", "path") if found else (str(error), None)
        pointer = "".join(f"/{name or index}" for name, index in _PATH_SEGMENT.findall(path or ""))
        raise InvalidRequest([Fault(pointer, f"{detail}.")]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest([Fault("", f"This is no JSON: {error}.")]) from None
    if faults := list(_repeated_names(line)):
        raise InvalidRequest(faults)
    record = Record(
        tag,
        None if parsed.cart is None else _cart(parsed.cart),
        tuple([IdempotencyKey(k.key, k.request, k.status, int(k.at)) for k in parsed.keys]),
        tuple([MergeMark(m.merge_id, m.source, m.done, int(m.at), int(m.source_expires_at)) for m in parsed.marks]),
        None if (s := parsed.seal) is None else Seal(s.merge_id, s.target, s.strategy, int(s.at)),
        int(parsed.expires_at),
    )
    if faults := list(record_faults(parsed.user_id, record, now=now)):
        raise InvalidRequest(faults)
    return parsed.user_id, record


def _to_json(name: str, part: Any) -> Any:  # noqa: ANN401 - any part of a record, and what JSON is made of
    if isinstance(part, Struct):
        return {_JSON_NAMES.get(each, each): _to_json(each, getattr(part, each)) for each in part.__struct_fields__}
    if name == "options":
        return dict(part)
    if isinstance(part, tuple):
        return [_to_json("", each) for each in part]
    return _format_time(part) if name.endswith("at") else part


def _format_time(milliseconds: int) -> str:
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _parse_time(_: type, text: object) -> _Time:
    """What JSON has no type for: only a time. Written as _format_time does, or refused."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else _EPOCH
        time = _Time((moment - _EPOCH) // timedelta(milliseconds=1))
    except (ValueError, TypeError):  # no time; one without a zone
        time = _Time(0)
    if time < 0 or _format_time(time) != text:
        raise ValueError("A time is written as in 2026-01-02T03:04:05.678Z")
    return time


_decoder = msgspec.json.Decoder(_Line, dec_hook=_parse_time)


def _cart(line: _Cart) -> Cart:
    """The cart, if the rules of carts could have made it; they make it anew from what stands in the line."""
    pointers = [f"/cart/items/{number}" for number in range(len(line.items))]
    lines = [
        NewItem(each.product_id, each.quantity, each.options, each.unit_price, _currency(line, each), pointer)
        for each, pointer in zip(line.items, pointers, strict=True)
    ]
    # The limits are the greatest that settings allow, because the backup may come from a shop with larger ones. Texts
    # stay as they are, because the id of an item that was stored before texts were normalised depends on them.
    made = validate_new_items(lines, limits=MAX_LIMITS, at=int(line.updated_at), as_stored=True).items
    faults = [
        Fault(pointer + "/item_id", "This is not the item_id of the product and its options.")
        for pointer, each, item in zip(pointers, line.items, made, strict=False)
        if each.item_id != item.item_id
    ]
    if len(made) < len(line.items):  # and so the others are not those of these places
        faults = [Fault("/cart/items", "Two items have the same product and the same options.")]
    if line.currency is not None and all(each.unit_price is None for each in line.items):
        faults.append(Fault("/cart/currency", "A currency stands only where an item has a price."))
    if faults:
        raise InvalidRequest(faults)
    items = [structs.replace(item, added_at=int(each.added_at)) for item, each in zip(made, line.items, strict=True)]
    times = (int(line.created_at), int(line.updated_at), int(line.expires_at))
    return Cart(line.etag, line.version, tuple(items), line.currency, *times)


def _currency(cart: _Cart, item: _Item) -> str | None:
    return None if item.unit_price is None else cart.currency


class _Repeating(dict[str, Any]):
    """An object of the line that has a name more than once."""


def _repeated_names(line: bytes) -> Iterator[Fault]:
    """Yield the places of names that are there twice in one object: msgspec would take the last one's value."""
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
        yield Fault(pointer, "A name is there twice in this object.")
    members = enumerate(part) if isinstance(part, list) else part.items() if isinstance(part, dict) else ()
    for name, each in members:
        yield from _repeating(each, pointer + pointer_segment(str(name)))
