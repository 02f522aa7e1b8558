"""Holds the record's bytes to what was put in."""

from __future__ import annotations

import msgspec
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from cartsvc.cart import Cart
from cartsvc.errors import RecordUnreadable
from cartsvc.record import Key, Mark, Record, Seal, decode, encode, live_cart

CART = Cart("e", 1, (), None, 10, 10, 100)
RECORD = Record("t", CART, (), (), None, 100)


@given(strategies.records)
def test_bytes_and_back_is_identity(record: Record) -> None:
    """Whatever a record holds comes back from its bytes as it was, and gives the same bytes again."""
    data = encode(record)
    assert decode(data) == record
    assert encode(decode(data)) == data


def test_the_bytes_of_format_1_are_these() -> None:
    """Carts stored by an earlier build stay readable: these bytes were written once and must be read for ever."""
    record = Record(
        "t",
        Cart("e", 2, (), "EUR", 3, 4, 5),
        (Key(b"k", b"r", 200, 6),),
        (Mark("m", "s", True, 7, 8),),  # noqa: FBT003 - the struct's own field
        Seal("i", "g", "sum", 9),
        300,
    )
    data = bytes.fromhex(
        "0196a17497a1650290a34555520304059194c4016bc40172ccc8069195a16da173c3070894a169a167a373756d09cd012c"
    )
    assert encode(record) == data
    assert decode(data) == record


@pytest.mark.parametrize("number", [b"", b"\x00", b"\x02", b"\xff"])
def test_another_format_is_refused(number: bytes) -> None:
    """An older version says that it cannot read a newer one's cart, instead of misreading it."""
    with pytest.raises(RecordUnreadable):
        decode(number + encode(RECORD)[1:])


@given(st.data())
def test_damaged_bytes_are_a_record_or_refused(data: st.DataObject) -> None:
    """Bytes that were cut off or overwritten never bring another exception than RecordUnreadable."""
    whole = encode(data.draw(strategies.records))
    place = data.draw(st.integers(0, len(whole)))
    damaged = whole[:place] + data.draw(st.binary(max_size=8)) + whole[place + data.draw(st.integers(0, 8)) :]
    try:
        record = decode(damaged)
    except RecordUnreadable:
        return
    assert isinstance(record, Record)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=4)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=20,
)


@given(
    data=st.binary(max_size=80) | _values.map(msgspec.msgpack.encode) | st.binary(max_size=5).map(lambda b: b * 40_000)
)
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    """Bytes that never were a record bring no other exception either; and what is one can be written again."""
    try:
        record = decode(b"\x01" + data)
    except RecordUnreadable:
        return
    assert decode(encode(record)) == record


@given(st.data())
def test_members_of_other_types_are_refused(data: st.DataObject) -> None:
    """A record is what its types say or none; nothing is made into another type, such as "12" into 12."""
    members = msgspec.msgpack.decode(encode(data.draw(strategies.records))[1:])
    members[data.draw(st.integers(0, len(members) - 1))] = data.draw(_values | st.sampled_from(["12", 12.0, True, ""]))
    try:
        record = decode(b"\x01" + msgspec.msgpack.encode(members))
    except RecordUnreadable:
        return
    assert msgspec.msgpack.decode(encode(record)[1:]) == members


@pytest.mark.parametrize("cut", [0, 1, 2, 10, -1])
def test_bytes_cut_off_are_refused(cut: int) -> None:
    """Half a record is none."""
    with pytest.raises(RecordUnreadable):
        decode(encode(RECORD)[:cut])


def test_damage_that_reads_as_endless_nesting_is_refused() -> None:
    """What stands behind the known fields is skipped, and can be damaged as well as they."""
    known = encode(RECORD)
    with pytest.raises(RecordUnreadable):
        decode(known[:1] + b"\x97" + known[2:] + b"\x91" * 100_000)


@pytest.mark.parametrize(
    ("record", "now", "expected"),
    [
        (None, 0, None),
        (Record("t", None, (), (), None, 100), 0, None),
        (RECORD, 99, CART),
        (RECORD, 100, None),
        (RECORD, 101, None),
        (Record("t", CART, (), (), None, 500), 100, None),
    ],
)
def test_a_cart_lives_until_its_time(record: Record | None, now: int, expected: Cart | None) -> None:
    """A cart is there until its expires_at, however long its record is kept for."""
    assert live_cart(record, now=now) is expected
