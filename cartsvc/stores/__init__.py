"""Opens the store that a URL names; its module, and so its driver, is imported only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.stores.base import CartStore


def open_store(url: str, *, clock: Callable[[], int], memory_limit: int) -> CartStore:
    """Open the store at ``url``. ``clock`` tells milliseconds since the epoch; ``memory_limit`` is in bytes.

    Settings have checked the URL: an unknown scheme is a ValueError here.
    """
    match url.partition("://")[0]:
        case "memory":
            from cartsvc.stores.memory import MemoryStore  # noqa: PLC0415 - only the chosen store is imported

            return MemoryStore(clock=clock, limit=memory_limit)
        case scheme:
            message = f"no store is called {scheme}"
            raise ValueError(message)
