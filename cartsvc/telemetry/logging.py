"""Log each failure of a store once when it begins and once when it ends, in a CartStore that wraps any other."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from typing import TYPE_CHECKING

from cartsvc.carts.store import T, WrappedStore, allowed_when_full
from cartsvc.errors import RecordUnreadable, StoreError, StoreFull, driver_words, error_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import CartStore

_QUIET_S = 60  # between two lines about the same kind of failure
_CALM_S = 5  # without a failure until it counts as over, because one node of a cluster may be down while others respond
_MAX_OUTAGES = 256  # remembered at a time; each unreadable record is one
_DIGEST = 16  # hexadecimal digits
_FULL, _UNREADABLE = "full", "unreadable"
_CONNECTION = ("ConnectionError", "TimeoutError")
_PERMISSIONS = ("NOPERM", "42501")  # of Valkey and of PostgreSQL

# What the success of a call proves. A ping is a write that changes nothing, so it may be allowed when others are not.
_READ, _PING, _WRITE = 0, 1, 2

_log = logging.getLogger(__name__)


class _Outage:
    """One kind of failure that has begun and is not over."""

    def __init__(self, since: float) -> None:
        self.since = since  # by the monotonic clock
        self.until: float | None = None  # when calls began to succeed again
        self.failed = 0  # calls
        self.proof = _READ  # the weakest call whose success shows that it is over
        self.logged_as = ""  # empty until its beginning was logged


class LoggedStore(WrappedStore):
    """Pass every call to ``inner``, and log each kind of failure when it begins and when it is over.

    Per kind, at most one beginning per minute is logged, and its end. A line contains the words of the driver and no
    user id: an unreadable record is identified by a digest of its user id, the first 16 hexadecimal digits of SHA-256.
    ``monotonic`` returns seconds.
    """

    def __init__(self, inner: CartStore, *, monotonic: Callable[[], float]) -> None:
        super().__init__(inner)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._outages: dict[tuple[str, str], _Outage] = {}  # by kind and, for unreadable records, user id
        self._logged_at: dict[str, float] = {}  # by kind

    def get(self, user_id: str) -> Record | None:
        """Get the record."""
        try:
            record = self.inner.get(user_id)
        except (StoreError, RecordUnreadable) as error:
            self._begin(error, _READ, user_id)
            raise
        if self._outages:
            self._end(_READ, user_id)
        return record

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Update the record. An exception raised by ``change`` is not a failure of the store."""
        if self._outages:
            return self._update_in_outage(user_id, change)
        try:
            return self.inner.update(user_id, change)
        except (StoreError, RecordUnreadable) as error:
            self._begin(error, _WRITE, user_id)
            raise

    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Iterate over all records; those that cannot be read are not logged, because the caller gets their names."""
        try:
            yield from self.inner.scan()
        except StoreError as error:
            self._begin(error, _READ)
            raise

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Delete the record."""
        try:
            found = self.inner.delete(user_id)
        except StoreError as error:
            self._begin(error, _WRITE, user_id)
            raise
        if self._outages:
            self._end(_WRITE, user_id)
        return found

    def purge_expired(self) -> int:
        """Purge expired records."""
        try:
            count = self.inner.purge_expired()
        except StoreError as error:
            self._begin(error, _WRITE)
            raise
        if self._outages:
            self._end(_READ)  # a purge may have nothing to write
        return count

    def ping(self) -> None:
        """Ping the store."""
        try:
            self.inner.ping()
        except StoreError as error:
            self._begin(error, _PING)
            raise
        if self._outages:
            self._end(_PING, has_room=True)

    def _update_in_outage(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        proves, has_grown = _READ, False

        def watched(old: Record | None) -> tuple[Record | None, T]:
            nonlocal proves, has_grown
            new, result = change(old)
            proves = _READ if new is old else _WRITE
            has_grown = new is not None and new is not old and not allowed_when_full(old, new)
            return new, result

        try:
            result = self.inner.update(user_id, watched)
        except (StoreError, RecordUnreadable) as error:
            self._begin(error, _WRITE, user_id)
            raise
        self._end(proves, user_id, has_room=has_grown)
        return result

    def _begin(self, error: StoreError | RecordUnreadable, call: int, user_id: str = "") -> None:
        kind, proof = _classify(error, call)
        name = (kind, user_id if kind == _UNREADABLE else "")
        with self._lock:
            now = self._monotonic()
            outage = self._outages.get(name)
            if outage is not None and outage.until is not None and now - outage.until >= _CALM_S:
                self._log_end(name)
                outage = None
            if outage is None:
                if len(self._outages) >= _MAX_OUTAGES:
                    del self._outages[next(iter(self._outages))]
                outage = self._outages[name] = _Outage(now)
            outage.until = None
            outage.failed += 1
            outage.proof = max(outage.proof, proof)
            logged_at = self._logged_at.get(kind)
            if not outage.logged_as and (logged_at is None or now - logged_at >= _QUIET_S):
                self._logged_at[kind] = now
                outage.logged_as = _describe(error, kind, user_id)
                _log.warning("%s", outage.logged_as)

    def _end(self, call: int, user_id: str = "", *, has_room: bool = False) -> None:
        with self._lock:
            now = self._monotonic()
            for name, outage in list(self._outages.items()):
                kind, owner = name
                if kind == _UNREADABLE:
                    proven = owner == user_id
                else:
                    proven = has_room if kind == _FULL else call >= outage.proof
                if not proven:
                    continue
                if outage.until is None:
                    outage.until = now
                if kind == _UNREADABLE or now - outage.until >= _CALM_S:
                    self._log_end(name)

    def _log_end(self, name: tuple[str, str]) -> None:
        outage = self._outages.pop(name)
        if outage.logged_as and outage.until is not None:
            seconds = outage.until - outage.since
            # This is a warning too, because Python prints nothing below that level without a handler.
            _log.warning("over after %.1f s, failed calls: %d: %s", seconds, outage.failed, outage.logged_as)


def _classify(error: StoreError | RecordUnreadable, call: int) -> tuple[str, int]:
    """Return the kind of this failure, and the weakest call whose success shows that it is over."""
    if isinstance(error, RecordUnreadable):
        return _UNREADABLE, _READ
    if isinstance(error, StoreFull):
        return _FULL, _PING
    cause = error.__cause__ or error
    name, code = type(cause).__name__, error_code(cause)
    if name in _CONNECTION:
        return name, _READ
    # Before a ping writes, a server checks whether it may write at all, but not whether it may do all kinds of writes.
    return f"{name} {code}".strip(), min(call, _PING) if code and code not in _PERMISSIONS else call


def _describe(error: StoreError | RecordUnreadable, kind: str, user_id: str) -> str:
    words = driver_words(error) or str(error)
    if user_id:
        words = re.sub(rf"(?<![\w.-]){re.escape(user_id)}(?![\w.-])", "...", words)
    if kind == _UNREADABLE:
        return f"record unreadable, digest {hashlib.sha256(user_id.encode()).hexdigest()[:_DIGEST]}: {words}"
    return f"store full: {words}" if kind == _FULL else f"store unavailable: {words}"
