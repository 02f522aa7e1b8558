"""Tests of what a record becomes when it is changed, and of its bytes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cartsvc.carts.cart import Cart, Revision
from cartsvc.carts.record import (
    CLOCK_MARGIN_MS,
    DAY_MS,
    EMPTY,
    IdempotencyKey,
    MergeMark,
    Policy,
    Record,
    Seal,
    decode,
    encode,
    next_record,
)
from cartsvc.errors import RecordUnreadable
from tests.support import strategies

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
        (IdempotencyKey(b"k", b"r", 200, 6),),
        (MergeMark("m", "s", True, 7, 8),),  # noqa: FBT003 - the struct's own field
        Seal("i", "g", "sum", 9),
        300,
    )
    data = bytes.fromhex(
        "0196a17497a1650290a34555520304059194c4016bc40172ccc8069195a16da173c3070894a169a167a373756d09cd012c"
    )
    assert decode(data) == record  # as before metadata and closed guests
    longer = bytes.fromhex(
        "0197a17498a1650290a3455552030405909194c4016bc40172ccc8069195a16da173c3070894a169a167a373756d09cd012c00"
    )
    assert encode(record) == longer
    assert decode(longer) == record


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
        (Record("t", None, (), (), None, 100), 0, None),
        (RECORD, 99, CART),
        (RECORD, 100, None),
        (RECORD, 101, None),
        (Record("t", CART, (), (), None, 500), 100, None),
    ],
)
def test_a_cart_lives_until_its_time(record: Record, now: int, expected: Cart | None) -> None:
    """A cart is there until its expires_at, however long its record is kept for."""
    assert record.cart_at(now) is expected


# ---- changes ----

NOW = 1_000_000
POLICY = Policy(max_idempotency_keys=3, idempotency_ttl_ms=1_000)
STAMP = Revision(at=NOW, etag="new", expires_at=NOW + 1)
SEAL = Seal("m", "t", "sum", NOW)
PENDING = MergeMark("m", "s", done=False, at=NOW, source_expires_at=NOW + 5)
DONE = MergeMark("m", "s", done=True, at=NOW, source_expires_at=NOW + 5)
LIVE = structs.replace(CART, expires_at=NOW + 300)
FULL = Record("old", LIVE, (IdempotencyKey(b"k", b"r", 200, NOW),), (DONE, MergeMark("n", "s", False, NOW, 0)), SEAL, 0)  # noqa: FBT003


def key(number: int, *, at: int = NOW) -> IdempotencyKey:
    """Return a key that was accepted at this time."""
    return IdempotencyKey(bytes([number]), b"r", 200, at)


def written(new: Record, old: Record | None = FULL) -> Record:
    """Return what the store keeps after this change."""
    record = next_record(old, new, revision=STAMP, policy=POLICY)
    assert record is not None
    return record


@given(strategies.records)
def test_changes_that_change_nothing_are_identity(record: Record) -> None:
    """The same object comes back, and is not written."""
    absent = "".join(mark.merge_id for mark in record.merge_marks) + "absent"
    assert record.with_cart(record.cart) is record
    assert record.with_key(None) is record
    assert record.without_marks(()) is record
    assert record.without_marks({absent}) is record
    opened = structs.replace(record, seal=None)
    assert opened.without_seal() is opened
    assert next_record(record, record, revision=STAMP, policy=POLICY) is record


def test_absent_record_that_stays_absent() -> None:
    """EMPTY stands for it: unchanged it is None, and is not written."""
    assert next_record(None, EMPTY, revision=STAMP, policy=POLICY) is None
    assert next_record(None, EMPTY.with_key(None).with_cart(None), revision=STAMP, policy=POLICY) is None


@pytest.mark.parametrize("old", [None, FULL])
def test_written_record_has_a_new_tag(old: Record | None) -> None:
    """The tag is the revision's, and the ETag of the cart stays."""
    record = written(EMPTY.with_cart(LIVE), old)
    assert (record.tag, record.cart) == ("new", LIVE)


@pytest.mark.parametrize("old", [None, FULL])
def test_nothing_left_is_none(old: Record | None) -> None:
    """A record whose cart, keys and marks are gone or expired is removed from the store."""
    nothing = EMPTY.with_key(key(1, at=NOW - 1_000)).with_mark(structs.replace(PENDING, at=NOW - DAY_MS))
    assert next_record(old, nothing, revision=STAMP, policy=POLICY) is None
    assert next_record(old, structs.replace(EMPTY, tag="emptied"), revision=STAMP, policy=POLICY) is None


def test_seal_is_dropped_with_the_cart() -> None:
    """Without a cart nothing is sealed; a changed cart stays sealed."""
    assert FULL.with_cart(None).seal is None
    assert FULL.with_cart(CART).seal is SEAL
    assert (FULL.without_seal().seal, FULL.without_seal().cart) == (None, LIVE)
    assert FULL.without_seal().with_seal(SEAL) == FULL
    assert written(FULL.with_cart(None)).seal is None


