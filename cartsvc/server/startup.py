"""Format the log of a start: one line on the configuration, and warnings of too little memory or too few files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cartsvc.stores.urls import POOL_SIZE, LmdbConfig, describe
from cartsvc.version import __version__

if TYPE_CHECKING:
    from cartsvc.stores.urls import StoreConfig

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60  # bytes; version 1 of control groups states a number near 2**63 when there is no limit
_KIB = 2**10
_PROCESS = 32 * _KIB**2  # bytes that the first process and each worker take at rest: 55 MiB for two, 71 for three
_OPEN_FILES = 32  # of a worker at rest it is 10 to 14: listeners, pipes, the heartbeat, LMDB's files; the rest is spare


def container_memory(cgroups: Path = _CGROUPS) -> int | None:
    """Return the memory limit of this control group in bytes, version 2 or 1; None when there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((cgroups / name).read_text())
        except (OSError, ValueError):  # absent, or "max"
            continue
        return limit if 0 < limit < _UNLIMITED else None
    return None


def files_needed(connections: int, pools: int) -> int:
    """Return how many files a worker opens for its clients, each of which may use a connection of every pool."""
    return _OPEN_FILES + connections + min(connections, POOL_SIZE) * pools


def connections_within(files: int, *, wanted: int, pools: int) -> int:
    """Return how many clients' connections these files allow: at most as many as wanted, and at least one.

    Accepting more would fail in the middle of a request, where the store's connection cannot be opened.
    """
    room = files - _OPEN_FILES
    beside_full_pools = room - POOL_SIZE * pools
    found = beside_full_pools if beside_full_pools >= POOL_SIZE else room // (1 + pools)
    return max(1, min(wanted, found))


def room_warning(memory: int | None, *, memory_limit: int) -> str | None:
    """Return what to log when memory:// had to become smaller than its limit. Sizes are in bytes."""
    if memory is None or memory + _KIB**2 > memory_limit:
        return None
    return (
        f"memory:// is limited to {_size(memory)}, not to CARTSVC_MEMORY_LIMIT of {_size(memory_limit)}, because its "
        "file system has no more room. Enlarge /dev/shm (shm_size of a container), or lower CARTSVC_MEMORY_LIMIT."
    )


def memory_warning(container: int | None, *, memory: int | None, workers: int) -> str | None:
    """Return what to log when the container's memory is smaller than what carts and processes may take.

    ``memory`` is the size of memory:// in bytes, or None for other stores.
    """
    own = (workers + 1) * _PROCESS
    needed = own + (memory or 0)
    if container is None or container >= needed:
        return None
    text = f"the container has {_size(container)} of memory, and the service may take {_size(needed)}: "
    processes = f"{_size(_PROCESS)} for each of {workers + 1} processes"
    if memory is not None:
        return (
            f"{text}{_size(memory)} for carts, and {processes}. The kernel would kill processes, and the carts are "
            "lost when the server ends. Give the container more memory, or lower CARTSVC_MEMORY_LIMIT."
        )
    return (
        f"{text}{processes}. The kernel would kill workers. Give the container more memory, or lower WEB_CONCURRENCY."
    )


def files_warning(connections: int, *, wanted: int, files: int) -> str | None:
    """Return what to log when few open files leave each worker less room for connections than wanted."""
    if connections >= wanted:
        return None
    return (
        f"each worker has room for {connections} connections only, and not for {wanted}: ulimit -n is {files}. "
        "Further clients wait until a connection ends. Raise the limit of open files."
    )


def start_line(
    store: StoreConfig,
    *,
    memory: int | None,
    container: int | None,
    workers: int,
    worker_class: str,
    threads: int,
    parser: str,
    connections: int,
    auth: str,
) -> str:
    """Return the line that describes the configuration of a server. It contains no password.

    For example: ``cartsvc 0.1.0: store memory:///dev/shm/cartsvc-memory-7dk2 (512 MiB, container 1 GiB), 2 gevent
    workers (C parser), 2000 connections each, auth none``.
    """
    limits = []
    if memory is not None:
        limits = [_size(memory)]
    elif isinstance(store, LmdbConfig):
        limits = [f"sync {store.sync}", f"map {_size(store.map_size)}"]
    if container is not None:
        limits.append(f"container {_size(container)}")
    shown = f" ({', '.join(limits)})" if limits else ""
    kind = f"{worker_class} worker{'' if workers == 1 else 's'}"
    parts = [
        f"store {describe(store)}{shown}",
        f"{workers} {kind}{f' of {threads} threads' if threads > 1 else ''} ({parser} parser)",
        f"{connections} connections{'' if workers == 1 else ' each'}",
        f"auth {auth}",
    ]
    return f"cartsvc {__version__}: {', '.join(parts)}"


def _size(count: int) -> str:
    """Return a number of bytes in the largest unit of which there is at least one, with at most one decimal."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < _KIB:
            break
        value, unit = value / _KIB, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
