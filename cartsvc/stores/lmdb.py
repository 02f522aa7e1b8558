"""The LMDB store: records in one file of a directory, shared by the processes of one container or machine."""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import lmdb

from cartsvc.carts import record as records
from cartsvc.carts.store import CartStore, StoreUsage, T, allowed_when_full, scanned
from cartsvc.errors import RecordUnreadable, StoreError, StoreFull, StoreUnusable
from cartsvc.stores.lmdb_lock import DirectoryLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.record import Record
    from cartsvc.shared_directory import SharedDirectory
    from cartsvc.stores.urls import LmdbConfig

_MINUTE_MS = 60_000
_PURGE_PER_WRITE = 8  # expired records that a write removes in addition
_PAGE_SIZE = 256  # records per page of a scan, and expired records per transaction of a purge
_READER_CHECK_INTERVAL_S = 30.0  # a killed reader keeps its pages from reuse until a process checks for it
_RESERVE_DIVISOR = 2  # carts may fill half of the map: with a smaller reserve, large carts found no run of free pages
_DISK_FULL_CODES = (errno.EDQUOT, errno.EFBIG)  # a quota, and a limit on file sizes; ENOSPC has an exception class
_MIN_DISK_FREE_BYTES = 2**16  # on a disk that is not full
_NEW_PAGES = 4  # pages that a small cart may take: in each of the two tables it splits a leaf and a branch
_MIN_FREE_BYTES = 2**17  # for carts, on the disk and in the file, whose last changes keep some of its pages


