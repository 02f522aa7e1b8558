"""cartsvc on a store that reads, computes and writes without comparing: concurrent changes are lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cartsvc import create_app
from cartsvc.carts.store import WrappedStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import T


class RacyStore(WrappedStore):
    """Reads and writes in two steps."""

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Overwrite whatever was written in between."""
        new, result = change(self.inner.get(user_id))
        time.sleep(0.001)
        return self.inner.update(user_id, lambda _: (new, result))


app = create_app(wrap_store=RacyStore)
