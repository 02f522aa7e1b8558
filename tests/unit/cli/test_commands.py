"""Test ``flask carts stats`` and ``purge``, memory use, and the commands on real stores."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import tracemalloc
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from msgspec import structs

from cartsvc.carts.cart import Item
from cartsvc.carts.record import (
    IdempotencyKey,
    Record,
    encode,
)
from cartsvc.cli.commands import carts_commands
from cartsvc.errors import RecordUnreadable, StoreUnusable
from tests.support.carts_cli import CartsCli, FaultyMemoryStore, good_line
from tests.support.clock import FakeClock, real_now
from tests.support.flask_cli import command_line, flask, run_here, service_on
from tests.support.http_clients import Client
from tests.support.memory_store import MemoryStore
from tests.support.records import a_record, put
from tests.support.servers import serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import click

    from tests.support.postgresqls import Postgresql

ROOT = Path(__file__).parents[3]


# ---- stats and purge ----


def test_stats_counts_what_there_is(cli: CartsCli) -> None:
    """As JSON on standard output; unreadable records are reported on standard error."""
    cli.fill()
    cli.store.damaged = {"dora"}
    counted = cli.run("stats")
    assert counted.exit_code == 1
    assert counted.stderr == f"dora: {RecordUnreadable()}\n"
    counts = json.loads(counted.stdout)
    sizes = {user_id: len(user_id) + len(encode(record)) for user_id, record in MemoryStore.scan(cli.store)}
    largest = max(sizes, key=lambda user_id: sizes[user_id])
    assert counts == {
        "records": 7,
        "carts": 4,
        "guests": 2,
        "items": 4,
        "tombstones": 3,
        "sealed": 1,
        "unreadable": 1,
        "bytes": sum(sizes.values()),
        "largest": {"user_id": largest, "bytes": sizes[largest]},
        "expire_within": {"an hour": 0, "a day": 2, "a week": 3, "30 days": 2, "later": 0},
    }


def test_stats_of_an_empty_store(cli: CartsCli) -> None:
    """Nothing is a number too."""
    counts = json.loads(cli.run("stats").stdout)
    assert (counts["records"], counts["largest"]) == (0, {"user_id": None, "bytes": 0})


def test_purge_clears_what_has_expired(cli: CartsCli) -> None:
    """And nothing else, without a question; damaged records stay."""
    put(cli.store, "short", a_record(cli.clock, lives=100))
    put(cli.store, "long", a_record(cli.clock))
    cli.store.damaged = {"dora"}
    cli.clock.advance(100_000)
    purged = cli.run("purge")
    assert (purged.exit_code, purged.stderr) == (0, "1 expired records deleted.\n")
    assert {user_id for user_id, _ in cli.store.scan()} == {"dora", "long"}


def test_what_cannot_be_read_is_erased_when_asked(cli: CartsCli) -> None:
    """All of it and only it, named; after a question."""
    cli.fill()
    before = cli.content()
    cli.store.damaged = {"dora", "emil"}
    for refusal in ("n\n", "", None):
        assert cli.run("purge", "--unreadable", stdin=refusal).exit_code == 1
    assert cli.store.damaged == {"dora", "emil"}
    purged = cli.run("purge", "--unreadable", stdin="y\n")
    assert purged.exit_code == 0
    assert purged.stdout == ""
    assert purged.stderr.endswith("dora: deleted.\nemil: deleted.\n2 unreadable records deleted.\n")
    assert cli.content() == before


def test_one_user_is_forgotten_when_asked(cli: CartsCli) -> None:
    """All that is stored for the user and nothing else; after a question, unless --yes; twice is as good as once."""
    cli.fill()
    expected = {user_id: record for user_id, record in cli.content().items() if user_id != "alice"}
    assert cli.run("purge", "--user", "alice", stdin="n\n").exit_code == 1
    assert "alice" in cli.content()
    cli.store.damaged = {"dora"}
    for user_id, message in [
        ("alice", "a cart was deleted, number of items: 2"),
        ("alice", "nothing was stored"),
        ("bob", "a record without a cart was deleted"),
        ("dora", "an unreadable record was deleted"),
        ("dora", "nothing was stored"),
    ]:
        purged = cli.run("purge", "--user", user_id, "--yes")
        assert (purged.exit_code, purged.stdout, purged.stderr) == (0, "", f"{user_id}: {message}.\n")
        assert user_id not in cli.content()
    del expected["bob"]
    assert cli.content() == expected
    assert cli.store.damaged == set()


def test_purge_takes_sensible_words_only(cli: CartsCli) -> None:
    """Not both at once, and no user_id that cannot be one."""
    assert cli.run("purge", "--unreadable", "--user", "alice", "--yes").exit_code == 2
    assert cli.run("purge", "--user", "a b", "--yes").exit_code == 1


# ---- where it works, and how much it takes ----


@pytest.mark.parametrize("arguments", [["export"], ["import"], ["stats"], ["purge"], ["purge", "--user", "a", "--yes"]])
def test_without_a_store_they_fail(clock: FakeClock, arguments: list[str]) -> None:
    """With the reason, such as a server of memory:// that does not run; --help still works."""

    def open_store() -> MemoryStore:
        raise StoreUnusable("no server runs here.")

    commands = carts_commands(open_store, clock=clock, new_tag=lambda: "tag")
    failed = CliRunner().invoke(commands, arguments, input=json.dumps(good_line()))
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "no server runs here." in failed.stderr
    assert CliRunner().invoke(commands, [arguments[0], "--help"]).exit_code == 0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Endless(FaultyMemoryStore):
    """A store that creates its records while they are read, and only counts what is written."""

    def __init__(self, clock: FakeClock, records: int) -> None:
        super().__init__(clock)
        self.records = records
        self.written = 0

    def scan(self) -> Iterator[tuple[str, Record]]:
        """Create the records."""
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
        """Count the write."""
        self.written += 1
        return change(None)[1]


