"""The one contract that every store keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, ClassVar, TypeVar

from cartsvc.carts.cart import is_user_id, stored_size
from cartsvc.errors import RecordUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from cartsvc.carts.record import Record

T = TypeVar("T")


class CartStore(ABC):
    """Where records live: one of them for a user_id.

    Safe to use from many threads. A record reads as absent from its ``expires_at`` on, by the clock the store was
    opened with. A store raises nothing but :mod:`cartsvc.errors`, and what ``change`` raises.
    """

    shared: ClassVar[bool]  # whether other processes can see the same carts

    @abstractmethod
    def get(self, user_id: str) -> Record | None:
        """The record, or None. Creates nothing. Raises RecordUnreadable, StoreError."""

    @abstractmethod
    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Read, change and write one record as one atomic step; returns what ``change`` has to say.

        ``change`` gets the record (None when there is none) and returns the next one (None removes it) and the answer.
        It must be pure, for it may be called again; the answer is that of the call that won. The same record returned
        writes nothing; an exception raised leaves the record as it was. A record returned that is not the same one
        must have a new tag. Raises StoreFull when there is no room, RecordUnreadable, StoreError when nothing was
        done, and OutcomeUnknown when nobody can say.
        """

    @abstractmethod
    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Every record that is there from beginning to end of the iteration, in no order; others may come or not.

        A record that cannot be decoded comes as the error that says so, and so does whatever is stored under a name
        that is no user id: bytes of it that are not UTF-8 come as surrogates (PEP 383), and :meth:`delete` takes the
        name as it came. One that is changed meanwhile may come twice.
        """

    @abstractmethod
    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Remove whatever is stored for this user, also what cannot be decoded, and return what it was.

        A record is returned though it has expired; None means that nothing was stored.
        """

    @abstractmethod
    def purge_expired(self) -> int:
        """Take away at once what has expired and was not cleared yet; returns how many records that were."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the store takes new carts.

        Raise StoreFull when it has no room for a new cart, and StoreError when it fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what the store holds. It is not used after that."""

    def startup_warnings(self) -> list[str]:
        """What whoever runs this store should know at the start, a sentence each; none when all is well."""
        return []

    def operation(self) -> AbstractContextManager[object]:
        """Calls made inside of it belong to one request, and share the time that a request may take."""
        return nullcontext()


def check_name(name: str) -> None:
    """Raise RecordUnreadable when something is stored under a name that is no user id, so that no cart can have it."""
    if not is_user_id(name):
        raise RecordUnreadable from ValueError("its name is no user_id")


def allowed_when_full(old: Record | None, new: Record) -> bool:
    """Whether this is written even when the store is full: all but what makes a cart larger, or a new one.

    So a cart can be removed, made smaller, sealed and opened again, though a key or a mark may take more than what is
    removed: a cart has a bounded number of them.
    """
    if old is None:
        return False
    if new.cart is None or old.cart is None:
        return new.cart is None
    return stored_size(new.cart.items) <= stored_size(old.cart.items)
