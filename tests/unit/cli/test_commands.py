"""Holds flask carts to its promises: what goes out comes in as it was, and what is wrong is named and left out."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
import time
import tracemalloc
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cartsvc.carts.cart import MAX_LIMITS, MAX_VERSION, Item, NewItem
from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.record import (
    CART_TTL_RANGE_MS,
    IDEMPOTENCY_TTL_RANGE_MS,
    MAX_IDEMPOTENCY_KEYS,
    IdempotencyKey,
    Policy,
    Record,
    encode,
)
from cartsvc.cli.backup import read_line, write_line
from cartsvc.cli.commands import carts_commands
from cartsvc.errors import OutcomeUnknown, RecordUnreadable, SettingsError, StoreError, StoreFull
from cartsvc.settings import Settings
from cartsvc.stores.memory import MemoryStore
from tests.support import strategies
from tests.support.clock import FakeClock
from tests.support.desk import MUG, NONE, TEE, Desk, Shelf
from tests.support.faults import Crash, FaultyStore, crash
from tests.support.servers import serve
from tests.support.services import make_service
from tests.support.store_contract import a_record, put
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import click

    from tests.support.servers import Server

SECONDS = 60
ROOT = Path(__file__).parents[3]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def other(desk: Desk) -> Desk:
    """Another store, empty."""
    return Desk(desk.clock)


def fields_of(line: str | bytes) -> dict[str, Any]:
    return dict(json.loads(line))


# ---- out and in again ----


def test_what_goes_out_comes_in_as_it_was(desk: Desk, other: Desk) -> None:
    """Each kind of record is whole in another store: cart, ETag, keys, marks, seal and times. Only the tag is new."""
    desk.fill()
    exported = desk.run("export")
    assert exported.exit_code == 0
    assert exported.stderr == "6 exported, 0 unreadable\n"
    assert len(desk.content()) == 6
    imported = other.run("import", stdin=exported.stdout_bytes)
    assert (imported.exit_code, imported.stdout) == (0, "")
    assert imported.stderr.startswith("6 imported, 0 unchanged, 0 replaced, 0 skipped, 0 expired, 0 invalid, ")
    assert other.content() == desk.content()
    tags = [record.tag for store in (desk.store, other.store) for _, record in store.scan()]
    assert len(set(tags)) == 12
    kinds = other.content()
    assert [len(kinds["alice"].idempotency_keys), len(kinds["alice"].merge_marks)] == [1, 1]
    assert kinds["bob"].cart is None
    assert kinds["guest-3"].seal is not None


def test_retries_stay_safe_across_a_move(desk: Desk, other: Desk) -> None:
    """A request repeated with its key on the new store is a replay, and an interrupted merge can be completed there."""
    desk.fill()
    other.run("import", stdin=desk.run("export").stdout_bytes)
    service = make_service(other.store, other.clock)
    repeated = service.add("alice", [MUG, TEE], conditions=WriteConditions(key_digest=b"k" * 16, fingerprint=b"r" * 16))
    assert (repeated.replayed, repeated.cart) == (True, make_service(desk.store, desk.clock).get("alice"))
    other.clock.advance(6_000)
    merged = service.merge("carol", "guest-3", "max", conditions=NONE)
    assert merged.cart is not None
    assert [item.quantity for item in merged.cart.items] == [1]
    assert service.get("guest-3") is None


@given(
    lines=st.lists(strategies.lines(), max_size=4),
    user_id=strategies.user_ids,
    at=st.integers(0, 4_000_000_000_000),
    key=st.none() | st.binary(min_size=16, max_size=16),
)
def test_any_record_comes_back_as_it_was(lines: list[NewItem], user_id: str, at: int, key: bytes | None) -> None:
    """Whatever the service makes of any request, at any millisecond: the line is one line and reads back the same."""
    clock = FakeClock(at)
    store = MemoryStore(clock=clock, limit=2**30)
    service = make_service(store, clock)
    service.add(user_id, lines, conditions=WriteConditions(key_digest=key, fingerprint=bytes(16)))
    record = store.get(user_id)
    assert record is not None
    line = write_line(user_id, record)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert read_line(line, tag=record.tag, now=at) == (user_id, record)


def test_a_line_can_be_read_by_people_and_by_later_versions(desk: Desk) -> None:
    """Format 1, to the letter: a change of it is a new format, which reads this one."""
    make_service(desk.store, FakeClock(1_767_323_045_000)).add(
        "alice",
        [NewItem("tee", 2, {"size": "M"}, 1999, "EUR")],
        conditions=WriteConditions(key_digest=bytes(16), fingerprint=b"\xff" * 16),
    )
    line = desk.run("export").stdout
    etag = fields_of(line)["cart"]["etag"]
    assert line == (
        '{"format":1,"user_id":"alice","expires_at":"2026-02-01T03:04:05.000Z","cart":{"etag":"'
        + etag
        + '","version":1,'
        '"items":[{"item_id":"~8c05560463916580","product_id":"tee","options":{"size":"M"},"quantity":2,'
        '"unit_price":1999,"added_at":"2026-01-02T03:04:05.000Z"}],"currency":"EUR",'
        '"created_at":"2026-01-02T03:04:05.000Z","updated_at":"2026-01-02T03:04:05.000Z",'
        '"expires_at":"2026-02-01T03:04:05.000Z"},"seal":null,'
        '"keys":[{"key":"AAAAAAAAAAAAAAAAAAAAAA==","request":"/////////////////////w==","status":200,'
        '"at":"2026-01-02T03:04:05.000Z"}],"marks":[]}\n'
    )


def test_back_ups_can_be_cut_and_joined(desk: Desk, other: Desk) -> None:
    """Lines stand for themselves: any of them, in any order, with blank ones between them."""
    desk.fill()
    lines = desk.run("export").stdout_bytes.splitlines(keepends=True)
    picked = [line for line in lines if b'"user_id":"bob"' in line or b'"user_id":"empty"' in line]
    imported = other.run("import", "-", stdin=b"\n".join(reversed(picked)).strip())
    assert imported.exit_code == 0
    assert set(other.content()) == {"bob", "empty"}


def test_expired_records_stay_behind(desk: Desk, other: Desk) -> None:
    """What has expired since the back-up was made is counted and not imported; at its last millisecond it still is."""
    put(desk.store, "short", a_record(desk.clock, lives=1_000, note="n"))
    put(desk.store, "long", a_record(desk.clock, lives=1_001))
    lines = [fields_of(line) for line in desk.run("export").stdout.splitlines()]
    for line in lines:
        for item in line["cart"]["items"]:
            item["item_id"] = item["product_id"]
    desk.clock.advance(1_000)
    imported = other.run("import", stdin="\n".join(map(json.dumps, lines)))
    assert imported.exit_code == 0
    assert "1 imported" in imported.stderr
    assert "1 expired" in imported.stderr
    assert set(other.content()) == {"long"}


# ---- export ----


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_nothing_but_records_is_on_standard_output(desk: Desk, arguments: list[str]) -> None:
    """Every line of it is JSON; what there is to say goes to standard error. A record that cannot be read is named
    there, all others are exported, and the exit code says that something is missing.
    """
    desk.fill()
    desk.store.damaged = {"dora", "emil"}
    exported = desk.run("export", *arguments)
    assert exported.exit_code == 1
    assert {fields_of(line)["user_id"] for line in exported.stdout.splitlines()} == set(desk.content()) - {
        "dora",
        "emil",
    }
    said = exported.stderr.splitlines()
    assert [line.partition(":")[0] for line in said] == ["dora", "emil", "6 exported, 2 unreadable"]


def test_a_time_beyond_all_calendars_does_not_stop_a_back_up(desk: Desk) -> None:
    """A damaged record may decode all the same: it is named like one that does not."""
    put(desk.store, "dora", structs.replace(a_record(desk.clock), expires_at=2**62))
    put(desk.store, "emil", a_record(desk.clock))
    exported = desk.run("export")
    assert exported.exit_code == 1
    assert exported.stderr.startswith("dora: ")
    assert [fields_of(line)["user_id"] for line in exported.stdout.splitlines()] == ["emil"]


def test_a_file_is_for_its_owner_only(desk: Desk, tmp_path: Path) -> None:
    """Mode 0600, also where a file of another mode stood; nothing else is left beside it."""
    desk.fill()
    target = tmp_path / "carts.jsonl"
    target.write_text("yesterday")
    target.chmod(0o644)
    assert desk.run("export", str(target)).exit_code == 0
    assert target.read_bytes() == desk.run("export").stdout_bytes
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_back_up_that_breaks_off_leaves_the_one_before(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good name never stands on half a back-up: when the store goes away the file is as it was."""
    target = tmp_path / "carts.jsonl"
    target.write_text("yesterday")

    def scan() -> Iterator[tuple[str, Record]]:
        yield "a", a_record(desk.clock)
        assert target.read_text() == "yesterday"
        assert len(list(tmp_path.iterdir())) == 2
        raise StoreError

    monkeypatch.setattr(desk.store, "scan", scan)
    exported = desk.run("export", str(target))
    assert exported.exit_code == 1
    assert exported.stderr == f"Error: {StoreError()}\n"
    assert target.read_text() == "yesterday"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_a_link(desk: Desk, tmp_path: Path) -> None:
    """The file that a link leads to is replaced, not the link."""
    (tmp_path / "latest").symlink_to(tmp_path / "carts.jsonl")
    assert desk.run("export", str(tmp_path / "latest")).exit_code == 0
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "carts.jsonl").read_bytes() == b""


