"""Test the values and the advice of stores/postgresql_statements.py."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest

from cartsvc.stores.postgresql_statements import advice, end_of_minute, timestamp

MINUTE = 60_000
SAFE = {
    "fsync": "on",
    "full_page_writes": "on",
    "statement_timeout": "0",
    "synchronous_commit": "on",
    "synchronous_standby_names": "standby",
}


def moment(data: bytes) -> int:
    """Return the milliseconds since 1970 of a timestamp of the server."""
    (microseconds,) = struct.unpack("!q", data)
    since = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
    return int(microseconds / 1000 + since * 1000)


@pytest.mark.parametrize(
    ("time", "stored"),
    [(0, 0), (-1, 0), (-(10**18), 0), (1_700_000_000_123, 1_700_000_000_123), (10**18, 253_402_300_800_000)],
)
def test_a_timestamp_is_within_what_servers_store(time: int, stored: int) -> None:
    """From 1970 to the year 10000; to the millisecond between them."""
    assert moment(timestamp(time)) == stored


@pytest.mark.parametrize(("time", "end"), [(0, 0), (1, MINUTE), (MINUTE, MINUTE), (MINUTE + 1, 2 * MINUTE)])
def test_a_record_ends_within_its_minute(time: int, end: int) -> None:
    """The end is never earlier than the time, so no row is deleted before its record has expired."""
    assert moment(end_of_minute(time)) == end


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"synchronous_commit": "remote_write"}, None),
        ({"fsync": "off"}, "turn fsync and full_page_writes on"),
        ({"full_page_writes": "off"}, "turn fsync and full_page_writes on"),
        ({"synchronous_commit": "off"}, "synchronous_commit is off"),
        ({"synchronous_commit": "local"}, "synchronous_commit is local"),
        ({"synchronous_standby_names": ""}, "no synchronous standby"),
        ({"statement_timeout": "5000"}, "statement_timeout must be 0"),
    ],
)
def test_advice(changed: dict[str, str], words: str | None) -> None:
    """One warning for each setting that may lose carts."""
    found = advice(SAFE | changed)
    assert [words in each for each in found if words is not None] == [True] * (words is not None)
    assert len(found) == int(words is not None)
