"""The store of memory://, as an app without gunicorn has it: in a directory of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cartsvc.stores.lmdb import LmdbStore
from cartsvc.stores.memory import MemoryDirectory
from cartsvc.stores.urls import LmdbConfig

if TYPE_CHECKING:
    from collections.abc import Callable

_READERS = 126


class MemoryStore(LmdbStore):
    """Carts in memory, with a size in bytes."""

    def __init__(self, *, clock: Callable[[], int], limit: int) -> None:
        directory = MemoryDirectory.create(limit, max_readers=_READERS, private=True)
        config = LmdbConfig(directory.path, sync="off", map_size=0)
        super().__init__(config, clock=clock, max_readers=_READERS, shared=directory)
        self._all_pages = self._max_pages

    def leave_no_room(self) -> None:
        """Reject each write that a full store rejects."""
        self._max_pages = 0

    def make_room(self) -> None:
        """Accept all writes again."""
        self._max_pages = self._all_pages
