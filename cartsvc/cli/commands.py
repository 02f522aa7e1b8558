"""``flask carts``: prepare a store, and export, import, count and purge its records."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec
from msgspec import structs

from cartsvc.carts import record as records
from cartsvc.carts.cart import is_user_id
from cartsvc.carts.record import GUEST_PREFIX, Record
from cartsvc.carts.validation import check_user_id
from cartsvc.cli.backup import read_line, write_line
from cartsvc.errors import CartsvcError, InvalidRequest, OutcomeUnknown, RecordUnreadable, StoreError, driver_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.store import CartStore

_MAX_NAME = 200  # characters shown of a name that is not a user id
_MAX_LINE_BYTES = 64 * 2**20  # the largest cart that settings allow takes a third of it
_HOUR_MS = 3_600_000
_SPANS = {"an hour": _HOUR_MS, "a day": 24 * _HOUR_MS, "a week": 168 * _HOUR_MS, "30 days": 720 * _HOUR_MS}
_OUTCOMES = ("imported", "unchanged", "replaced", "skipped", "expired", "invalid", "unreadable")
_CONFLICTS = {"skipped": "has another record, which was kept", "replaced": "had another record, which was replaced"}


class _Context:
    """The objects that the commands use. The store is opened by the first command that uses it."""

    def __init__(
        self, open_store: Callable[[], CartStore], *, clock: Callable[[], int], new_tag: Callable[[], str]
    ) -> None:
        self._open_store = open_store
        self.clock = clock
        self.new_tag = new_tag

    @cached_property
    def store(self) -> CartStore:
        """The store of the running service."""
        return self._open_store()


class _Command(click.Command):
    """A command that reports errors as messages without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly when the reader has closed the pipe
        except (CartsvcError, OSError) as error:
            raise click.ClickException(_explain(error)) from error


def carts_commands(
    open_store: Callable[[], CartStore], *, clock: Callable[[], int], new_tag: Callable[[], str]
) -> click.Group:
    """Return ``flask carts`` for the store that ``open_store`` returns.

    ``clock`` returns milliseconds since the epoch, ``new_tag`` new tokens.
    """
    context = _Context(open_store, clock=clock, new_tag=new_tag)
    commands = [_init, _export, _import, _stats, _purge]
    return click.Group(
        "carts",
        commands=commands,
        context_settings={"obj": context},
        help="Prepare a store; back up, move, count and purge carts.",
    )


@click.command("init", cls=_Command)
@click.option("--print", "print_only", is_flag=True, help="Print the SQL instead of executing it.")
@click.pass_obj
def _init(context: _Context, *, print_only: bool) -> None:
    """Create the table in PostgreSQL. Other stores need no preparation.

    It is safe to run it again. The service does the same when it starts, if its user may create tables.
    """
    script = context.store.setup_script()
    if print_only:
        click.echo(script, nl=False)
    elif script:
        context.store.set_up()
        _echo("The store is ready.")
    else:
        _echo("This store needs no preparation.")


@click.command("export", cls=_Command)
@click.argument("file", default="-")
@click.pass_obj
def _export(context: _Context, file: str) -> None:
    """Write all records to FILE, or to standard output: JSON Lines, one record per line.

    An existing FILE is replaced once the export is complete. FILE is readable by its owner only.
    """
    counts: Counter[str] = Counter()
    with _output(file) as out:
        for user_id, record in _readable_records(context.store, counts, label="Exporting", quiet=out.isatty()):
            try:
                out.write(write_line(user_id, record))
            except RecordUnreadable as error:
                _count_unreadable(counts, user_id, error)
            else:
                counts["exported"] += 1
    _finish(counts, "exported", "unreadable")


