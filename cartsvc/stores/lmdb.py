"""The LMDB store: records in one file of a directory, seen by every process of one container or machine."""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import lmdb

from cartsvc.carts import record as records
from cartsvc.carts.store import CartStore, T, allowed_when_full, check_name
from cartsvc.errors import RecordUnreadable, StoreError, StoreFull, StoreUnusable
from cartsvc.stores.lmdb_lock import DirectoryLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.record import Record
    from cartsvc.stores.urls import LmdbConfig

_MINUTE_MS = 60_000  # milliseconds
_PURGE_PER_WRITE = 8  # expired records a write clears on its way
_PAGE_SIZE = 256  # records of a page of a scan, and expired ones cleared in one transaction when room is wanted
# seconds between two looks for killed readers: what they read is kept until somebody looks
_READER_CHECK_INTERVAL_S = 30.0
_RESERVE_DIVISOR = 2  # carts may fill half of the map: with less to spare, large ones found no run of free pages
_DISK_FULL_CODES = (errno.EDQUOT, errno.EFBIG)  # a quota, a limit on files; for ENOSPC there is a class
_MIN_FREE_BYTES = 2**16  # bytes left on a disk that is not full
_NEW_PAGES = 4  # that a small cart may take: a leaf and a branch in either table are split for it
_MIN_FREE = 2**17  # bytes left for carts, on the disk and in the file, whose last changes keep some of its pages


