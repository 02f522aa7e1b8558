"""Test ``flask carts export``, and that import restores what it writes."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.validation import NewItem
from cartsvc.cli.backup import read_line, write_line
from cartsvc.errors import StoreError
from tests.support import strategies
from tests.support.carts_cli import MUG, NONE, TEE, CartsCli, fields_of
from tests.support.clock import FakeClock
from tests.support.memory_store import MemoryStore
from tests.support.records import a_record, put
from tests.support.services import make_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cartsvc.carts.record import (
        Record,
    )


# ---- out and in again ----


def test_what_goes_out_comes_in_as_it_was(cli: CartsCli, other: CartsCli) -> None:
    """Each kind of record is whole in another store: cart, ETag, keys, marks, seal and times. Only the tag is new."""
    cli.fill()
    exported = cli.run("export")
    assert exported.exit_code == 0
    assert exported.stderr == "7 exported, 0 unreadable\n"
    assert len(cli.content()) == 7
    imported = other.run("import", stdin=exported.stdout_bytes)
    assert (imported.exit_code, imported.stdout) == (0, "")
    assert imported.stderr.startswith("7 imported, 0 unchanged, 0 replaced, 0 skipped, 0 expired, 0 invalid, ")
    assert other.content() == cli.content()
    tags = [record.tag for store in (cli.store, other.store) for _, record in store.scan()]
    assert len(set(tags)) == 14
    kinds = other.content()
    assert [len(kinds["alice"].idempotency_keys), len(kinds["alice"].merge_marks)] == [1, 1]
    assert kinds["bob"].cart is None
    assert kinds["guest-3"].seal is not None
    assert kinds["guest-1"].closed_until > cli.clock.now


def test_retries_stay_safe_across_a_move(cli: CartsCli, other: CartsCli) -> None:
    """A request repeated with its key on the new store is a replay, and an interrupted merge can be completed there."""
    cli.fill()
    other.run("import", stdin=cli.run("export").stdout_bytes)
    service = make_service(other.store, other.clock)
    repeated = service.add("alice", [MUG, TEE], conditions=WriteConditions(key_digest=b"k" * 16, fingerprint=b"r" * 16))
    assert (repeated.replayed, repeated.cart) == (True, make_service(cli.store, cli.clock).get("alice"))
    other.clock.advance(6_000)
    merged = service.merge("carol", "guest-3", "max", conditions=NONE)
    assert merged.cart is not None
    assert [item.quantity for item in merged.cart.items] == [1]
    assert service.get("guest-3") is None


@given(
    lines=st.lists(strategies.lines(), max_size=4),
    metadata=strategies.metadata,
    user_id=strategies.user_ids,
    at=st.integers(0, 4_000_000_000_000),
    key=st.none() | st.binary(min_size=16, max_size=16),
)
def test_any_record_comes_back_as_it_was(
    *, lines: list[NewItem], metadata: dict[str, str] | None, user_id: str, at: int, key: bytes | None
) -> None:
    """Whatever the service makes of any request, at any millisecond: the line is one line and reads back the same."""
    clock = FakeClock(at)
    store = MemoryStore(clock=clock, limit=2**30)
    service = make_service(store, clock)
    conditions = WriteConditions(key_digest=key, fingerprint=bytes(16))
    service.replace(user_id, lines, currency=None, metadata=metadata, conditions=conditions)
    record = store.get(user_id)
    assert record is not None
    line = write_line(user_id, record)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert read_line(line, tag=record.tag, now=at) == (user_id, record)


def test_a_line_can_be_read_by_people_and_by_later_versions(cli: CartsCli) -> None:
    """Format 1, to the letter: a change of it is a new format, which reads this one."""
    make_service(cli.store, FakeClock(1_767_323_045_000)).add(
        "alice",
        [NewItem("tee", 2, {"size": "M"}, 1999, "EUR", metadata={"gift": "for\nMum"})],
        conditions=WriteConditions(key_digest=bytes(16), fingerprint=b"\xff" * 16),
    )
    line = cli.run("export").stdout
    etag = fields_of(line)["cart"]["etag"]
    assert line == (
        '{"format":1,"user_id":"alice","expires_at":"2026-02-01T03:04:05.000Z","cart":{"etag":"'
        + etag
        + '","version":1,'
        '"items":[{"item_id":"~8c05560463916580","product_id":"tee","options":{"size":"M"},"quantity":2,'
        '"unit_price":1999,"added_at":"2026-01-02T03:04:05.000Z","metadata":{"gift":"for\\nMum"}}],"currency":"EUR",'
        '"created_at":"2026-01-02T03:04:05.000Z","updated_at":"2026-01-02T03:04:05.000Z",'
        '"expires_at":"2026-02-01T03:04:05.000Z","metadata":{}},"seal":null,'
        '"keys":[{"key":"AAAAAAAAAAAAAAAAAAAAAA==","request":"/////////////////////w==","status":200,'
        '"at":"2026-01-02T03:04:05.000Z"}],"marks":[],"closed_until":null}\n'
    )


def test_backups_can_be_cut_and_joined(cli: CartsCli, other: CartsCli) -> None:
    """Lines stand for themselves: any of them, in any order, with blank ones between them."""
    cli.fill()
    lines = cli.run("export").stdout_bytes.splitlines(keepends=True)
    picked = [line for line in lines if b'"user_id":"bob"' in line or b'"user_id":"empty"' in line]
    imported = other.run("import", "-", stdin=b"\n".join(reversed(picked)).strip())
    assert imported.exit_code == 0
    assert set(other.content()) == {"bob", "empty"}


def test_expired_records_stay_behind(cli: CartsCli, other: CartsCli) -> None:
    """A record that has expired since the backup is counted and not imported; in its last millisecond it is."""
    put(cli.store, "short", a_record(cli.clock, lives=1_000, note="n"))
    put(cli.store, "long", a_record(cli.clock, lives=1_001))
    lines = [fields_of(line) for line in cli.run("export").stdout.splitlines()]
    for line in lines:
        for item in line["cart"]["items"]:
            item["item_id"] = item["product_id"]
    cli.clock.advance(1_000)
    imported = other.run("import", stdin="\n".join(map(json.dumps, lines)))
    assert imported.exit_code == 0
    assert "1 imported" in imported.stderr
    assert "1 expired" in imported.stderr
    assert set(other.content()) == {"long"}


# ---- export ----


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_nothing_but_records_is_on_standard_output(cli: CartsCli, arguments: list[str]) -> None:
    """Every line of it is JSON; what there is to say goes to standard error. A record that cannot be read is named
    there, all others are exported, and the exit code is 1.
    """
    cli.fill()
    cli.store.damaged = {"dora", "emil"}
    exported = cli.run("export", *arguments)
    assert exported.exit_code == 1
    assert {fields_of(line)["user_id"] for line in exported.stdout.splitlines()} == set(cli.content()) - {
        "dora",
        "emil",
    }
    lines = exported.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["dora", "emil", "7 exported, 2 unreadable"]


def test_a_time_beyond_all_calendars_does_not_stop_a_backup(cli: CartsCli) -> None:
    """A damaged record may decode all the same: it is named like one that does not."""
    put(cli.store, "dora", structs.replace(a_record(cli.clock), expires_at=2**62))
    put(cli.store, "emil", a_record(cli.clock))
    exported = cli.run("export")
    assert exported.exit_code == 1
    assert exported.stderr.startswith("dora: ")
    assert [fields_of(line)["user_id"] for line in exported.stdout.splitlines()] == ["emil"]


def test_a_file_is_for_its_owner_only(cli: CartsCli, tmp_path: Path) -> None:
    """Mode 0600, also if it replaces a file of another mode; no other file is left."""
    cli.fill()
    target = tmp_path / "carts.jsonl"
    target.write_text("yesterday")
    target.chmod(0o644)
    assert cli.run("export", str(target)).exit_code == 0
    assert target.read_bytes() == cli.run("export").stdout_bytes
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_backup_that_breaks_off_leaves_the_one_before(
    cli: CartsCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name never belongs to half a backup: when the store fails, the file is as it was."""
    target = tmp_path / "carts.jsonl"
    target.write_text("yesterday")

    def scan() -> Iterator[tuple[str, Record]]:
        yield "a", a_record(cli.clock)
        assert target.read_text() == "yesterday"
        assert len(list(tmp_path.iterdir())) == 2
        raise StoreError

    monkeypatch.setattr(cli.store, "scan", scan)
    exported = cli.run("export", str(target))
    assert exported.exit_code == 1
    assert exported.stderr == f"Error: {StoreError()}\n"
    assert target.read_text() == "yesterday"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_a_link(cli: CartsCli, tmp_path: Path) -> None:
    """The file that a link leads to is replaced, not the link."""
    (tmp_path / "latest").symlink_to(tmp_path / "carts.jsonl")
    assert cli.run("export", str(tmp_path / "latest")).exit_code == 0
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "carts.jsonl").read_bytes() == b""


def test_what_is_no_file_is_not_replaced(cli: CartsCli, tmp_path: Path) -> None:
    """A backup replaces neither a directory nor a pipe; a missing directory is an error too."""
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "pipe", tmp_path / "absent" / "carts.jsonl"):
        exported = cli.run("export", str(target))
        assert exported.exit_code == 1
        assert exported.stderr.startswith("Error: ")
        assert str(target.name) in exported.stderr
    assert (tmp_path / "pipe").is_fifo()