@click.command("import", cls=_Command)
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--on-conflict",
    type=click.Choice(["skip", "replace"]),
    default="skip",
    show_default=True,
    help="What to do if a user already has another record: keep it, or replace it.",
)
@click.pass_obj
def _import(context: _Context, file: BinaryIO, on_conflict: str) -> None:
    """Read records from FILE, or from standard input, as written by export.

    Each record is imported completely or not at all. Invalid lines are reported and skipped. It is safe to run an
    import again.
    """
    counts: Counter[str] = Counter()
    run = context.new_tag()
    for number, line in _lines(file):
        try:
            now = context.clock()
            user_id, record = read_line(line, tag=f"{run}.{number}", now=now)
            if record.expires_at <= now:
                counts["expired"] += 1
                continue
            outcome = context.store.update(user_id, _import_change(record, run, replace=on_conflict == "replace"))
        except InvalidRequest as error:
            counts["invalid"] += 1
            _echo(f"line {number}: " + " ".join(f"{fault.pointer} {fault.detail}".strip() for fault in error.faults))
        except RecordUnreadable as error:
            _count_unreadable(counts, f"line {number}: {user_id}", error)
        except StoreError as error:
            in_doubt = isinstance(error, OutcomeUnknown)
            _echo(f"line {number}: {'This record may or may not have been written.' if in_doubt else _explain(error)}")
            _echo(_summary(counts, *_OUTCOMES))
            raise click.ClickException("Import stopped. It is safe to run it again.") from error
        else:
            counts[outcome] += 1
            if outcome in _CONFLICTS:
                _echo(f"line {number}: {user_id} {_CONFLICTS[outcome]}.")
    _finish(counts, *_OUTCOMES)


@click.command("stats", cls=_Command)
@click.pass_obj
def _stats(context: _Context) -> None:
    """Count carts, items and bytes, as JSON. Bytes are those of ids and records; a store needs some more.

    Unreadable records are reported on standard error, and the command exits with status 1.
    """
    counts: Counter[str] = Counter()
    spans = dict.fromkeys([*_SPANS, "later"], 0)
    largest: tuple[int, str | None] = (0, None)
    for user_id, record in _readable_records(context.store, counts, label="Counting", quiet=False):
        now, size = context.clock(), len(user_id) + len(records.encode(record))
        cart = record.cart_at(now)
        counts.update(records=1, bytes=size, carts=int(cart is not None), tombstones=int(cart is None))
        counts.update(
            guests=int(cart is not None and user_id.startswith(GUEST_PREFIX)),
            items=len(cart.items) if cart else 0,
            sealed=int(record.seal is not None),
        )
        largest = max(largest, (size, user_id))
        spans[next((span for span, limit in _SPANS.items() if record.expires_at - now <= limit), "later")] += 1
    names = ("records", "carts", "guests", "items", "tombstones", "sealed", "unreadable", "bytes")
    others = {"largest": {"user_id": largest[1], "bytes": largest[0]}, "expire_within": spans}
    result = {name: counts[name] for name in names} | others
    click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2))
    if counts["unreadable"]:
        sys.exit(1)


@click.command("purge", cls=_Command)
@click.option("--unreadable", is_flag=True, help="Delete the records that cannot be decoded instead.")
@click.option("--user", "user_id", help="Delete everything that is stored for this user_id instead.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def _purge(context: _Context, *, unreadable: bool, user_id: str | None, yes: bool) -> None:
    """Delete expired records now. The service deletes them too, little by little."""
    if unreadable and user_id is not None:
        raise click.UsageError("Use either --unreadable or --user.")
    if user_id is not None:
        check_user_id(user_id)
        _confirm(f"Delete everything that is stored for {user_id}?", yes=yes)
        _echo(f"{user_id}: {_describe_deleted(context.store.delete(user_id), now=context.clock())}.")
    elif unreadable:
        _confirm("Delete the records that this version cannot read? A newer version may be able to read them.", yes=yes)
        counts: Counter[str] = Counter()
        for each, record in _with_progress(context.store, label="Searching", quiet=False):
            if isinstance(record, RecordUnreadable):
                context.store.delete(each)
                counts["deleted"] += 1
                _echo(f"{_shown(each)}: deleted.")
        _echo(f"{counts['deleted']} unreadable records deleted.")
    else:
        _echo(f"{context.store.purge_expired()} expired records deleted.")


# ---- export ----


@contextmanager
def _output(path: str) -> Iterator[BinaryIO]:
    """Open standard output, or a file that gets its name once all of it is on the disk."""
    if path == "-":
        out = sys.stdout.buffer
        yield out
        out.flush()
        return
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise click.ClickException(f"{path} is not a file. Use '-' for standard output.")
    descriptor, unfinished = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - Path has no way to open a descriptor
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).replace(target)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _readable_records(
    store: CartStore, counts: Counter[str], *, label: str, quiet: bool
) -> Iterator[tuple[str, Record]]:
    """Yield the records that can be decoded; report and count the others."""
    for user_id, record in _with_progress(store, label=label, quiet=quiet):
        if isinstance(record, RecordUnreadable):
            _count_unreadable(counts, _shown(user_id), record)
        else:
            yield user_id, record


