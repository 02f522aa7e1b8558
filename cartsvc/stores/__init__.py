"""Opens the store that a URL names; its module, and so its driver, is imported only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cartsvc.stores.urls import KEY_PREFIX, LmdbPlace, MemoryPlace, ValkeyPlace

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cartsvc.stores.base import CartStore
    from cartsvc.stores.urls import Place

# ruff: noqa: PLC0415 - only the chosen store is imported

_CLUSTER_NODES = 8  # primaries for which files are kept free: how many there are is known only later


def open_store(
    place: Place,
    *,
    clock: Callable[[], int],
    memory_limit: int,
    readers: int,
    timeout: float,
    key_prefix: str = KEY_PREFIX,
) -> CartStore:
    """Open the store at this place.

    ``clock`` tells milliseconds since the epoch; ``memory_limit`` is in bytes; ``readers`` is how many threads of all
    processes there are at most; ``timeout`` is how many seconds the store may take for one request; ``key_prefix``
    begins the name of each key in Valkey. Raises StoreUnusable.
    """
    match place:
        case MemoryPlace():
            from cartsvc.stores.memory import MemoryStore

            return MemoryStore(clock=clock, limit=memory_limit)
        case LmdbPlace():
            from cartsvc.stores.lmdb import LmdbStore

            return LmdbStore(place, clock=clock, readers=readers)
        case ValkeyPlace():
            from cartsvc.stores.valkey import ValkeyStore

            return ValkeyStore(place, clock=clock, timeout=timeout, key_prefix=key_prefix)


def open_scripts(
    place: Place, *, clock: Callable[[], int], timeout: float
) -> Callable[[bytes, list[str], list[Any]], Any] | None:
    """What runs a script (its text, keys and arguments) on the server that keeps this place; None without a server.

    It takes at most ``timeout`` seconds, over connections of its own. Raises StoreError.
    """
    if isinstance(place, ValkeyPlace):
        from cartsvc.stores.valkey import ValkeyStore

        return ValkeyStore(place, clock=clock, timeout=timeout).run
    return None


def count_pools(place: Place) -> int:
    """Return how many pools of at most POOL_SIZE connections a process has for this store: one for each server."""
    if not isinstance(place, ValkeyPlace):
        return 0
    return max(len(place.hosts), _CLUSTER_NODES) if place.cluster else 1


def hold(place: Place) -> object:
    """Keep others away that must not start beside this server, for as long as what is returned lives.

    To be called before its processes are forked. Raises StoreUnusable when somebody else is there.
    """
    if isinstance(place, LmdbPlace):
        from cartsvc.stores.guard import Guard

        return Guard(place.path)
    return None