def _same(store: Endless) -> Endless:
    return store


def _peak(commands: click.Group, arguments: list[str]) -> int:
    """Return the peak of the memory that a command allocates, in bytes."""
    tracemalloc.start()
    try:
        assert CliRunner().invoke(commands, arguments, catch_exceptions=False).exit_code == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.search
def test_any_number_of_carts_takes_the_same_memory(tmp_path: Path) -> None:
    """Five times as many go out and in with the same peak: neither holds more than a few records at a time.

    Fewer would not fill the buffers. The user ids of all records alone would double the peak.
    """
    clock = FakeClock()
    peaks: dict[str, list[int]] = {"export": [], "import": []}
    few, many = 500, 2_500
    for records in (10, few, many):  # the first round warms up
        store = Endless(clock, records)
        commands = carts_commands(partial(_same, store), clock=clock, new_tag=lambda: "run")
        for command, found in peaks.items():
            found.append(_peak(commands, [command, str(tmp_path / "carts.jsonl")]))
        assert store.written == records
    for found in peaks.values():
        assert found[2] < 1.3 * found[1]


# ---- the real command line ----


@pytest.mark.server
def test_a_shop_moves(tmp_path: Path, postgresql_server: Postgresql) -> None:
    """From lmdb, while its server runs, to other stores: carts are as they were there, with their ETags, and a
    request that is repeated there is a replay.
    """
    old = f"lmdb://{tmp_path}/store?sync=off&map_size=16MiB"
    backup = tmp_path / "carts.jsonl"
    mug = {"product_id": "mug", "quantity": 1, "options": {"colour": "weiß"}}
    with serve(CARTSVC_STORE_URL=old, WEB_CONCURRENCY="1") as server, Client(server.url) as client:
        added = client.call("POST", "/cart/alice", mug, Idempotency_Key="once")
        exported = flask("export", str(backup), url=old)
        assert (exported.returncode, exported.stdout) == (0, b"")
        assert exported.stderr.splitlines()[-1] == b"1 exported, 0 unreadable"
    with valkey() as there:
        for new in (there.url, postgresql_server.url_of(postgresql_server.empty_database())):
            imported = run_here("import", str(backup), url=new)
            assert imported.exit_code == 0
            assert imported.stderr.splitlines()[-1].startswith("1 imported, ")
            repeated = service_on(new).test_client().post("/cart/alice", json=mug, headers={"Idempotency-Key": "once"})
            assert repeated.get_json() == added.body
            assert repeated.headers["ETag"] == added.headers["ETag"]
            assert repeated.headers["Idempotency-Replayed"] == "true"
            assert run_here("export", url=new).stdout_bytes == backup.read_bytes()
            assert json.loads(run_here("stats", url=new).stdout)["carts"] == 1
            assert run_here("purge", "--user", "alice", "--yes", url=new).exit_code == 0
            assert run_here("export", url=new).stdout == ""


