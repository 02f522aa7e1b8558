"""The directory behind memory://: LMDB's files in memory, which the workers of one server share."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import closing, suppress
from pathlib import Path

import lmdb

from cartsvc.errors import StoreUnusable
from cartsvc.stores.lmdb_lock import LOCK_FILE, DirectoryLock

_MEMORY = Path("/dev/shm")  # noqa: S108 - each directory in it is made by mkdtemp
_SERVER, _PRIVATE = "cartsvc-memory-", "cartsvc-private-"  # how the names of directories begin
_MIB = 2**20
_MIN_SIZE = _MIB  # of the file with the carts
_SPARE = _MIB  # left to the other files in this memory, such as gunicorn's heartbeats
_PAGE = 4096  # bytes; LMDB's maps are multiples of it
_SETTLED_S = 60  # a directory without a lock file and younger than this is being created


class MemoryDirectory(DirectoryLock):
    """A directory in memory, locked by this process until it is closed. The last process that closes it removes it.

    The lock of a process that was killed ends with it, so :meth:`create` can remove what such a server left behind.
    """

    def __init__(self, path: str) -> None:
        """Lock a directory that :meth:`create` made. Raises StoreUnusable if no server uses it any more."""
        super().__init__(path)
        self.path = path
        # Also when the process ends; a forked process must not remove the directory of its parent.
        self._finalizer = weakref.finalize(self, _close, path, self._file, os.getpid())
        if not (Path(path) / "data.mdb").exists():
            self.close()
            raise StoreUnusable(f"{path} contains no carts: its server has stopped.")

    @classmethod
    def create(
        cls, limit: int, *, max_readers: int, private: bool = False, memory: Path | None = None
    ) -> MemoryDirectory:
        """Create a directory whose file may grow to ``limit`` bytes, or to the room in ``memory`` if that is less.

        :func:`find_server` finds a directory unless it is ``private`` to this process. ``memory`` is a memory file
        system: by default /dev/shm, or the temporary directory where there is none. What killed servers left there is
        removed first. Raises StoreUnusable if there is no room.
        """
        memory = memory or _memory()
        _remove_leftovers(memory)
        size = min(limit, free_bytes(memory) - _SPARE)
        if size < _MIN_SIZE:
            raise StoreUnusable(
                f"{memory} has {free_bytes(memory)} bytes left, and memory:// needs at least {_MIN_SIZE + _SPARE}."
            )
        while True:
            try:
                path = tempfile.mkdtemp(prefix=_PRIVATE if private else _SERVER, dir=memory)
                _create_files(path, size // _PAGE * _PAGE, max_readers)
            except (OSError, lmdb.Error) as error:
                raise StoreUnusable(f"{memory} cannot be used for carts: {error}.") from error
            try:
                return cls(path)
            except StoreUnusable:
                # Another server that is starting may have removed the directory just before it was locked.
                if Path(path).exists():
                    raise

    @property
    def size(self) -> int:
        """How large the file with the carts may become, in bytes. Not for a process that has opened it."""
        with closing(lmdb.open(self.path, map_size=0, max_dbs=2)) as carts:
            return int(carts.info()["map_size"])

    def close(self) -> None:
        """Release the lock, and remove the directory if no other process has locked it."""
        self._finalizer()

    def leave(self) -> None:
        """Release the lock, and leave the directory to a server that is about to lock it."""
        if self._finalizer.detach() is not None:
            super().close()


def free_bytes(memory: Path) -> int:
    """Return how many bytes a file system has left."""
    disk = os.statvfs(memory)
    return disk.f_bavail * disk.f_frsize


def find_server(memory: Path | None = None) -> str:
    """Return the directory of the server that this user runs on this machine. Raises StoreUnusable unless it is one."""
    found = sorted(str(each) for each in _directories(memory or _memory(), _SERVER) if _is_locked(each))
    if len(found) == 1:
        return found[0]
    if not found:
        raise StoreUnusable("no server with CARTSVC_STORE_URL=memory:// runs here as this user.")
    urls = " ".join(f"memory://{path}" for path in found)
    raise StoreUnusable(f"{len(found)} servers run here; set CARTSVC_STORE_URL to the URL in the server's log: {urls}")


def _memory() -> Path:
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
        return _MEMORY
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise StoreUnusable("there is no writable directory for memory://: mount a tmpfs at /dev/shm.") from error


def _create_files(path: str, size: int, max_readers: int) -> None:
    """Create LMDB's files, with a size and a number of readers that apply to all processes.

    The lock file is written through a map, so a process would be killed (SIGBUS) if its pages did not exist once the
    memory is full. The carts are written with write(2), which returns an error.
    """
    lmdb.open(path, map_size=size, max_readers=max_readers, max_dbs=2, mode=0o600, sync=False).close()
    with (Path(path) / "lock.mdb").open("r+b") as lock:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(lock.fileno(), 0, os.fstat(lock.fileno()).st_size)


def _directories(memory: Path, prefix: str) -> list[Path]:
    """Return our directories. Those of other users are theirs, and a link could lead anywhere."""
    found = []
    for directory in memory.glob(f"{prefix}*"):
        with suppress(OSError):
            if directory.lstat().st_uid == os.geteuid() and directory.is_dir() and not directory.is_symlink():
                found.append(directory)
    return found


def _remove_leftovers(memory: Path) -> None:
    for directory in [*_directories(memory, _SERVER), *_directories(memory, _PRIVATE)]:
        try:
            lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            with suppress(OSError):
                if time.time() - directory.stat().st_mtime > _SETTLED_S:
                    shutil.rmtree(directory, ignore_errors=True)
        else:
            _close(str(directory), lock, os.getpid())


def _is_locked(directory: Path) -> bool:
    try:
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _close(path: str, lock: int, pid: int) -> None:
    """Release a lock, and remove the directory if nothing else has locked it. Do nothing in a forked process."""
    if os.getpid() != pid:
        return
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
