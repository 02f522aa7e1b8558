"""The interface of all stores, and the rules that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from cartsvc.carts.cart import is_user_id, stored_size
from cartsvc.errors import RecordUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from cartsvc.carts.record import Record

T = TypeVar("T")


class StoreUsage(NamedTuple):
    """How full a store is. ``records`` counts expired ones too, until they are removed."""

    used_bytes: int
    limit_bytes: int
    records: int


class CartStore(ABC):
    """Keep one record per user_id.

    A store is safe to use from many threads. A record counts as absent from its ``expires_at`` on, by the clock with
    which the store was opened. A store raises errors of :mod:`cartsvc.errors` only, and those of ``change``.
    """

    @abstractmethod
    def get(self, user_id: str) -> Record | None:
        """Return the record, or None if it is absent. Raises RecordUnreadable, StoreError."""

    @abstractmethod
    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Read, change and write one record in one atomic step, and return the result of ``change``.

        ``change`` takes the record (None if it is absent) and returns the next record (None removes it) and a result.
        It must be pure, because it may be called again; the result is that of the call whose record was written. If it
        returns the same object, nothing is written; if it raises, the record stays as it was. Any other record must
        have a new tag. Raises StoreFull if there is no room, RecordUnreadable, StoreError if nothing was applied, and
        OutcomeUnknown if the write is in doubt.
        """

    @abstractmethod
    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Yield each record with its user_id, in no order.

        A record that exists during the whole iteration is always included; others may be. One that is changed in the
        meantime may be yielded twice. A record that cannot be decoded, or whose name is no user_id, is yielded as the
        error RecordUnreadable. Bytes of a name that are not UTF-8 become surrogates (PEP 383); :meth:`delete` takes the
        name in this form.
        """

    @abstractmethod
    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Remove the record of this user, even if it cannot be decoded, and return it.

        A record is returned although it has expired; None means that nothing was stored.
        """

    @abstractmethod
    def purge_expired(self) -> int:
        """Remove all expired records now, and return how many were removed."""

    @abstractmethod
    def ping(self) -> None:
        """Return if the store takes new carts.

        Raises StoreFull if it has no room for a new cart, and StoreError if it fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all resources of the store. It must not be used afterwards."""

    def startup_warnings(self) -> list[str]:
        """Return warnings about the configuration of the store for its operator, one sentence each."""
        return []

    def setup_script(self) -> str:
        """Return the commands that prepare the server of this store; "" if there is nothing to prepare."""
        return ""

    def set_up(self) -> None:  # noqa: B027 - most stores need no preparation
        """Prepare the server of this store, unless that has been done before. Raises StoreError."""

    def usage(self) -> StoreUsage | None:
        """Return how full the store is; None if another program keeps the records. Raises StoreError."""
        return None

    def operation(self) -> AbstractContextManager[object]:
        """Return a context for the calls of one request, which share the time that a request may take."""
        return nullcontext()


class WrappedStore(CartStore):
    """Pass every call to ``inner``. Subclasses override the calls that they observe or disturb."""

    def __init__(self, inner: CartStore) -> None:
        self.inner = inner

    def get(self, user_id: str) -> Record | None:
        """Get the record."""
        return self.inner.get(user_id)

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Update the record."""
        return self.inner.update(user_id, change)

    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Iterate over all records."""
        return self.inner.scan()

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Delete the record."""
        return self.inner.delete(user_id)

    def purge_expired(self) -> int:
        """Purge expired records."""
        return self.inner.purge_expired()

    def ping(self) -> None:
        """Ping the store."""
        self.inner.ping()

    def close(self) -> None:
        """Close the store."""
        self.inner.close()

    def startup_warnings(self) -> list[str]:
        """Return the warnings of the store."""
        return self.inner.startup_warnings()

    def setup_script(self) -> str:
        """Return the commands that prepare the server."""
        return self.inner.setup_script()

    def set_up(self) -> None:
        """Prepare the server."""
        self.inner.set_up()

    def usage(self) -> StoreUsage | None:
        """Return how full the store is."""
        return self.inner.usage()

    def operation(self) -> AbstractContextManager[object]:
        """Let the calls inside share the time of one request."""
        return self.inner.operation()


def scanned(user_id: str, read: Callable[[], Record | None]) -> Iterator[tuple[str, Record | RecordUnreadable]]:
    """Yield the record that ``read`` returns, or its error, as :meth:`CartStore.scan` does; nothing for None.

    A record under a name that is no user_id is yielded as an error, because no request can reach it.
    """
    try:
        _check_name(user_id)
        record = read()
    except RecordUnreadable as error:
        yield user_id, error
    else:
        if record is not None:
            yield user_id, record


def _check_name(name: str) -> None:
    if not is_user_id(name):
        raise RecordUnreadable from ValueError("its name is no user_id")


def allowed_when_full(old: Record | None, new: Record) -> bool:
    """Return whether a full store takes this write. It rejects only writes that create a cart or make one larger.

    So a cart can be removed, made smaller, sealed and unsealed. A key or a mark may add more bytes than the write
    removes, but the number of both is bounded.
    """
    if old is None:
        return False
    if new.cart is None or old.cart is None:
        return new.cart is None
    return stored_size(new.cart.items, new.cart.metadata) <= stored_size(old.cart.items, old.cart.metadata)
