"""cartsvc on a store that reads, thinks and writes, and does not mind who writes in between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cartsvc import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.record import Record
    from cartsvc.stores.base import T

app = create_app()
_store = app.extensions["cartsvc"]._store  # noqa: SLF001 - the one that service and merger share
_write = _store.update


def update(user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
    """Get, and put whatever was there meanwhile."""
    new, answer = change(_store.get(user_id))
    time.sleep(0.001)
    written: T = _write(user_id, lambda _: (new, answer))
    return written


_store.update = update