class LmdbStore(CartStore):
    """Records of one machine, in LMDB: two tables, the records and who expires in which minute.

    To be opened by each process after its fork. ``max_readers`` is how many threads of all processes read at the same
    time at most. A write transaction waits for the others, of all processes; a read waits for nobody.
    """

    shared: ClassVar[bool] = True

    def __init__(self, config: LmdbConfig, *, clock: Callable[[], int], max_readers: int) -> None:
        self._clock = clock
        self._path = config.path
        self._pid = os.getpid()
        self._checked_at = time.monotonic()
        with ExitStack() as opened:
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
                    readahead=False,  # carts are read one by one, in no order
                )
                opened.enter_context(closing(self._env))
                self._env.reader_check()
                self._records = self._env.open_db(b"records")
                self._expiry_index = self._env.open_db(b"due")  # minute (8 bytes, big-endian) and user_id; no values
                self._max_pages = self._page_limit(config.map_size)
            except lmdb.Error as error:
                raise StoreUnusable(f"{config.path} cannot be opened: {error}.") from error
            self._opened = opened.pop_all()

    def get(self, user_id: str) -> Record | None:
        """Look the record up in the last committed state."""
        with self._errors(), self._begin() as txn:
            data = txn.get(_key(user_id), db=self._records)
        if data is None:
            return None
        record = records.decode(data)
        return record if record.expires_at > self._clock() else None

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Change the record in a write transaction; in a second one if there was no room and now there may be."""
        key = _key(user_id)
        try:
            return self._update(key, change)
        except StoreFull:
            if not self._reclaim():
                raise
        return self._update(key, change)

    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Go through the keys page by page: a long read would keep all pages that are replaced meanwhile."""
        after = b""
        while page := self._page(after):
            after = page[-1][0]
            for key, data in page:
                user_id = key.decode(errors="surrogateescape")
                try:
                    check_name(user_id)
                    record = records.decode(data)
                except RecordUnreadable as error:
                    yield user_id, error
                else:
                    if record.expires_at > self._clock():
                        yield user_id, record

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Remove the record. What the other table has of one that cannot be decoded goes in its time."""
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
        """Clear all of the minutes that are over, some in each transaction."""
        total, more = 0, True
        while more:
            cleared, more = self._clear_many()
            total += cleared
        return total

    def ping(self) -> None:
        """Begin a write, because a process that is stuck in one keeps all others from writing.

        The store is full when fewer pages of the map's half are left than a small cart may take, or less than 128 KiB
        of the file and the disk together, and nothing has expired that the next write would clear. Some small carts may
        still find room in pages that have some; a quota of the disk shows only when a write fails.
        """
        with self._errors(), self._begin(write=True) as txn:
            if self._is_full(txn):
                raise StoreFull

    def close(self) -> None:
        """Close the file, and let its directory go."""
        self._opened.close()

    def _update(self, key: bytes, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        with self._errors(), self._begin(write=True) as txn:
            now = self._clock()
            self._clear(txn, now, _PURGE_PER_WRITE)
            data = txn.get(key, db=self._records)
            stored = None if data is None else records.decode(data)
            old = stored if stored is not None and stored.expires_at > now else None
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
        """Whether there may be more room than before: killed readers are forgotten, or expired records are gone."""
        with self._errors():
            forgotten = self._env.reader_check()
        return self._clear_many()[0] > 0 or forgotten > 0

    def _clear_many(self) -> tuple[int, bool]:
        with self._errors(), self._begin(write=True) as txn:
            return self._clear(txn, self._clock(), _PAGE_SIZE)

    def _clear(self, txn: lmdb.Transaction[bytes], now: int, max_count: int) -> tuple[int, bool]:
        """Remove at most ``max_count`` records of minutes that are over; tells how many, and whether there may be
        more.
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
        """Remove the record that was due, unless it was erased and made anew since."""
        data = txn.get(key, db=self._records)
        if data is None:
            return False
        # The minute of one that cannot be decoded is over all the same.
        with suppress(RecordUnreadable):
            if records.decode(data).expires_at > now:
                return False
        return txn.delete(key, db=self._records)

    def _page_limit(self, map_size: int) -> int:
        """How many pages carts may fill. The rest of the map is for changing and removing them: LMDB copies on write.

        A file that was filled under a larger map keeps so much room that its carts can be removed.
        """
        page, there = self._env.stat()["psize"], self._env.info()["map_size"]
        with self._env.begin() as txn:
            used = self._used_pages(txn) * page
        if used > there - there // 4:
            self._env.set_mapsize(there + used // 2)
        return map_size // _RESERVE_DIVISOR // page

    def _is_full(self, txn: lmdb.Transaction[bytes]) -> bool:
        used = self._used_pages(txn)
        if used + _NEW_PAGES <= self._max_pages:
            try:
                disk = os.statvfs(self._path)
            except OSError as error:
                raise StoreError from error
            free = (self._env.info()["last_pgno"] + 1 - used) * self._env.stat()["psize"]
            if disk.f_bavail * disk.f_frsize + free >= _MIN_FREE:
                return False
        with txn.cursor(db=self._expiry_index) as cursor:
            return not (cursor.first() and cursor.key()[:8] < _minute(self._clock()))

    def _used_pages(self, txn: lmdb.Transaction[bytes]) -> int:
        """How many pages hold what is stored; the free ones between do not count."""
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
        except lmdb.ReadersFullError:  # some may be of processes that were killed
            self._env.reader_check()
        except lmdb.MapResizedError:  # another process was started with a larger map
            self._env.set_mapsize(0)
        return self._env.begin(write=write)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn LMDB's errors into ours. What was raised in a transaction has aborted it, and nothing was changed."""
        try:
            yield
        except lmdb.Error as error:
            if isinstance(error, lmdb.MapFullError | lmdb.DiskError) or self._disk_is_full(error):
                raise StoreFull from error
            raise StoreError from error

    def _disk_is_full(self, error: lmdb.Error) -> bool:
        """A full disk may take a part of a write; for that LMDB has no other code than for a broken one."""
        code, disk = getattr(error, "code", None), os.statvfs(self._path)
        return code in _DISK_FULL_CODES or (code == errno.EIO and disk.f_bavail * disk.f_frsize < _MIN_FREE_BYTES)


def _key(user_id: str) -> bytes:
    return user_id.encode(errors="surrogateescape")


def _expiry_key(key: bytes, record: Record) -> bytes:
    return _minute(max(0, record.expires_at)) + key  # an import may bring a record from before 1970


def _minute(milliseconds: int) -> bytes:
    return (milliseconds // _MINUTE_MS).to_bytes(8, "big")