def test_what_is_no_file_is_not_replaced(desk: Desk, tmp_path: Path) -> None:
    """Neither a directory nor a pipe gives way to a back-up; a directory that is not there is an error too."""
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "pipe", tmp_path / "absent" / "carts.jsonl"):
        exported = desk.run("export", str(target))
        assert exported.exit_code == 1
        assert exported.stderr.startswith("Error: ")
        assert str(target.name) in exported.stderr
    assert (tmp_path / "pipe").is_fifo()


# ---- lines that are wrong ----


def _good_line(clock: FakeClock | None = None) -> dict[str, Any]:
    """A line with one of everything."""
    desk = Desk(clock)
    service = make_service(desk.store, desk.clock)
    service.add("guest-1", [MUG], conditions=NONE)
    service.add("alice", [MUG, TEE], conditions=WriteConditions(key_digest=b"k" * 16, fingerprint=b"r" * 16))
    desk.clock.advance(1)
    service.merge("alice", "guest-1", "sum", conditions=NONE)
    faulty = FaultyStore(desk.store)
    faulty.plan(before={3: crash})
    with pytest.raises(Crash):
        make_service(faulty, desk.clock).merge("bob", "alice", "sum", conditions=NONE)
    return next(line for line in map(fields_of, desk.run("export").stdout.splitlines()) if line["user_id"] == "alice")


