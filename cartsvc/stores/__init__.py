"""Open the store that a URL names. Its module, and so its driver, is imported only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cartsvc.stores.urls import KEY_PREFIX, LmdbConfig, MemoryConfig, PostgresqlConfig, ValkeyConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cartsvc.carts.store import CartStore
    from cartsvc.stores.lmdb_lock import DirectoryLock
    from cartsvc.stores.memory import MemoryDirectory
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
    """Open the store of this configuration. ``memory://`` without a path is private to this process.

    ``clock`` returns milliseconds since the epoch; ``memory_limit`` is the size of ``memory://`` in bytes;
    ``max_readers`` is the maximum number of threads in all processes together; ``timeout`` is the time of one request
    in seconds; ``key_prefix`` begins each key in Valkey. Raises StoreUnusable.
    """
    match config:
        case MemoryConfig():
            from cartsvc.stores.lmdb import LmdbStore

            directory = _memory_directory(config, limit=memory_limit, max_readers=max_readers, private=True)
            engine = LmdbConfig(directory.path, sync="off", map_size=0)
            return LmdbStore(engine, clock=clock, max_readers=max_readers, shared=directory)
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


def lock_store(config: StoreConfig, *, memory_limit: int, max_readers: int) -> DirectoryLock | MemoryDirectory | None:
    """Lock the store against servers that must not share it with this one, until the lock is closed.

    Call it before the workers are forked. The lock of ``memory://`` is a MemoryDirectory, with which the carts end. The
    arguments are those of :func:`open_store`. Raises StoreUnusable if another server has the lock.
    """
    match config:
        case MemoryConfig():
            return _memory_directory(config, limit=memory_limit, max_readers=max_readers, private=False)
        case LmdbConfig():
            from cartsvc.stores.lmdb_lock import DirectoryLock

            return DirectoryLock(config.path)
        case ValkeyConfig() | PostgresqlConfig():
            return None


def running_store(config: StoreConfig) -> StoreConfig:
    """Return the configuration with which a command opens the store of the server that runs on the same machine.

    For ``memory://`` it names the directory of that server. Raises StoreUnusable unless there is exactly one.
    """
    if config != MemoryConfig():
        return config
    from cartsvc.stores.memory import find_server

    return MemoryConfig(find_server())


def _memory_directory(config: MemoryConfig, *, limit: int, max_readers: int, private: bool) -> MemoryDirectory:
    from cartsvc.stores.memory import MemoryDirectory

    if config.path is not None:
        return MemoryDirectory(config.path)
    return MemoryDirectory.create(limit, max_readers=max_readers, private=private)
