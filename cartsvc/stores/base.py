"""The one contract that every store keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.record import Record

T = TypeVar("T")


class Reach(Enum):
    """Who sees the same carts."""

    PROCESS = "process"
    MACHINE = "machine"
    NETWORK = "network"


class CartStore(ABC):
    """Where records live: one of them for a user_id.

    Safe to use from many threads. A record reads as absent from its ``expires_at`` on, by the clock the store was
    opened with. A store raises nothing but :mod:`cartsvc.errors`, and what ``change`` raises.
    """

    reach: ClassVar[Reach]

    @abstractmethod
    def get(self, user_id: str) -> Record | None:
        """The record, or None. Creates nothing. Raises RecordUnreadable."""

    @abstractmethod
    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Read, change and write one record as one atomic step; returns what ``change`` has to say.

        ``change`` gets the record (None when there is none) and returns the next one (None removes it) and the answer.
        It must be pure, for it may be called again; the answer is that of the call that won. The same record returned
        writes nothing; an exception raised leaves the record as it was. A record returned that is not the same one
        must have a new tag. Raises StoreFull when there is no room, RecordUnreadable.
        """

    @abstractmethod
    def scan(self) -> Iterator[tuple[str, Record]]:
        """Every record that is there from beginning to end of the iteration, in no order; others may come or not."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the store can answer; raise StoreError when it cannot."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the store holds. It is not used after that."""