_ABSENT = object()
WRONG: list[tuple[str, Any, str]] = [  # the place where the line is made wrong, how, and the place that is named
    ("/format", 2, "/format"),
    ("/format", _ABSENT, ""),
    ("/more", 1, ""),
    ("/user_id", "..", "/user_id"),
    ("/user_id", "a b", "/user_id"),
    ("/user_id", 7, "/user_id"),
    ("/expires_at", "2026-03-01T03:04:05.678Z", "/expires_at"),
    ("/expires_at", "2026-01-03T03:04:05.678Z", "/expires_at"),
    ("/expires_at", 1_767_323_045_678, "/expires_at"),
    ("/expires_at", "2026-02-01", "/expires_at"),
    ("/cart", _ABSENT, ""),
    ("/cart", [], "/cart"),
    ("/cart", None, "/seal"),
    ("/cart/etag", 'a"b', "/cart/etag"),
    ("/cart/etag", "a\n", "/cart/etag"),
    ("/cart/etag", "", "/cart/etag"),
    ("/cart/version", 0, "/cart/version"),
    ("/cart/version", 1.5, "/cart/version"),
    ("/cart/version", True, "/cart/version"),
    ("/cart/version", 1, "/cart/updated_at"),  # it was changed a millisecond after it was created
    ("/cart/version", MAX_VERSION + 1, "/cart/version"),
    ("/cart/version", 2**53 - 1, "/cart/version"),
    ("/cart/version", 2**70, "/cart/version"),
    ("/cart/more", 1, "/cart"),
    ("/cart/currency", "euro", "/cart/items/0/currency"),
    ("/cart/currency", None, "/cart/items/0/currency"),
    ("/cart/created_at", "2026-13-02T03:04:05.678Z", "/cart/created_at"),
    ("/cart/created_at", "2026-01-02T03:04:05.678", "/cart/created_at"),
    ("/cart/created_at", "2026-01-02T03:04:05.678+00:00", "/cart/created_at"),
    ("/cart/created_at", "2026-01-02T03:04:05.6789Z", "/cart/created_at"),
    ("/cart/created_at", "2026-01-02T03:04:05Z", "/cart/created_at"),
    ("/cart/created_at", None, "/cart/created_at"),
    ("/cart/created_at", "1969-12-31T23:59:59.999Z", "/cart/created_at"),
    ("/cart/created_at", "2026-01-03T03:04:05.680Z", "/cart/updated_at"),
    ("/cart/updated_at", "2026-01-01T03:04:05.677Z", "/cart/updated_at"),
    ("/cart/expires_at", "2026-01-02T03:04:06.678Z", "/cart/expires_at"),  # 999 ms later
    ("/cart/expires_at", "2035-12-31T03:04:05.680Z", "/cart/expires_at"),  # 3650 days and 1 ms later
    ("/cart/expires_at", "9999-12-31T23:59:59.999Z", "/cart/expires_at"),
    ("/cart/expires_at", "2026-01-02T03:04:05.678Z", "/cart/expires_at"),
    ("/cart/items/0/item_id", "cup", "/cart/items/0/item_id"),
    ("/cart/items/1/item_id", "~8c05560463916580", "/cart/items/1/item_id"),
    ("/cart/items/1/options/size", "L", "/cart/items/1/item_id"),
    ("/cart/items/1/options/size", "\x00", "/cart/items/1/options/size"),
    ("/cart/items/1/options/size", 3, "/cart/items/1/options"),
    ("/cart/items/1/options", [["size", "M"]], "/cart/items/1/options"),
    ("/cart/items/0/product_id", "", "/cart/items/0/product_id"),
    ("/cart/items/0/quantity", 0, "/cart/items/0/quantity"),
    ("/cart/items/0/quantity", -1, "/cart/items/0/quantity"),
    ("/cart/items/0/quantity", 10**9 + 1, "/cart/items/0/quantity"),
    ("/cart/items/0/quantity", 2**70, "/cart/items/0/quantity"),
    ("/cart/items/0/quantity", "2", "/cart/items/0/quantity"),
    ("/cart/items/0/unit_price", -1, "/cart/items/0/unit_price"),
    ("/cart/items/0/unit_price", None, "/cart/currency"),
    ("/cart/items/0/line_total", 1, "/cart/items/0"),
    ("/cart/items/0/added_at", 1, "/cart/items/0/added_at"),
    ("/cart/items/0/added_at", "2026-01-03T03:04:05.680Z", "/cart/items/0/added_at"),
    ("/seal/target", ".", "/seal/target"),
    ("/seal/target", "alice", "/seal/target"),
    ("/seal/strategy", "both", "/seal/strategy"),
    ("/seal/merge_id", "", "/seal/merge_id"),
    ("/seal/at", "2026-01-01T03:04:05.678Z", "/seal/at"),
    ("/seal/at", "2026-02-01T03:04:05.679Z", "/seal/at"),  # the cart expires then
    ("/keys/0/key", "", "/keys/0/key"),
    ("/keys/0/key", "@", "/keys/0/key"),
    ("/keys/0/key", "AAAAAAAAAAAAAAAAAAAA", "/keys/0/key"),
    ("/keys/0/request", "AAAAAAAAAAAAAAAAAAAAAAAA", "/keys/0/request"),
    ("/keys/0/status", 404, "/keys/0/status"),
    ("/keys/0/status", 202, "/keys/0/status"),
    ("/keys/0/status", 299, "/keys/0/status"),
    ("/keys/0/at", "2026-01-03T03:04:05.680Z", "/keys/0/at"),
    ("/keys/0/at", "2025-12-03T03:04:05.679Z", "/keys/0/at"),  # 30 days before the cart's last change
    ("/marks/0/source", "a/b", "/marks/0/source"),
    ("/marks/0/source", "alice", "/marks/0/source"),
    ("/marks/0/done", 1, "/marks/0/done"),
    ("/marks/0/at", "2026-01-03T03:04:05.680Z", "/marks/0/at"),
    ("/marks/0/source_expires_at", "2026-02-02T03:04:05.678Z", "/expires_at"),
    ("/marks/0/source_expires_at", "2025-12-31T03:04:05.678Z", "/marks/0/source_expires_at"),
    ("/marks/0/source_expires_at", "2036-01-01T03:04:05.680Z", "/marks/0/source_expires_at"),
    ("/marks/0/source_expires_at", "9999-12-31T23:59:59.999Z", "/marks/0/source_expires_at"),
]


