"""Test ``flask carts import`` into a store that has records, or that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from cartsvc.carts.validation import NewItem
from cartsvc.cli.commands import carts_commands
from cartsvc.errors import OutcomeUnknown, StoreError, StoreFull
from tests.support.carts_cli import MUG, NONE, TEE, CartsCli, FaultyMemoryStore, fields_of
from tests.support.services import make_service

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.record import (
        Record,
    )


# ---- users that have a record already ----


def _two_stores(cli: CartsCli, other: CartsCli) -> bytes:
    """Return a backup of alice and bob; the other store has another record of alice."""
    for user_id in ("alice", "bob"):
        make_service(cli.store, cli.clock).add(user_id, [MUG], conditions=NONE)
    make_service(other.store, other.clock).add("alice", [TEE], conditions=NONE)
    return cli.run("export").stdout_bytes


@pytest.mark.parametrize("option", [[], ["--on-conflict", "skip"]])
def test_a_record_that_is_there_stays(cli: CartsCli, other: CartsCli, option: list[str]) -> None:
    """No cart is overwritten without --on-conflict replace; the line is reported and counted."""
    backup = _two_stores(cli, other)
    before = other.store.get("alice")
    imported = other.run("import", *option, stdin=backup)
    assert imported.exit_code == 0
    assert imported.stderr.splitlines()[0] == "line 1: alice has another record, which was kept."
    assert "1 imported, 0 unchanged, 0 replaced, 1 skipped" in imported.stderr
    assert other.store.get("alice") == before
    assert other.content()["bob"] == cli.content()["bob"]


def test_a_record_that_is_there_can_be_replaced(cli: CartsCli, other: CartsCli) -> None:
    """With --on-conflict replace the record of the backup is stored, and the line is reported."""
    imported = other.run("import", "--on-conflict", "replace", stdin=_two_stores(cli, other))
    assert imported.exit_code == 0
    assert imported.stderr.splitlines()[0] == "line 1: alice had another record, which was replaced."
    assert "1 imported, 0 unchanged, 1 replaced, 0 skipped" in imported.stderr
    assert other.content() == cli.content()


@pytest.mark.parametrize("option", ["skip", "replace"])
def test_running_it_again_does_nothing(cli: CartsCli, other: CartsCli, option: str) -> None:
    """An identical record is not written again, and is no conflict."""
    cli.fill()
    backup = cli.run("export").stdout_bytes
    other.run("import", stdin=backup)
    before = dict(other.store.scan())
    imported = other.run("import", "--on-conflict", option, stdin=backup)
    assert (imported.exit_code, imported.stderr.startswith("0 imported, 7 unchanged, 0 replaced")) == (0, True)
    assert dict(other.store.scan()) == before


def test_of_two_lines_of_one_record_the_later_one_counts(cli: CartsCli, other: CartsCli) -> None:
    """A backup has a record twice if it changes meanwhile, or if two backups are joined: the later line is the newer.

    A record that a shopper changed after it was imported is not overwritten by that.
    """
    service = make_service(cli.store, cli.clock)
    service.add("alice", [MUG], conditions=NONE)
    first = cli.run("export").stdout_bytes
    service.add("alice", [TEE], conditions=NONE)
    second = cli.run("export").stdout_bytes
    imported = other.run("import", stdin=first + second)
    assert (imported.exit_code, other.content()) == (0, cli.content())

    class Shopper(FaultyMemoryStore):
        def update(self, user_id: str, change: Callable[[Record | None], Any]) -> Any:
            result = super().update(user_id, change)
            if self.shops:
                self.shops = False
                make_service(self, cli.clock).add(user_id, [NewItem("hat", 1)], conditions=NONE)
            return result

        shops = True

    store = Shopper(cli.clock)
    commands = carts_commands(lambda: store, clock=cli.clock, new_tag=lambda: "run")
    output = CliRunner().invoke(commands, ["import"], input=first + second, catch_exceptions=False).stderr
    assert output.startswith("line 2: alice has another record, which was kept.")
    record = store.get("alice")
    assert record is not None
    assert record.cart is not None
    assert [item.product_id for item in record.cart.items] == ["mug", "hat"]


def test_a_record_that_cannot_be_read_stays(cli: CartsCli, other: CartsCli) -> None:
    """It is reported, the others are imported, and the exit code is 1."""
    backup = _two_stores(cli, other)
    other.store.damaged = {"alice"}
    imported = other.run("import", "--on-conflict", "replace", stdin=backup)
    assert imported.exit_code == 1
    assert imported.stderr.startswith("line 1: alice: ")
    assert "1 imported" in imported.stderr
    assert "bob" in other.content()


@pytest.mark.parametrize("trouble", [StoreFull(), StoreError(), OutcomeUnknown()])
def test_a_store_in_trouble_stops_it(cli: CartsCli, other: CartsCli, trouble: Exception) -> None:
    """The line and the counts are printed; once the store works again the same command imports the rest."""
    cli.fill()
    backup = cli.run("export").stdout_bytes
    users = [fields_of(line)["user_id"] for line in backup.splitlines()]
    other.store.errors = {users[3]: trouble}
    imported = other.run("import", stdin=backup)
    assert imported.exit_code == 1
    lines = imported.stderr.splitlines()
    assert lines[0].startswith("line 4: ")
    assert "Idempotency-Key" not in lines[0]
    assert lines[1].startswith("3 imported")
    assert lines[2].startswith("Error: ")
    assert set(other.content()) == set(users[:3])
    other.store.errors = {}
    assert "4 imported, 3 unchanged" in other.run("import", stdin=backup).stderr
    assert other.content() == cli.content()
