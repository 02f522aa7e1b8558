"""Measure the calls to a store, in a CartStore that wraps any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cartsvc.carts.store import CartStore, T
from cartsvc.errors import RecordUnreadable, StoreError
from cartsvc.telemetry.requests import current_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import StoreUsage


class CallObserver(Protocol):
    """What a store calls after each call."""

    def store_call(self, operation: str, *, seconds: float, error: str) -> None:
        """Observe a call that took this time; ``error`` is the class of the store's error, or empty."""

    def conflicts(self, count: int) -> None:
        """Observe that a write was repeated, because other writes to the same record came before."""


class MeasuredStore(CartStore):
    """Pass every call to ``inner``, and add its time to that of the current request; pass it to ``observer`` too.

    ``monotonic`` returns seconds. Errors that ``change`` raises are no errors of the store.
    """

    def __init__(
        self, inner: CartStore, *, monotonic: Callable[[], float], observer: CallObserver | None = None
    ) -> None:
        self._inner = inner
        self._monotonic = monotonic
        self._observer = observer

    def get(self, user_id: str) -> Record | None:
        """Get the record."""
        return self._measure("get", lambda: self._inner.get(user_id))

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Update the record, and count how often ``change`` was repeated."""
        observer = self._observer
        if observer is None:
            return self._measure("update", lambda: self._inner.update(user_id, change))
        attempts = 0

        def counted(old: Record | None) -> tuple[Record | None, T]:
            nonlocal attempts
            attempts += 1
            return change(old)

        try:
            return self._measure("update", lambda: self._inner.update(user_id, counted))
        finally:
            if attempts > 1:
                observer.conflicts(attempts - 1)

    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Iterate over all records. Only commands do, so it is not measured."""
        return self._inner.scan()

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Delete the record."""
        return self._measure("delete", lambda: self._inner.delete(user_id))

    def purge_expired(self) -> int:
        """Purge expired records."""
        return self._measure("purge_expired", self._inner.purge_expired)

    def ping(self) -> None:
        """Ping the store."""
        self._measure("ping", self._inner.ping)

    def close(self) -> None:
        """Close the store."""
        self._inner.close()

    def startup_warnings(self) -> list[str]:
        """Return the warnings of the store."""
        return self._inner.startup_warnings()

    def usage(self) -> StoreUsage | None:
        """Return how full the store is."""
        return self._inner.usage()

    def operation(self) -> AbstractContextManager[object]:
        """Let the calls inside share the time of one request."""
        return self._inner.operation()

    def _measure(self, operation: str, call: Callable[[], T]) -> T:
        error, began = "", self._monotonic()
        try:
            return call()
        except (StoreError, RecordUnreadable) as failure:
            error = type(failure).__name__
            raise
        finally:
            seconds = self._monotonic() - began
            if (info := current_request.get()) is not None:
                info.store_seconds += seconds
            if self._observer is not None:
                self._observer.store_call(operation, seconds=seconds, error=error)
