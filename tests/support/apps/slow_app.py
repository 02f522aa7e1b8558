"""cartsvc on a store that takes half a second for every look, as one does whose server is far away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cartsvc import create_app
from tests.support.memory_store import MemoryStore

if TYPE_CHECKING:
    from cartsvc.carts.record import Record


class SlowStore(MemoryStore):
    """Memory, but slow."""

    def get(self, user_id: str) -> Record | None:
        """Wait, then look."""
        time.sleep(0.5)
        return super().get(user_id)


app = create_app(store=SlowStore(clock=lambda: time.time_ns() // 1_000_000, limit=2**20))