def _changed(line: dict[str, Any], pointer: str, value: Any) -> dict[str, Any]:
    part: Any = line
    *path, last = [int(each) if each.isdigit() else each for each in pointer[1:].split("/")]
    for each in path:
        part = part[each]
    if value is _ABSENT:
        del part[last]
    else:
        part[last] = value
    return line


def test_the_line_to_be_made_wrong_is_right(other: Desk) -> None:
    """Otherwise the next test would prove nothing."""
    imported = other.run("import", stdin=json.dumps(_good_line()))
    assert imported.exit_code == 0
    assert set(other.content()) == {"alice"}


@pytest.mark.parametrize(("pointer", "value", "named"), WRONG)
def test_a_wrong_line_is_named_and_left_out(desk: Desk, pointer: str, value: Any, named: str) -> None:
    """Its number and the place in it are told, nothing of it is imported, and the lines around it are."""
    line = _good_line()
    around = [dict(line, user_id=user_id) for user_id in ("before", "after")]
    wrong = json.dumps(_changed(_good_line(), pointer, value))
    imported = desk.run("import", stdin="\n".join([json.dumps(around[0]), "", wrong, json.dumps(around[1])]))
    assert imported.exit_code == 1
    assert set(desk.content()) == {"before", "after"}
    said, summary = imported.stderr.splitlines()
    assert said.startswith(f"line 3: {named} " if named else "line 3: ")
    assert "2 imported" in summary
    assert "1 invalid" in summary


@pytest.mark.parametrize(
    "wrong",
    [
        b"{",
        b'{"format":1',
        b"[]",
        b"3",
        b"\xff",
        b'{"user_id":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 9_999,
        b"{}{}",
        b"null",
    ],
)
def test_what_is_no_json_is_a_wrong_line(desk: Desk, wrong: bytes) -> None:
    """As are a line cut short and a value of another kind."""
    imported = desk.run("import", stdin=wrong + b"\n" + json.dumps(_good_line()).encode())
    assert imported.exit_code == 1
    assert imported.stderr.startswith("line 1: ")
    assert set(desk.content()) == {"alice"}