def test_mark_replaces_that_of_the_same_merge() -> None:
    """A done mark takes the place of the pending one; marks of other merges stay."""
    record = EMPTY.with_mark(PENDING).with_mark(structs.replace(PENDING, merge_id="n")).with_mark(DONE)
    assert [(mark.merge_id, mark.done) for mark in record.merge_marks] == [("n", False), ("m", True)]
    assert (record.find_mark("m"), record.find_mark("absent")) == (DONE, None)
    assert [mark.merge_id for mark in record.without_marks({"m"}).merge_marks] == ["n"]
    assert record.without_marks({"m", "n"}).merge_marks == ()


def test_mark_is_found_however_old_it_is() -> None:
    """The time of a mark decides only when a write drops it."""
    assert EMPTY.with_mark(structs.replace(PENDING, at=-(10**12))).find_mark("m") is not None


@pytest.mark.parametrize(("mark", "expires_at"), [(PENDING, NOW + CLOCK_MARGIN_MS), (DONE, NOW + 5 + CLOCK_MARGIN_MS)])
def test_mark_expires_a_day_late(mark: MergeMark, expires_at: int) -> None:
    """A pending mark a day after it was made, a done mark a day after its source; then a write drops it."""
    assert CLOCK_MARGIN_MS == DAY_MS
    assert mark.expires_at == expires_at
    record = EMPTY.with_mark(mark).with_cart(structs.replace(LIVE, expires_at=10**12))
    for at, marks in ((expires_at - 1, (mark,)), (expires_at, ())):
        revision = Revision(at=at, etag="new", expires_at=0)
        kept = next_record(FULL, record, revision=revision, policy=POLICY)
        assert kept is not None
        assert kept.merge_marks == marks


def test_keys_are_bounded() -> None:
    """The last ones are kept, as many as the settings say, and no expired one."""
    record = EMPTY
    for number in range(6):
        record = record.with_key(key(number))
    assert [each.key_digest for each in written(record).idempotency_keys] == [b"\x03", b"\x04", b"\x05"]
    expired = EMPTY.with_key(key(1, at=NOW - 999)).with_key(key(2, at=NOW - 1_000)).with_key(key(3))
    assert [each.key_digest for each in written(expired).idempotency_keys] == [b"\x01", b"\x03"]


@pytest.mark.parametrize(
    ("record", "expires_at"),
    [
        (EMPTY.with_cart(LIVE), NOW + 300),
        (EMPTY.with_key(key(1)), NOW + 1_000),
        (EMPTY.with_cart(LIVE).with_key(key(1)), NOW + 1_000),
        (EMPTY.with_cart(LIVE).with_key(key(1, at=NOW - 900)), NOW + 300),
        (EMPTY.with_key(key(1)).with_key(key(2, at=NOW - 5)), NOW + 1_000),
        (EMPTY.with_cart(LIVE).with_mark(PENDING), NOW + DAY_MS),
        (EMPTY.with_mark(DONE).with_key(key(1)), NOW + 5 + DAY_MS),
        (EMPTY.with_cart(structs.replace(LIVE, expires_at=NOW + 2 * DAY_MS)).with_mark(DONE), NOW + 2 * DAY_MS),
    ],
)
def test_record_expires_with_its_last_part(record: Record, expires_at: int) -> None:
    """The latest of the times of its cart, keys and marks."""
    assert written(record).expires_at == expires_at


def test_a_record_is_closed_until_its_time() -> None:
    """It has neither cart nor seal, is kept until then, and a later write finds it open."""
    closed = FULL.merged_away(NOW + 500)
    assert (closed.cart, closed.seal, closed.merge_marks) == (None, None, FULL.merge_marks)
    only_closed = EMPTY.merged_away(NOW + 500)
    assert (written(only_closed).closed_until, written(only_closed).expires_at) == (NOW + 500, NOW + 500)
    assert next_record(FULL, EMPTY.merged_away(NOW), revision=STAMP, policy=POLICY) is None
    assert written(EMPTY.merged_away(NOW).with_cart(LIVE)).closed_until == 0


def test_keys_that_exceed_the_bound_do_not_count() -> None:
    """A key that is dropped does not keep the record."""
    keys = [key(1, at=NOW + 500), key(2), key(3), key(4)]
    record = EMPTY
    for each in keys:
        record = record.with_key(each)
    assert written(record).expires_at == NOW + 1_000


@given(strategies.records, st.none() | strategies.records)
def test_written_records_hold_together(new: Record, old: Record | None) -> None:
    """Whatever is written: no more keys than allowed, nothing expired, and an end that is the latest of its parts."""
    record = next_record(old, new, revision=STAMP, policy=POLICY)
    if record is None or record is old:
        return
    ends = [each.at + POLICY.idempotency_ttl_ms for each in record.idempotency_keys] + [
        mark.expires_at for mark in record.merge_marks
    ]
    if record.closed_until:
        ends.append(record.closed_until)
    assert len(record.idempotency_keys) <= POLICY.max_idempotency_keys
    assert all(end > NOW for end in ends)
    assert record.expires_at == max(ends + ([record.cart.expires_at] if record.cart else []))
