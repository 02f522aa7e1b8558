"""The memory store: records as bytes in one process, with one lock."""

from __future__ import annotations

import heapq
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from cartsvc.carts import record as records
from cartsvc.carts.store import CartStore, T, allowed_when_full, check_name
from cartsvc.errors import RecordUnreadable, StoreFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.record import Record

_SECOND_MS, _MINUTE_MS = 1_000, 60_000
_INDEX_OVERHEAD = 150  # bytes per record in the two tables, without its key and its own bytes: measured, rounded up
_SPARSE = 500  # bytes per entry from which on a set is rebuilt; a set that only grew has at most 130
_PURGE_PER_WRITE = 8  # expired records that a write removes in addition
_SMALLEST = 360  # bytes of the limit that the smallest cart takes


class MemoryStore(CartStore):
    """Keep records in the memory of one process; they are lost when it ends.

    Records are kept as bytes, which are compact and cannot be changed outside the store. ``limit`` bounds all keys and
    records together, in bytes, including what Python adds to each of them.
    """

    shared: ClassVar[bool] = False

    def __init__(self, *, clock: Callable[[], int], limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._lock = threading.Lock()
        self._records: dict[str, bytes] = {}
        self._used = 0
        # The user_ids that expire in each minute, and a heap of these minutes, so that a write finds expired records
        # without a search.
        self._expiry_index: dict[int, set[str]] = {}
        self._minutes: list[int] = []
        self._searched_at = 0  # when the current minute was last searched, because the store was full

    def get(self, user_id: str) -> Record | None:
        """Read the record, without the lock."""
        # Reading a dict is atomic, and the bytes never change.
        stored = self._stored(user_id)
        return stored if stored is not None and stored.is_live(self._clock()) else None

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Change the record while holding the lock."""
        with self._lock:
            now = self._clock()
            self._clear(now, _PURGE_PER_WRITE)
            old = self._stored(user_id)
            if old is not None and not old.is_live(now):
                self._drop(user_id, old)
                old = None
            new, result = change(old)
            if new is not None and new is not old:
                self._put(user_id, old, new, now)
            elif new is None and old is not None:
                self._drop(user_id, old)
            return result

    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Read the records of all user_ids that exist at the start."""
        for user_id in list(self._records):
            try:
                check_name(user_id)
                record = self.get(user_id)
            except RecordUnreadable as error:
                yield user_id, error
            else:
                if record is not None:
                    yield user_id, record

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Remove the record. A record that cannot be decoded is removed from the index by a search."""
        with self._lock:
            try:
                record = self._stored(user_id)
            except RecordUnreadable as error:
                for users in self._expiry_index.values():
                    users.discard(user_id)
                self._used -= _memory_cost(user_id, self._records.pop(user_id))
                return error
            if record is not None:
                self._drop(user_id, record)
            return record

    def purge_expired(self) -> int:
        """Drop all expired records."""
        with self._lock:
            before, now = len(self._records), self._clock()
            self._searched_at = 0
            self._clear(now, sys.maxsize)
            self._clear_this_minute(now)
            return before - len(self._records)

    def ping(self) -> None:
        """Compare the memory used with the limit.

        The store is full if the smallest cart does not fit into the limit after all expired records are dropped.
        """
        with self._lock:
            if self._used + _SMALLEST <= self._limit:
                return
            now = self._clock()
            self._clear(now, sys.maxsize)
            self._clear_this_minute(now)
            if self._used + _SMALLEST > self._limit:
                raise StoreFull

    def close(self) -> None:
        """Drop all records."""
        with self._lock:
            self._records.clear()

    def _stored(self, user_id: str) -> Record | None:
        data = self._records.get(user_id)
        return None if data is None else records.decode(data)

    def _put(self, user_id: str, old: Record | None, new: Record, now: int) -> None:
        data = records.encode(new)
        growth = _memory_cost(user_id, data)
        if old is not None:
            growth -= _memory_cost(user_id, self._records[user_id])
        if growth > 0 and self._used + growth > self._limit and not allowed_when_full(old, new):
            self._clear(now, sys.maxsize)
            self._clear_this_minute(now)
            if self._used + growth > self._limit:
                raise StoreFull
        minute = new.expires_at // _MINUTE_MS
        if old is None or old.expires_at // _MINUTE_MS != minute:
            if minute not in self._expiry_index:
                self._expiry_index[minute] = set()
                heapq.heappush(self._minutes, minute)
            if old is not None:
                self._forget(user_id, old)
            self._expiry_index[minute].add(user_id)
        self._records[user_id] = data
        self._used += growth

    def _drop(self, user_id: str, record: Record) -> None:
        self._forget(user_id, record)
        self._used -= _memory_cost(user_id, self._records.pop(user_id))

    def _forget(self, user_id: str, record: Record) -> None:
        """Remove a record from the index. A set keeps the memory of its largest size, so a sparse set is rebuilt."""
        minute = record.expires_at // _MINUTE_MS
        users = self._expiry_index[minute]
        users.discard(user_id)
        if sys.getsizeof(users) > _SPARSE * (len(users) + 1):
            self._expiry_index[minute] = set(users)

    def _clear(self, now: int, max_count: int) -> None:
        """Drop at most ``max_count`` records of the minutes that are over."""
        while self._minutes and self._minutes[0] < now // _MINUTE_MS:
            users = self._expiry_index[self._minutes[0]]
            while users and max_count:
                user_id = users.pop()
                self._used -= _memory_cost(user_id, self._records.pop(user_id))
                max_count -= 1
            if users:
                return
            del self._expiry_index[heapq.heappop(self._minutes)]

    def _clear_this_minute(self, now: int) -> None:
        """Drop the expired records of the current minute, at most once per second, because that is a search."""
        if abs(now - self._searched_at) < _SECOND_MS:
            return
        self._searched_at = now
        for user_id in list(self._expiry_index.get(now // _MINUTE_MS, ())):
            with suppress(RecordUnreadable):  # it is dropped when its minute is over
                record = records.decode(self._records[user_id])
                if not record.is_live(now):
                    self._drop(user_id, record)


def _memory_cost(user_id: str, data: bytes) -> int:
    """Return how many bytes of the limit this record takes. Its key is in both tables."""
    return 2 * sys.getsizeof(user_id) + sys.getsizeof(data) + _INDEX_OVERHEAD