def _with_progress(store: CartStore, *, label: str, quiet: bool) -> Iterator[tuple[str, Record | RecordUnreadable]]:
    """Yield all records, counted by a progress bar on a terminal; their number is not known in advance."""
    hidden = quiet or not sys.stderr.isatty()
    with click.progressbar(
        store.scan(), label=label, show_pos=True, file=sys.stderr, hidden=hidden, update_min_steps=100
    ) as bar:
        yield from bar


# ---- import ----


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank with their numbers from 1, and show a progress bar on a terminal."""
    size = 0
    if file.seekable():
        start = file.tell()
        size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
    hidden = not size or not sys.stderr.isatty()
    with click.progressbar(
        length=size, label="Importing", file=sys.stderr, hidden=hidden, update_min_steps=size // 200
    ) as bar:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise click.ClickException(f"line {number}: Longer than any record. The file is not a backup.")
            if not line.isspace():
                yield number, line
            bar.update(len(line))


def _import_change(record: Record, run: str, *, replace: bool) -> Callable[[Record | None], tuple[Record | None, str]]:
    """Return the change that stores this record unless another record is to be kept, and returns the outcome.

    A record that this run has imported itself is replaced: a backup may contain a record twice, and the later line is
    the newer one.
    """

    def change(old: Record | None) -> tuple[Record | None, str]:
        if old is not None and structs.replace(old, tag=record.tag) == record:
            return old, "unchanged"
        if old is None or old.tag.startswith(f"{run}."):
            return record, "imported"
        return (record, "replaced") if replace else (old, "skipped")

    return change


# ---- messages ----


def _echo(text: str) -> None:
    """Write to standard error, apart from exported records, in place of a progress bar."""
    click.echo(("\r\x1b[K" if sys.stderr.isatty() else "") + text, err=True)


def _count_unreadable(counts: Counter[str], subject: str, error: RecordUnreadable) -> None:
    counts["unreadable"] += 1
    _echo(f"{subject}: {_explain(error)}")


def _shown(name: str) -> str:
    """Return the name of a record for a terminal: a user id as it is, any other name as escaped bytes in quotes."""
    if is_user_id(name):
        return name
    escaped = repr(name.encode(errors="surrogateescape"))[1:]
    return escaped if len(escaped) <= _MAX_NAME else f"{escaped[:_MAX_NAME]}..."


def _explain(error: Exception) -> str:
    """Return the error's message, and the words of the store's driver where it has some."""
    words = driver_words(error) if isinstance(error, StoreError | RecordUnreadable) else ""
    return f"{error} ({words})" if words else str(error)


def _describe_deleted(found: Record | RecordUnreadable | None, *, now: int) -> str:
    if found is None:
        return "nothing was stored"
    if isinstance(found, RecordUnreadable):
        return "an unreadable record was deleted"
    cart = found.cart_at(now)
    if cart is None:
        return "a record without a cart was deleted"
    return f"a cart was deleted, number of items: {len(cart.items)}"


def _summary(counts: Counter[str], *names: str) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in names)


def _finish(counts: Counter[str], *names: str) -> None:
    """Print the counts. Exit with status 1 if invalid lines or unreadable records were skipped."""
    _echo(_summary(counts, *names))
    if counts["invalid"] or counts["unreadable"]:
        sys.exit(1)


def _confirm(question: str, *, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)