@pytest.mark.server
def test_init_creates_the_table(postgresql_server: Postgresql) -> None:
    """As often as it runs; --print shows the SQL, needs no server, and does the same when it is executed."""
    url = postgresql_server.url_of(postgresql_server.empty_database())
    printed = run_here("init", "--print", url="postgresql://127.0.0.1:1/shop").stdout
    for _ in range(2):
        created = run_here("init", url=url)
        assert (created.exit_code, created.stdout, created.stderr) == (0, "", "The store is ready.\n")
    find = "SELECT indexdef FROM pg_indexes WHERE tablename = 'cartsvc_records' ORDER BY 1"
    indexes = postgresql_server.ask(find, database="shop")
    assert len(indexes) == 2
    postgresql_server.empty_database()
    postgresql_server.ask(printed, database="shop")
    assert postgresql_server.ask(find, database="shop") == indexes
    rejected = run_here("init", url="postgresql://127.0.0.1:1/shop")
    assert rejected.exit_code == 1
    assert "refused" in rejected.stderr


def test_init_of_other_stores_does_nothing(tmp_path: Path) -> None:
    """And prints nothing that could be executed."""
    cli = service_on(f"lmdb://{tmp_path}/store?sync=off&map_size=16MiB").test_cli_runner()
    assert cli.invoke(args=["carts", "init", "--print"]).stdout == ""
    assert cli.invoke(args=["carts", "init"]).stderr == "This store needs no preparation.\n"


def test_a_terminal_shows_progress(tmp_path: Path) -> None:
    """On the terminal only; what is exported stays clean, and messages are on lines of their own."""
    url = f"lmdb://{tmp_path}/store?sync=off&map_size=16MiB"
    backup = tmp_path / "carts.jsonl"
    good = good_line(FakeClock(real_now()))  # the command line has the real clock
    lines = [json.dumps(dict(good, user_id=f"user-{number}")) for number in range(300)]
    backup.write_text("\n".join([*lines, "wrong"]), encoding="utf-8")
    shown, out = _run_on_a_terminal("import", str(backup), url=url)
    assert b"Importing" in shown
    assert b"100%" in shown
    assert re.search(rb"(^|[\r\n]|\x1b\[K)line 301: ", shown)
    assert b"\x1b" not in out
    shown, out = _run_on_a_terminal("export", "-", url=url)
    assert b"Exporting" in shown
    assert b"\x1b" not in out
    assert len([json.loads(line) for line in out.splitlines()]) == 300


def _run_on_a_terminal(*arguments: str, url: str) -> tuple[bytes, bytes]:
    """Run a command whose standard error is a terminal; return what the terminal shows, and the standard output."""
    command, environment = command_line(arguments, url)
    ours, theirs = pty.openpty()
    with TemporaryFile() as out, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=theirs):
        os.close(theirs)
        shown = _read_all(ours)
        out.seek(0)
        return shown, out.read()


def _read_all(terminal: int) -> bytes:
    """Return all that is written to a terminal until no process has it open."""
    output = b""
    try:
        while data := os.read(terminal, 65_536):
            output += data
    except OSError:  # raised by Linux when the other end is closed
        pass
    os.close(terminal)
    return output
