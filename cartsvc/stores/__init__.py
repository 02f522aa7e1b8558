"""Open the store that a URL names. Its module, and so its driver, is imported only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cartsvc.stores.urls import KEY_PREFIX, LmdbConfig, MemoryConfig, PostgresqlConfig, ValkeyConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cartsvc.carts.store import CartStore
    from cartsvc.stores.urls import StoreConfig

# ruff: noqa: PLC0415 - only the chosen store is imported

_CLUSTER_NODES = 8  # primaries for which open files are reserved; their number is known only later


def open_store(
    config: StoreConfig,
    *,
    clock: Callable[[], int],
    memory_limit: int,
    max_readers: int,
    timeout: float,
    key_prefix: str = KEY_PREFIX,
) -> CartStore:
    """Open the store of this configuration.

    ``clock`` returns milliseconds since the epoch; ``memory_limit`` is in bytes; ``max_readers`` is the maximum number
    of threads in all processes together; ``timeout`` is the time of one request in seconds; ``key_prefix`` begins each
    key in Valkey. Raises StoreUnusable.
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
        case PostgresqlConfig():
            from cartsvc.stores.postgresql import PostgresqlStore

            return PostgresqlStore(config, clock=clock, timeout=timeout)


def open_script_runner(
    config: StoreConfig, *, clock: Callable[[], int], timeout: float
) -> Callable[[bytes, list[str], list[Any]], Any] | None:
    """Return a function that runs a script (text, keys, arguments) on the server of this store; None without a server.

    The function has its own connections, takes at most ``timeout`` seconds, and raises StoreError.
    """
    if isinstance(config, ValkeyConfig):
        from cartsvc.stores.valkey import ValkeyStore

        return ValkeyStore(config, clock=clock, timeout=timeout).run_script
    return None


def count_pools(config: StoreConfig) -> int:
    """Return how many pools of at most POOL_SIZE connections a process has for this store: one per server."""
    if isinstance(config, PostgresqlConfig):
        return 1
    if not isinstance(config, ValkeyConfig):
        return 0
    return max(len(config.hosts), _CLUSTER_NODES) if config.cluster else 1


def lock_store(config: StoreConfig) -> object:
    """Lock the store against servers that must not share it with this one, for the life of the object returned.

    Call it before the workers are forked. Raises StoreUnusable if another server has the lock.
    """
    if isinstance(config, LmdbConfig):
        from cartsvc.stores.lmdb_lock import DirectoryLock

        return DirectoryLock(config.path)
    return None
