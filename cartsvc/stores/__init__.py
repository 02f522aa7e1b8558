"""Opens the store that a URL names; its module, and so its driver, is imported only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cartsvc.stores.urls import KEY_PREFIX, LmdbConfig, MemoryConfig, ValkeyConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cartsvc.carts.store import CartStore
    from cartsvc.stores.urls import StoreConfig

# ruff: noqa: PLC0415 - only the chosen store is imported

_CLUSTER_NODES = 8  # primaries for which files are kept free: how many there are is known only later


def open_store(
    config: StoreConfig,
    *,
    clock: Callable[[], int],
    memory_limit: int,
    max_readers: int,
    timeout: float,
    key_prefix: str = KEY_PREFIX,
) -> CartStore:
    """Open the store at this place.

    ``clock`` tells milliseconds since the epoch; ``memory_limit`` is in bytes; ``max_readers`` is how many threads of
    all processes there are at most; ``timeout`` is how many seconds the store may take for one request; ``key_prefix``
    begins the name of each key in Valkey. Raises StoreUnusable.
    """
    match config:
        case MemoryConfig():
            from cartsvc.stores.memory import MemoryStore

            return MemoryStore(clock=clock, limit=memory_limit)
        case LmdbConfig():
            from cartsvc.stores.lmdb import LmdbStore

            return LmdbStore(config, clock=clock, max_readers=max_readers)
        case ValkeyConfig():
            from cartsvc.stores.valkey import ValkeyStore

            return ValkeyStore(config, clock=clock, timeout=timeout, key_prefix=key_prefix)


def open_script_runner(
    config: StoreConfig, *, clock: Callable[[], int], timeout: float
) -> Callable[[bytes, list[str], list[Any]], Any] | None:
    """What runs a script (its text, keys and arguments) on the server that keeps this place; None without a server.

    It takes at most ``timeout`` seconds, over connections of its own. Raises StoreError.
    """
    if isinstance(config, ValkeyConfig):
        from cartsvc.stores.valkey import ValkeyStore

        return ValkeyStore(config, clock=clock, timeout=timeout).run_script
    return None


def count_pools(config: StoreConfig) -> int:
    """Return how many pools of at most POOL_SIZE connections a process has for this store: one for each server."""
    if not isinstance(config, ValkeyConfig):
        return 0
    return max(len(config.hosts), _CLUSTER_NODES) if config.cluster else 1


def lock_store(config: StoreConfig) -> object:
    """Keep others away that must not start beside this server, for as long as what is returned lives.

    To be called before its processes are forked. Raises StoreUnusable when somebody else is there.
    """
    if isinstance(config, LmdbConfig):
        from cartsvc.stores.lmdb_lock import DirectoryLock

        return DirectoryLock(config.path)
    return None