class LmdbStore(CartStore):
    """Keep records in LMDB, in two tables: the records, and an index of the minutes in which they expire.

    Each process opens its own store, after its fork. ``max_readers`` is the maximum number of threads, in all processes
    together, that read at the same time. Write transactions of all processes are serialised; a read never waits.
    A ``map_size`` of 0 is that of the existing file. ``shared`` is a directory that the store closes with its files.
    """

    def __init__(
        self, config: LmdbConfig, *, clock: Callable[[], int], max_readers: int, shared: SharedDirectory | None = None
    ) -> None:
        self._clock = clock
        self._path = config.path
        self._pid = os.getpid()
        self._checked_at = time.monotonic()
        with ExitStack() as opened:
            if shared is not None:
                opened.enter_context(closing(shared))
            opened.enter_context(closing(DirectoryLock(config.path)))
            try:
                self._env = lmdb.open(
                    config.path,
                    map_size=config.map_size,
                    sync=config.sync != "off",
                    metasync=config.sync == "on",
                    mode=0o600,
                    max_dbs=2,
                    max_readers=max_readers,
                    max_spare_txns=1,
                    readahead=False,  # carts are read one at a time, in no order
                )
                opened.enter_context(closing(self._env))
                self._env.reader_check()
                self._records = self._env.open_db(b"records")
                self._expiry_index = self._env.open_db(b"due")  # minute (8 bytes, big-endian) and user_id; no values
                self._max_pages = self._page_limit(config.map_size or self._env.info()["map_size"])
            except lmdb.Error as error:
                raise StoreUnusable(f"{config.path} cannot be opened: {error}.") from error
            self._opened = opened.pop_all()

    def get(self, user_id: str) -> Record | None:
        """Read the record from the last committed state."""
        with self._errors(), self._begin() as txn:
            data = txn.get(_key(user_id), db=self._records)
        return None if data is None else self._decode_live(data)

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Change the record in a write transaction. If the store is full and space was reclaimed, try once more."""
        key = _key(user_id)
        try:
            return self._update(key, change)
        except StoreFull:
            if not self._reclaim():
                raise
        return self._update(key, change)

    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Read the keys in pages, because a long read transaction would keep all pages replaced in the meantime."""
        after = b""
        while page := self._page(after):
            after = page[-1][0]
            for key, data in page:
                yield from scanned(key.decode(errors="surrogateescape"), partial(self._decode_live, data))

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Remove the record. The index entry of a record that cannot be decoded is removed when its minute is over."""
        key = _key(user_id)
        with self._errors(), self._begin(write=True) as txn:
            data = txn.pop(key, db=self._records)
            if data is None:
                return None
            try:
                record = records.decode(data)
            except RecordUnreadable as error:
                return error
            txn.delete(_expiry_key(key, record), db=self._expiry_index)
            return record

    def purge_expired(self) -> int:
        """Remove the records of all minutes that are over, _PAGE_SIZE per transaction."""
        total, more = 0, True
        while more:
            cleared, more = self._clear_many()
            total += cleared
        return total

    def ping(self) -> None:
        """Begin a write transaction, because a process that is stuck in one blocks the writes of all processes.

        The store is full if half of the map has fewer pages left than a small cart may take, or if the file and the
        disk together have less than 128 KiB left, and nothing has expired that the next write would remove. Some small
        carts may still fit into pages that are partly used. A disk quota shows only when a write fails.
        """
        with self._errors(), self._begin(write=True) as txn:
            if self._is_full(txn):
                raise StoreFull

    def usage(self) -> StoreUsage:
        """Return the pages in use, those that carts may fill, and the number of records."""
        page_size = self._env.stat()["psize"]
        with self._errors(), self._begin() as txn:
            used, count = self._used_pages(txn), txn.stat(self._records)["entries"]
        return StoreUsage(used * page_size, self._max_pages * page_size, count)

    def close(self) -> None:
        """Close the file, and release the lock on its directory."""
        self._opened.close()

    def _decode_live(self, data: bytes) -> Record | None:
        record = records.decode(data)
        return record if record.is_live(self._clock()) else None

    def _update(self, key: bytes, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        with self._errors(), self._begin(write=True) as txn:
            now = self._clock()
            self._clear(txn, now, _PURGE_PER_WRITE)
            data = txn.get(key, db=self._records)
            stored = None if data is None else records.decode(data)
            old = stored if stored is not None and stored.is_live(now) else None
            new, result = change(old)
            if new is None and stored is not None:
                txn.delete(_expiry_key(key, stored), db=self._expiry_index)
                txn.delete(key, db=self._records)
            elif new is not None and new is not old:
                self._put(txn, key, stored, new)
                if not allowed_when_full(old, new) and self._used_pages(txn) > self._max_pages:
                    raise StoreFull
        return result

    def _put(self, txn: lmdb.Transaction[bytes], key: bytes, stored: Record | None, new: Record) -> None:
        due = _expiry_key(key, new)
        before = None if stored is None else _expiry_key(key, stored)
        if before != due:
            if before is not None:
                txn.delete(before, db=self._expiry_index)
            txn.put(due, b"", db=self._expiry_index)
        txn.put(key, records.encode(new), db=self._records)

    def _page(self, after: bytes) -> list[tuple[bytes, bytes]]:
        with self._errors(), self._begin() as txn, txn.cursor(db=self._records) as cursor:
            if not cursor.set_range(after + b"\0"):
                return []
            return list(islice(cursor, _PAGE_SIZE))

    def _reclaim(self) -> bool:
        """Free the pages of killed readers and expired records; return whether that may have made room."""
        with self._errors():
            forgotten = self._env.reader_check()
        return self._clear_many()[0] > 0 or forgotten > 0

    def _clear_many(self) -> tuple[int, bool]:
        with self._errors(), self._begin(write=True) as txn:
            return self._clear(txn, self._clock(), _PAGE_SIZE)

    def _clear(self, txn: lmdb.Transaction[bytes], now: int, max_count: int) -> tuple[int, bool]:
        """Remove at most ``max_count`` records of minutes that are over.

        Returns how many were removed, and whether there may be more.
        """
        over = _minute(now)
        cleared = 0
        with txn.cursor(db=self._expiry_index) as cursor:
            for _ in range(max_count):
                if not cursor.first() or (due := cursor.key())[:8] >= over:
                    return cleared, False
                cursor.delete()
                cleared += self._clear_one(txn, due[8:], now)
        return cleared, True

    def _clear_one(self, txn: lmdb.Transaction[bytes], key: bytes, now: int) -> bool:
        """Remove the record that was due, unless it was deleted and created again since."""
        data = txn.get(key, db=self._records)
        if data is None:
            return False
        # A record that cannot be decoded is removed, because its minute is over too.
        with suppress(RecordUnreadable):
            if records.decode(data).is_live(now):
                return False
        return txn.delete(key, db=self._records)

    def _page_limit(self, map_size: int) -> int:
        """Return how many pages carts may fill. Changing and removing them needs the rest: LMDB copies on write.

        If the file was filled with a larger ``map_size``, enlarge the map, so that carts can still be removed.
        """
        page_size, opened_size = self._env.stat()["psize"], self._env.info()["map_size"]
        with self._env.begin() as txn:
            used = self._used_pages(txn) * page_size
        if used > opened_size - opened_size // 4:
            self._env.set_mapsize(opened_size + used // 2)
        return map_size // _RESERVE_DIVISOR // page_size

    def _is_full(self, txn: lmdb.Transaction[bytes]) -> bool:
        used = self._used_pages(txn)
        if used + _NEW_PAGES <= self._max_pages:
            try:
                disk = os.statvfs(self._path)
            except OSError as error:
                raise StoreError from error
            free = (self._env.info()["last_pgno"] + 1 - used) * self._env.stat()["psize"]
            if disk.f_bavail * disk.f_frsize + free >= _MIN_FREE_BYTES:
                return False
        with txn.cursor(db=self._expiry_index) as cursor:
            return not (cursor.first() and cursor.key()[:8] < _minute(self._clock()))

    def _used_pages(self, txn: lmdb.Transaction[bytes]) -> int:
        """Return how many pages are in use, without the free pages of the file."""
        tables = (txn.stat(self._records), txn.stat(self._expiry_index))
        return sum([each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in tables])

    def _begin(self, *, write: bool = False) -> lmdb.Transaction[bytes]:
        if os.getpid() != self._pid:
            cause = RuntimeError("LMDB was opened before this process was forked: open a store in each process")
            raise StoreError from cause
        now = time.monotonic()
        if now - self._checked_at > _READER_CHECK_INTERVAL_S:
            self._checked_at = now
            self._env.reader_check()
        try:
            return self._env.begin(write=write)
        except lmdb.ReadersFullError:  # some readers may be of killed processes
            self._env.reader_check()
        except lmdb.MapResizedError:  # another process has opened the file with a larger map
            self._env.set_mapsize(0)
        return self._env.begin(write=write)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise our errors for those of LMDB. An error inside a transaction has aborted it, so nothing was changed."""
        try:
            yield
        except lmdb.Error as error:
            if isinstance(error, lmdb.MapFullError | lmdb.DiskError) or self._disk_is_full(error):
                raise StoreFull from error
            raise StoreError from error

    def _disk_is_full(self, error: lmdb.Error) -> bool:
        """Return whether the disk is full. LMDB reports a short write on a full disk as it reports a broken disk."""
        code, disk = getattr(error, "code", None), os.statvfs(self._path)
        return code in _DISK_FULL_CODES or (code == errno.EIO and disk.f_bavail * disk.f_frsize < _MIN_DISK_FREE_BYTES)


def _key(user_id: str) -> bytes:
    return user_id.encode(errors="surrogateescape")


def _expiry_key(key: bytes, record: Record) -> bytes:
    return _minute(max(0, record.expires_at)) + key  # an imported record may be from before 1970


def _minute(milliseconds: int) -> bytes:
    return (milliseconds // _MINUTE_MS).to_bytes(8, "big")