def test_two_items_that_are_the_same_are_wrong(desk: Desk) -> None:
    """A cart has an item once."""
    line = _good_line()
    line["cart"]["items"].append(line["cart"]["items"][0])
    imported = desk.run("import", stdin=json.dumps(line))
    assert imported.stderr.startswith("line 1: /cart/items Two items have")
    assert desk.content() == {}


def test_a_record_of_nothing_is_wrong(desk: Desk) -> None:
    """A record holds a cart, a key or a mark."""
    line = _good_line() | {"cart": None, "seal": None, "keys": [], "marks": []}
    assert desk.run("import", stdin=json.dumps(line)).stderr.startswith("line 1: A record has")
    assert desk.content() == {}


def test_a_line_without_an_end_is_not_read_into_memory(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has a line longer than any record can be is no back-up; import ends there."""
    monkeypatch.setattr("cartsvc.cli.commands._MAX_LINE_BYTES", 100)
    imported = desk.run("import", stdin=b"\n" + b" " * 101)
    assert imported.exit_code == 1
    assert imported.stderr == "Error: line 2: Longer than any record. The file is not a backup.\n"


def test_the_limits_here_are_not_those_of_where_it_comes_from(desk: Desk, other: Desk) -> None:
    """A cart that was within the limits when it was filled comes in, as it would stay if they were lowered."""
    line = NewItem("mug", 5_000, {"engraving": "x" * 2_000}, 10**11, "EUR")
    make_service(desk.store, desk.clock, policy=Policy(limits=MAX_LIMITS)).add("alice", [line], conditions=NONE)
    assert other.run("import", stdin=desk.run("export").stdout_bytes).exit_code == 0
    assert other.content() == desk.content()


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("CARTSVC_MAX_QUANTITY", MAX_LIMITS.max_quantity),
        ("CARTSVC_MAX_ITEMS", MAX_LIMITS.max_items),
        ("CARTSVC_MAX_CART_BYTES", MAX_LIMITS.max_cart_bytes),
        ("CARTSVC_MAX_OPTIONS", MAX_LIMITS.max_options),
        ("CARTSVC_MAX_OPTION_NAME", MAX_LIMITS.max_option_name),
        ("CARTSVC_MAX_OPTION_VALUE", MAX_LIMITS.max_option_value),
        ("CARTSVC_MAX_UNIT_PRICE", MAX_LIMITS.max_unit_price),
        ("CARTSVC_IDEMPOTENCY_TTL", IDEMPOTENCY_TTL_RANGE_MS[1] // 1000),
        ("CARTSVC_IDEMPOTENCY_KEYS", MAX_IDEMPOTENCY_KEYS),
        ("CARTSVC_CART_TTL", CART_TTL_RANGE_MS[1] // 1000),
        ("CARTSVC_GUEST_TTL", CART_TTL_RANGE_MS[1] // 1000),
    ],
)
def test_no_setting_makes_what_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, name: str, bound: int) -> None:
    """The bounds of a line are those of the settings."""
    monkeypatch.setenv(name, str(bound))
    Settings.from_env()
    monkeypatch.setenv(name, str(bound + 1))
    with pytest.raises(SettingsError):
        Settings.from_env()


# ---- records that are there already ----


def _two_stores(desk: Desk, other: Desk) -> bytes:
    """A back-up of alice and bob; the other store has another alice. Returns the back-up."""
    for user_id in ("alice", "bob"):
        make_service(desk.store, desk.clock).add(user_id, [MUG], conditions=NONE)
    make_service(other.store, other.clock).add("alice", [TEE], conditions=NONE)
    return desk.run("export").stdout_bytes


@pytest.mark.parametrize("option", [[], ["--on-conflict", "skip"]])
def test_a_record_that_is_there_stays(desk: Desk, other: Desk, option: list[str]) -> None:
    """Nobody's cart is overwritten unless that is asked for; the line is named and counted."""
    backup = _two_stores(desk, other)
    before = other.store.get("alice")
    imported = other.run("import", *option, stdin=backup)
    assert imported.exit_code == 0
    assert imported.stderr.splitlines()[0] == "line 1: alice has another record, which was kept."
    assert "1 imported, 0 unchanged, 0 replaced, 1 skipped" in imported.stderr
    assert other.store.get("alice") == before
    assert other.content()["bob"] == desk.content()["bob"]


def test_a_record_that_is_there_can_be_replaced(desk: Desk, other: Desk) -> None:
    """With --on-conflict replace the back-up wins, and says where."""
    imported = other.run("import", "--on-conflict", "replace", stdin=_two_stores(desk, other))
    assert imported.exit_code == 0
    assert imported.stderr.splitlines()[0] == "line 1: alice had another record, which was replaced."
    assert "1 imported, 0 unchanged, 1 replaced, 0 skipped" in imported.stderr
    assert other.content() == desk.content()


@pytest.mark.parametrize("option", ["skip", "replace"])
def test_running_it_again_does_nothing(desk: Desk, other: Desk, option: str) -> None:
    """What is there already is not written again, and is no conflict."""
    desk.fill()
    backup = desk.run("export").stdout_bytes
    other.run("import", stdin=backup)
    before = dict(other.store.scan())
    imported = other.run("import", "--on-conflict", option, stdin=backup)
    assert (imported.exit_code, imported.stderr.startswith("0 imported, 6 unchanged, 0 replaced")) == (0, True)
    assert dict(other.store.scan()) == before


def test_of_two_lines_of_one_record_the_later_one_counts(desk: Desk, other: Desk) -> None:
    """A record that changes during a back-up may come twice, or two back-ups are joined: the later line is the newer.

    A record that a shopper changed after it was imported is not overwritten by that.
    """
    service = make_service(desk.store, desk.clock)
    service.add("alice", [MUG], conditions=NONE)
    first = desk.run("export").stdout_bytes
    service.add("alice", [TEE], conditions=NONE)
    second = desk.run("export").stdout_bytes
    imported = other.run("import", stdin=first + second)
    assert (imported.exit_code, other.content()) == (0, desk.content())

    class Shopper(Shelf):
        def update(self, user_id: str, change: Callable[[Record | None], Any]) -> Any:
            answer = super().update(user_id, change)
            if self.shops:
                self.shops = False
                make_service(self, desk.clock).add(user_id, [NewItem("hat", 1)], conditions=NONE)
            return answer

        shops = True

    store = Shopper(desk.clock)
    commands = carts_commands(store, clock=desk.clock, new_tag=lambda: "run")
    said = CliRunner().invoke(commands, ["import"], input=first + second, catch_exceptions=False).stderr
    assert said.startswith("line 2: alice has another record, which was kept.")
    record = store.get("alice")
    assert record is not None
    assert record.cart is not None
    assert [item.product_id for item in record.cart.items] == ["mug", "hat"]


def test_a_record_that_cannot_be_read_stays(desk: Desk, other: Desk) -> None:
    """It is named, the others are imported, and the exit code says that something is missing."""
    backup = _two_stores(desk, other)
    other.store.damaged = {"alice"}
    imported = other.run("import", "--on-conflict", "replace", stdin=backup)
    assert imported.exit_code == 1
    assert imported.stderr.startswith("line 1: alice: ")
    assert "1 imported" in imported.stderr
    assert "bob" in other.content()


@pytest.mark.parametrize("trouble", [StoreFull(), StoreError(), OutcomeUnknown()])
def test_a_store_in_trouble_stops_it(desk: Desk, other: Desk, trouble: Exception) -> None:
    """The line and what was done are told; when the store is well again the same command does the rest."""
    desk.fill()
    backup = desk.run("export").stdout_bytes
    users = [fields_of(line)["user_id"] for line in backup.splitlines()]
    other.store.trouble = {users[3]: trouble}
    imported = other.run("import", stdin=backup)
    assert imported.exit_code == 1
    said = imported.stderr.splitlines()
    assert said[0].startswith("line 4: ")
    assert "Idempotency-Key" not in said[0]
    assert said[1].startswith("3 imported")
    assert said[2].startswith("Error: ")
    assert set(other.content()) == set(users[:3])
    other.store.trouble = {}
    assert "3 imported, 3 unchanged" in other.run("import", stdin=backup).stderr
    assert other.content() == desk.content()


# ---- stats and purge ----


def test_stats_counts_what_there_is(desk: Desk) -> None:
    """As JSON on standard output; who cannot be read is named on standard error."""
    desk.fill()
    desk.store.damaged = {"dora"}
    counted = desk.run("stats")
    assert counted.exit_code == 1
    assert counted.stderr == f"dora: {RecordUnreadable()}\n"
    told = json.loads(counted.stdout)
    sizes = {user_id: len(user_id) + len(encode(record)) for user_id, record in MemoryStore.scan(desk.store)}
    largest = max(sizes, key=lambda user_id: sizes[user_id])
    assert told == {
        "records": 6,
        "carts": 4,
        "guests": 2,
        "items": 4,
        "tombstones": 2,
        "sealed": 1,
        "unreadable": 1,
        "bytes": sum(sizes.values()),
        "largest": {"user_id": largest, "bytes": sizes[largest]},
        "expire_within": {"an hour": 0, "a day": 2, "a week": 2, "30 days": 2, "later": 0},
    }


def test_stats_of_an_empty_store(desk: Desk) -> None:
    """Nothing is a number too."""
    told = json.loads(desk.run("stats").stdout)
    assert (told["records"], told["largest"]) == (0, {"user_id": None, "bytes": 0})


def test_purge_clears_what_has_expired(desk: Desk) -> None:
    """And nothing else, without a question; damaged records stay."""
    put(desk.store, "short", a_record(desk.clock, lives=100))
    put(desk.store, "long", a_record(desk.clock))
    desk.store.damaged = {"dora"}
    desk.clock.advance(100_000)
    purged = desk.run("purge")
    assert (purged.exit_code, purged.stderr) == (0, "1 expired records deleted.\n")
    assert {user_id for user_id, _ in desk.store.scan()} == {"dora", "long"}


def test_what_cannot_be_read_is_erased_when_asked(desk: Desk) -> None:
    """All of it and only it, named; after a question."""
    desk.fill()
    before = desk.content()
    desk.store.damaged = {"dora", "emil"}
    for refusal in ("n\n", "", None):
        assert desk.run("purge", "--unreadable", stdin=refusal).exit_code == 1
    assert desk.store.damaged == {"dora", "emil"}
    purged = desk.run("purge", "--unreadable", stdin="y\n")
    assert purged.exit_code == 0
    assert purged.stdout == ""
    assert purged.stderr.endswith("dora: deleted.\nemil: deleted.\n2 unreadable records deleted.\n")
    assert desk.content() == before


def test_one_user_is_forgotten_when_asked(desk: Desk) -> None:
    """All that is stored for the user and nothing else; after a question, unless --yes; twice is as good as once."""
    desk.fill()
    expected = {user_id: record for user_id, record in desk.content().items() if user_id != "alice"}
    assert desk.run("purge", "--user", "alice", stdin="n\n").exit_code == 1
    assert "alice" in desk.content()
    desk.store.damaged = {"dora"}
    for user_id, said in [
        ("alice", "a cart was deleted, number of items: 2"),
        ("alice", "nothing was stored"),
        ("bob", "a record without a cart was deleted"),
        ("dora", "an unreadable record was deleted"),
        ("dora", "nothing was stored"),
    ]:
        purged = desk.run("purge", "--user", user_id, "--yes")
        assert (purged.exit_code, purged.stdout, purged.stderr) == (0, "", f"{user_id}: {said}.\n")
        assert user_id not in desk.content()
    del expected["bob"]
    assert desk.content() == expected
    assert desk.store.damaged == set()


def test_purge_takes_sensible_words_only(desk: Desk) -> None:
    """Not both at once, and no user_id that cannot be one."""
    assert desk.run("purge", "--unreadable", "--user", "alice", "--yes").exit_code == 2
    assert desk.run("purge", "--user", "a b", "--yes").exit_code == 1


# ---- where it works, and how much it takes ----


@pytest.mark.parametrize("arguments", [["export"], ["import"], ["stats"], ["purge"], ["purge", "--user", "a", "--yes"]])
def test_on_memory_they_refuse(clock: FakeClock, arguments: list[str]) -> None:
    """Each process would see carts of its own, so each command says that, and does nothing; its --help still helps."""
    store = MemoryStore(clock=clock, limit=2**30)
    commands = carts_commands(store, clock=clock, new_tag=lambda: "tag")
    refused = CliRunner().invoke(commands, arguments, input=json.dumps(_good_line()))
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert "CARTSVC_STORE_URL" in refused.stderr
    assert list(store.scan()) == []
    assert CliRunner().invoke(commands, [arguments[0], "--help"]).exit_code == 0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Endless(Shelf):
    """So many records that are made when they are asked for; what is written is only counted."""

    def __init__(self, clock: FakeClock, records: int) -> None:
        super().__init__(clock)
        self.records = records
        self.written = 0

    def scan(self) -> Iterator[tuple[str, Record]]:
        """Make them."""
        now = self._clock()
        for number in range(self.records):
            record = a_record(self._clock)
            assert record.cart is not None
            items = tuple([Item(f"sku-{number}-{each}", f"sku-{number}-{each}", (), 1, None, now) for each in range(5)])
            keys = (IdempotencyKey(bytes(16), bytes(16), 200, now),)
            yield (
                f"user-{number}",
                structs.replace(record, cart=structs.replace(record.cart, items=items), idempotency_keys=keys),
            )

    def update(self, user_id: str, change: Callable[[Record | None], Any]) -> Any:  # noqa: ARG002 - the contract's
        """Count."""
        self.written += 1
        return change(None)[1]


def _peak(commands: click.Group, arguments: list[str]) -> int:
    """The most memory that a command takes beside what is there, in bytes."""
    tracemalloc.start()
    try:
        assert CliRunner().invoke(commands, arguments, catch_exceptions=False).exit_code == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_any_number_of_carts_takes_the_same_memory(tmp_path: Path) -> None:
    """Ten times as many go out and in with the same peak: neither holds more than a few records at a time."""
    clock = FakeClock()
    peaks: dict[str, list[int]] = {"export": [], "import": []}
    few, many = 300, 3_000
    for records in (few, few, many):  # the first round warms up
        store = Endless(clock, records)
        commands = carts_commands(store, clock=clock, new_tag=lambda: "run")
        for command, found in peaks.items():
            found.append(_peak(commands, [command, str(tmp_path / "carts.jsonl")]))
        assert store.written == records
    for found in peaks.values():
        assert found[2] < 1.3 * found[1]


# ---- the real command line ----


def flask(*arguments: str, url: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ``flask --app wsgi carts`` with these arguments on the store at this URL, to its end."""
    command, environment = _command_line(arguments, url)
    return subprocess.run(
        command, cwd=ROOT, env=environment, input=stdin, capture_output=True, check=False, timeout=SECONDS
    )


def _command_line(arguments: tuple[str, ...], url: str) -> tuple[list[str], dict[str, str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CARTSVC_", "FLASK_"))}
    environment = kept | {"CARTSVC_STORE_URL": url}
    return [sys.executable, "-m", "flask", "--app", "wsgi", "carts", *arguments], environment


def _add(server: Server) -> tuple[dict[str, Any], dict[str, str]]:
    """Add a mug to Alice's cart, always with the same key; returns the cart and the answer's headers."""
    body = json.dumps({"product_id": "mug", "quantity": 1, "options": {"colour": "weiß"}}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": "once"}
    request = urllib.request.Request(f"{server.url}/cart/alice", data=body, headers=headers)  # noqa: S310 - our own URL
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - our own URL
        return json.load(answer), dict(answer.headers)


def test_a_shop_moves(tmp_path: Path) -> None:
    """From lmdb, beside the server that runs on it, to valkey: carts are as they were there, with their ETags, and a
    request that is repeated there is a replay.
    """
    old = f"lmdb://{tmp_path}/store?sync=off&map_size=16MiB"
    backup = str(tmp_path / "carts.jsonl")
    with serve(CARTSVC_STORE_URL=old) as server:
        cart, headers = _add(server)
        exported = flask("export", backup, url=old)
        assert (exported.returncode, exported.stdout) == (0, b"")
        assert exported.stderr.splitlines()[-1] == b"1 exported, 0 unreadable"
    with valkey() as there:
        imported = flask("import", backup, url=there.url)
        assert imported.returncode == 0
        assert imported.stderr.splitlines()[-1].startswith(b"1 imported, ")
        with serve(CARTSVC_STORE_URL=there.url) as server:
            repeated, repeated_headers = _add(server)
        assert repeated == cart
        assert (repeated_headers["ETag"], repeated_headers["Idempotency-Replayed"]) == (headers["ETag"], "true")
        assert flask("export", url=there.url).stdout == Path(backup).read_bytes()
        assert json.loads(flask("stats", url=there.url).stdout)["carts"] == 1
        assert flask("purge", "--user", "alice", "--yes", url=there.url).returncode == 0
        assert flask("export", url=there.url).stdout == b""


def test_the_command_line_refuses_memory() -> None:
    """With the reason, and an exit code that a script notices."""
    refused = flask("export", url="memory://")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"does not support memory://" in refused.stderr


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_terminal_shows_progress(tmp_path: Path, command: str) -> None:
    """On the terminal only; what is exported stays clean, and messages stand on lines of their own."""
    url = f"lmdb://{tmp_path}/store?sync=off&map_size=16MiB"
    backup = tmp_path / "carts.jsonl"
    good = _good_line(FakeClock(time.time_ns() // 1_000_000))  # the command line has the real clock
    lines = [json.dumps(dict(good, user_id=f"user-{number}")) for number in range(300)]
    backup.write_text("\n".join([*lines, "wrong"]), encoding="utf-8")
    if command == "export":
        assert flask("import", str(backup), url=url).returncode == 1
    arguments, environment = _command_line((command, "-" if command == "export" else str(backup)), url)
    ours, theirs = pty.openpty()
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=out, stderr=theirs)
        os.close(theirs)
        said = _read_all(ours)
        process.wait(SECONDS)
    assert b"Exporting" in said or b"Importing" in said
    assert b"\x1b" not in (tmp_path / "out").read_bytes()
    if command == "export":
        assert len([json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]) == 300
    else:
        assert b"100%" in said
        assert re.search(rb"(^|[\r\n]|\x1b\[K)line 301: ", said)


def _read_all(terminal: int) -> bytes:
    """All that is written to a terminal until nobody has it open any more."""
    said = b""
    try:
        while data := os.read(terminal, 65_536):
            said += data
    except OSError:  # what Linux tells when the other end is closed
        pass
    os.close(terminal)
    return said
