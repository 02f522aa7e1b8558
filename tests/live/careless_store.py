"""cartsvc on a store that reads, computes and writes without comparing: concurrent changes are lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from faults import WrappedStore

from cartsvc import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.record import Record
    from cartsvc.stores.base import T


class RacyStore(WrappedStore):
    """Reads and writes in two steps."""

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Overwrite whatever was written in between."""
        new, answer = change(self.inner.get(user_id))
        time.sleep(0.001)
        return self.inner.update(user_id, lambda _: (new, answer))


app = create_app(wrap_store=RacyStore)
