"""Measure the calls to a store, in a CartStore that wraps any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cartsvc.carts.store import T, WrappedStore
from cartsvc.errors import RecordUnreadable, StoreError
from cartsvc.telemetry.requests import current_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import CartStore


class CallObserver(Protocol):
    """What a store calls after each call."""

    def store_call(self, operation: str, *, seconds: float, error: str) -> None:
        """Observe a call that took this time; ``error`` is the class of the store's error, or empty."""

    def conflicts(self, count: int) -> None:
        """Observe that a write was repeated, because other writes to the same record came before."""


class MeasuredStore(WrappedStore):
    """Pass every call to ``inner``, and add its time to that of the current request; pass it to ``observers`` too.

    ``monotonic`` returns seconds. Scans are not measured, because only commands scan. Errors that ``change`` raises are
    no errors of the store.
    """

    def __init__(
        self, inner: CartStore, *, monotonic: Callable[[], float], observers: Sequence[CallObserver] = ()
    ) -> None:
        super().__init__(inner)
        self._monotonic = monotonic
        self._observers = observers

    def get(self, user_id: str) -> Record | None:
        """Get the record."""
        return self._measure("get", lambda: self.inner.get(user_id))

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Update the record, and count how often ``change`` was repeated."""
        if not self._observers:
            return self._measure("update", lambda: self.inner.update(user_id, change))
        attempts = 0

        def counted(old: Record | None) -> tuple[Record | None, T]:
            nonlocal attempts
            attempts += 1
            return change(old)

        try:
            return self._measure("update", lambda: self.inner.update(user_id, counted))
        finally:
            if attempts > 1:
                for observer in self._observers:
                    observer.conflicts(attempts - 1)

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Delete the record."""
        return self._measure("delete", lambda: self.inner.delete(user_id))

    def purge_expired(self) -> int:
        """Purge expired records."""
        return self._measure("purge_expired", self.inner.purge_expired)

    def ping(self) -> None:
        """Ping the store."""
        self._measure("ping", self.inner.ping)

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
            for observer in self._observers:
                observer.store_call(operation, seconds=seconds, error=error)
