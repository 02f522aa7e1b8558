"""A store that fails where a test says so: the process dies at a write, or somebody else gets in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cartsvc.stores.base import CartStore, Reach, T

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.errors import RecordUnreadable
    from cartsvc.record import Record


class Crash(Exception):
    """The process has died here; what was committed stays."""


class FaultyStore(CartStore):
    """Hands everything to ``inner`` and counts the updates, from 1.

    ``before[n]`` is called before the nth update and ``after[n]`` once it has committed; they may raise Crash, or use
    the store themselves, as other processes would in between (such updates are not counted).
    """

    reach: ClassVar[Reach] = Reach.PROCESS

    def __init__(self, inner: CartStore) -> None:
        self.inner = inner
        self.before: dict[int, Callable[[], None]] = {}
        self.after: dict[int, Callable[[], None]] = {}
        self.updates = 0
        self._counting = True

    def plan(
        self,
        *,
        before: dict[int, Callable[[], None]] | None = None,
        after: dict[int, Callable[[], None]] | None = None,
    ) -> None:
        """Start counting anew, with these faults."""
        self.updates = 0
        self.before, self.after = before or {}, after or {}

    def get(self, user_id: str) -> Record | None:
        """Look it up."""
        return self.inner.get(user_id)

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Change it, unless something happens."""
        if not self._counting:
            return self.inner.update(user_id, change)
        self.updates += 1
        number = self.updates
        self._happen(self.before, number)
        answer = self.inner.update(user_id, change)
        self._happen(self.after, number)
        return answer

    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Go through all."""
        return self.inner.scan()

    def erase(self, user_id: str) -> Record | RecordUnreadable | None:
        """Erase it."""
        return self.inner.erase(user_id)

    def purge(self) -> int:
        """Purge."""
        return self.inner.purge()

    def ping(self) -> None:
        """Answer."""
        self.inner.ping()

    def close(self) -> None:
        """Close."""
        self.inner.close()

    def _happen(self, events: dict[int, Callable[[], None]], number: int) -> None:
        event = events.get(number)
        if event is None:
            return
        self._counting = False
        try:
            event()
        finally:
            self._counting = True


def crash() -> None:
    """Die."""
    raise Crash
