"""A store, a clock, and ``flask carts`` for them, for the tests of the commands."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from msgspec import structs

from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.validation import NewItem
from cartsvc.cli.commands import carts_commands
from cartsvc.errors import RecordUnreadable
from tests.support.clock import FakeClock
from tests.support.faults import Crash, FaultyStore, crash
from tests.support.memory_store import MemoryStore
from tests.support.services import make_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    from cartsvc.carts.record import Record

NONE = WriteConditions()
MUG = NewItem("mug", 2, {}, 950, "EUR")
TEE = NewItem("tee", 1, {"size": "M", "größe": "L"})


class FaultyMemoryStore(MemoryStore):
    """A memory store with unreadable records and with errors for chosen users."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock, limit=2**30)
        self.damaged: set[str] = set()
        self.errors: dict[str, Exception] = {}  # what updating a record of this user raises

    def update(self, user_id: str, change: Callable[[Record | None], Any]) -> Any:
        """Update the record, or raise the error of this user."""
        if user_id in self.damaged:
            raise RecordUnreadable
        if user_id in self.errors:
            raise self.errors[user_id]
        return super().update(user_id, change)

    def scan(self) -> Iterator[Any]:
        """Yield the damaged records first."""
        for user_id in sorted(self.damaged):
            yield user_id, RecordUnreadable()
        yield from super().scan()

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Delete the record, damaged or not."""
        if user_id in self.damaged:
            self.damaged.remove(user_id)
            return RecordUnreadable()
        return super().delete(user_id)


class CartsCli:
    """A store, its clock, and the commands for it."""

    _tags = map("run-{}".format, count())

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.store = FaultyMemoryStore(self.clock)
        self.commands = carts_commands(lambda: self.store, clock=self.clock, new_tag=self._tags.__next__)

    def run(self, *arguments: str, stdin: bytes | str | None = None) -> Result:
        """Run a command. An exception other than an exit is raised here."""
        return CliRunner().invoke(self.commands, arguments, input=stdin, catch_exceptions=False)

    def content(self) -> dict[str, Record]:
        """Return the readable records of the store without their tags."""
        return {user_id: structs.replace(record, tag="") for user_id, record in MemoryStore.scan(self.store)}

    def fill(self) -> None:
        """Store a record of each kind: cart, keys, marks, seal, pending mark, tombstone, guest, closed, empty cart."""
        service = make_service(self.store, self.clock)
        service.add("alice", [MUG, TEE], conditions=WriteConditions(key_digest=b"k" * 16, fingerprint=b"r" * 16))
        service.add("guest-1", [TEE], conditions=NONE)
        self.clock.advance(1)
        service.merge("alice", "guest-1", "sum", conditions=NONE)
        service.add("bob", [MUG], conditions=NONE)
        service.remove("bob", conditions=WriteConditions(key_digest=b"b" * 16, fingerprint=b"r" * 16))
        service.replace("empty", [], currency=None, conditions=NONE)
        service.add("guest-2", [NewItem("ticket", 1, {}, 0, "EUR")], conditions=NONE)
        service.add("guest-3", [TEE], conditions=NONE)
        faulty = FaultyStore(self.store)
        faulty.plan(before={3: crash})
        with pytest.raises(Crash):
            make_service(faulty, self.clock).merge("carol", "guest-3", "max", conditions=NONE)


def good_line(clock: FakeClock | None = None) -> dict[str, Any]:
    """Return a line of a backup with an item, a key, a mark and a seal."""
    cli = CartsCli(clock)
    service = make_service(cli.store, cli.clock)
    service.add("guest-1", [MUG], conditions=NONE)
    service.add("alice", [MUG, TEE], conditions=WriteConditions(key_digest=b"k" * 16, fingerprint=b"r" * 16))
    cli.clock.advance(1)
    service.merge("alice", "guest-1", "sum", conditions=NONE)
    faulty = FaultyStore(cli.store)
    faulty.plan(before={3: crash})
    with pytest.raises(Crash):
        make_service(faulty, cli.clock).merge("bob", "alice", "sum", conditions=NONE)
    return next(line for line in map(fields_of, cli.run("export").stdout.splitlines()) if line["user_id"] == "alice")


def fields_of(line: str | bytes) -> dict[str, Any]:
    return dict(json.loads(line))
