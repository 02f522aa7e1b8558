"""The part that the stores on a server share: one deadline per request, and updates by compare-and-set on a tag."""

from __future__ import annotations

import random
import threading
import time
from abc import abstractmethod
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from cartsvc.carts import record as records
from cartsvc.carts.store import CartStore, T, allowed_when_full
from cartsvc.errors import StoreError
from cartsvc.stores.operation import Operation, current_operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.record import Record

_LOCK_COUNT = 256
_IMMEDIATE_RETRIES = 4  # failed compares that are retried without a pause, with the record that was found
_RETRY_PAUSE_S = 0.01  # at most


class Found(NamedTuple):
    """The bytes of a stored record, None if it is absent. They made a compare fail."""

    data: bytes | None


class CompareAndSetStore(CartStore):
    """Read, compute, and write if the record is still the same. A subclass reads and writes one record.

    ``timeout`` bounds all calls of one request together, in seconds: waiting for the lock, for a connection and for the
    server. ``clock`` returns milliseconds since the epoch.
    """

    def __init__(self, *, clock: Callable[[], int], timeout: float) -> None:
        self._clock = clock
        self._timeout = timeout
        # Threads of this process that change the same cart take turns, because otherwise their compares would fail.
        self._locks = [threading.Lock() for _ in range(_LOCK_COUNT)]

    @abstractmethod
    def _read(self, key: bytes) -> bytes | None:
        """Return the bytes of a record, None if it is absent."""

    @abstractmethod
    def _compare_and_set(
        self, key: bytes, data: bytes | None, new: Record | None, *, allow_when_full: bool
    ) -> Found | None:
        """Write ``new`` (None removes the record) if the record is still ``data``, and return None.

        Otherwise return the stored record, and write nothing. The write is sent once. A full server takes it if
        ``allow_when_full``.
        """

    def _confirm(self) -> None:
        """Return once everything that was read is as durable as an own write, before an update without one succeeds."""

    @abstractmethod
    def _key(self, user_id: str) -> bytes:
        """Return the key under which the record of this user is stored."""

    @contextmanager
    def operation(self) -> Iterator[Operation]:
        """Start the time of a request. Inside another operation, continue that one."""
        outer = current_operation.get()
        if outer is not None:
            yield outer
            return
        operation = Operation(time.monotonic() + self._timeout)
        token = current_operation.set(operation)
        try:
            yield operation
        finally:
            current_operation.reset(token)

    def get(self, user_id: str) -> Record | None:
        """Read the record in one round trip."""
        with self.operation():
            return self._decode_live(self._read(self._key(user_id)))

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Read, change, compare and set: two round trips, and more for each failed compare."""
        key = self._key(user_id)
        with self.operation() as operation, self._cart_lock(key, operation):
            data = self._read(key)
            for failures in count(1):
                old = self._decode_live(data)
                new, result = change(old)
                if new is old or (new is None and data is None):
                    if data is not None:
                        self._confirm()
                    return result
                found = self._compare_and_set(
                    key, data, new, allow_when_full=new is None or allowed_when_full(old, new)
                )
                if found is None:
                    return result
                data = found.data
                if failures >= _IMMEDIATE_RETRIES:
                    # Many requests change this cart: spread them, and read again after the pause.
                    time.sleep(min(random.uniform(0, _RETRY_PAUSE_S), operation.remaining()))  # noqa: S311 - not a secret
                    data = self._read(key)
        raise AssertionError("count() has no end")

    def _decode_live(self, data: bytes | None) -> Record | None:
        record = None if data is None else records.decode(data)
        return record if record is not None and record.is_live(self._clock()) else None

    @contextmanager
    def _cart_lock(self, key: bytes, operation: Operation) -> Iterator[None]:
        lock = self._locks[hash(key) % _LOCK_COUNT]
        if not lock.acquire(timeout=operation.remaining()):
            raise StoreError from TimeoutError("another request of this process to the same cart did not end in time")
        try:
            yield
        finally:
            lock.release()
