"""The directory behind memory://: LMDB's files in memory, which the workers of one server share."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import lmdb

from cartsvc.errors import StoreUnusable
from cartsvc.shared_directory import SharedDirectory, locked_directories, memory_file_system

_MIB = 2**20
_MIN_SIZE = _MIB  # of the file with the carts
_SPARE = _MIB  # left to the other files in this memory, such as gunicorn's heartbeats
_PAGE = 4096  # bytes; LMDB's maps are multiples of it


class MemoryDirectory(SharedDirectory):
    """The directory of the carts of one server, or of one process without a server."""

    def __init__(self, path: str) -> None:
        """Lock a directory that :meth:`create` made. Raises StoreUnusable if no server uses it any more."""
        try:
            super().__init__(path)
        except OSError as error:
            raise StoreUnusable(f"{path} contains no carts: its server has stopped.") from error

    @classmethod
    def create(
        cls, limit: int, *, max_readers: int, private: bool = False, memory: Path | None = None
    ) -> MemoryDirectory:
        """Create a directory whose file may grow to ``limit`` bytes, or to the room in ``memory`` if that is less.

        :func:`find_server` finds a directory unless it is ``private`` to this process. ``memory`` is a memory file
        system: by default /dev/shm, or the temporary directory where there is none. Raises StoreUnusable if there is no
        room.
        """
        memory = memory or _memory()

        def fill(path: str) -> None:
            _create_files(path, _size_within(memory, limit), max_readers)

        try:
            return cls.make("private" if private else "memory", memory, fill)
        except (OSError, lmdb.Error) as error:
            raise StoreUnusable(f"{memory} cannot be used for carts: {error}.") from error

    @property
    def size(self) -> int:
        """How large the file with the carts may become, in bytes. Not for a process that has opened it."""
        with closing(lmdb.open(self.path, map_size=0, max_dbs=2)) as carts:
            return int(carts.info()["map_size"])


def free_bytes(memory: Path) -> int:
    """Return how many bytes a file system has left."""
    disk = os.statvfs(memory)
    return disk.f_bavail * disk.f_frsize


def find_server(memory: Path | None = None) -> str:
    """Return the directory of the server that this user runs on this machine. Raises StoreUnusable unless it is one."""
    found = locked_directories("memory", memory or _memory())
    if len(found) == 1:
        return found[0]
    if not found:
        raise StoreUnusable("no server with CARTSVC_STORE_URL=memory:// runs here as this user.")
    urls = " ".join(f"memory://{path}" for path in found)
    raise StoreUnusable(f"{len(found)} servers run here; set CARTSVC_STORE_URL to the URL in the server's log: {urls}")


def _memory() -> Path:
    try:
        return memory_file_system()
    except OSError as error:
        raise StoreUnusable("there is no writable directory for memory://: mount a tmpfs at /dev/shm.") from error


def _size_within(memory: Path, limit: int) -> int:
    free = free_bytes(memory)
    size = min(limit, free - _SPARE)
    if size < _MIN_SIZE:
        raise StoreUnusable(f"{memory} has {free} bytes left, and memory:// needs at least {_MIN_SIZE + _SPARE}.")
    return size // _PAGE * _PAGE


def _create_files(path: str, size: int, max_readers: int) -> None:
    """Create LMDB's files, with a size and a number of readers that apply to all processes.

    The lock file is written through a map, so a process would be killed (SIGBUS) if its pages did not exist once the
    memory is full. The carts are written with write(2), which returns an error.
    """
    lmdb.open(path, map_size=size, max_readers=max_readers, max_dbs=2, mode=0o600, sync=False).close()
    with (Path(path) / "lock.mdb").open("r+b") as lock:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(lock.fileno(), 0, os.fstat(lock.fileno()).st_size)
