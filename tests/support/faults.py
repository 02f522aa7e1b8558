"""A store that fails where a test plans it: a crash, an error, another request in between, a late write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cartsvc.carts.store import CartStore, T, WrappedStore
from cartsvc.errors import OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.record import Record


class Crash(Exception):
    """The process has died here; what was committed stays."""


class FaultyStore(WrappedStore):
    """Counts the updates, from 1.

    ``before[n]`` is called before the nth update and ``after[n]`` once it has committed; they may raise Crash, or use
    the store themselves, as other processes would in between (such updates are not counted).

    The write of update ``late`` is on its way until :meth:`deliver`, and its response is lost: OutcomeUnknown.
    """

    def __init__(self, inner: CartStore) -> None:
        super().__init__(inner)
        self.before: dict[int, Callable[[], None]] = {}
        self.after: dict[int, Callable[[], None]] = {}
        self.late: int | None = None
        self.updates = 0
        self._counting = True
        self._under_way: tuple[str, Record | None, Record | None] | None = None

    def plan(
        self,
        *,
        before: dict[int, Callable[[], None]] | None = None,
        after: dict[int, Callable[[], None]] | None = None,
        late: int | None = None,
    ) -> None:
        """Count from 1 again, with these faults."""
        self.updates = 0
        self.late = late
        self.before, self.after = before or {}, after or {}

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Change it, unless something happens."""
        if not self._counting:
            return self.inner.update(user_id, change)
        self.updates += 1
        number = self.updates
        self._happen(self.before, number)
        if number == self.late:
            old = self.inner.get(user_id)
            self._under_way = (user_id, old, change(old)[0])
            raise OutcomeUnknown
        result = self.inner.update(user_id, change)
        self._happen(self.after, number)
        return result

    def deliver(self) -> bool:
        """Let the late write arrive, as compare-and-set on the tag; return whether it was applied."""
        assert self._under_way is not None
        user_id, old, new = self._under_way

        def change(record: Record | None) -> tuple[Record | None, bool]:
            matches = (record and record.tag) == (old and old.tag)
            return (new if matches else record), matches

        return self.inner.update(user_id, change)

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
    """Simulate a crash."""
    raise Crash
