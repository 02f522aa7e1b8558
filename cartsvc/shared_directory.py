"""Directories in memory that the processes of one server share, and that the last of these processes removes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

LOCK_FILE = "lock"
_MEMORY = Path("/dev/shm")  # noqa: S108 - each directory in it is made by mkdtemp
_SETTLED_S = 60  # a directory without a lock file and younger than this is being created

Kind = Literal["memory", "private", "metrics"]  # the name of a directory begins with "cartsvc-" and its kind
_KINDS: tuple[Kind, ...] = get_args(Kind)


class SharedDirectory:
    """A directory, locked by this process until it is closed. The last process that closes it removes it.

    It is also closed when the process ends. The lock of a killed process ends with it, so :meth:`make` can remove what
    a killed server left behind.
    """

    def __init__(self, path: str) -> None:
        """Lock a directory that :meth:`make` has made. Raises FileNotFoundError if it was removed."""
        self.path = path
        file = Path(path) / LOCK_FILE
        self._lock = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        # A forked process must not remove the directory of its parent.
        self._finalizer = weakref.finalize(self, _release, path, self._lock, os.getpid())
        if not file.exists():  # the process that had the lock has removed the directory
            self.close()
            raise FileNotFoundError(path)

    @classmethod
    def make(cls, kind: Kind, memory: Path, fill: Callable[[str], None] | None = None) -> Self:
        """Make a directory in this file system, where those of killed servers are removed first.

        ``fill`` gets its path, and creates its files before another process can lock it. Raises OSError, and what
        ``fill`` raises; then nothing is left.
        """
        for left in [each for other in _KINDS for each in _own_directories(other, memory)]:
            _remove_leftover(left)
        path = tempfile.mkdtemp(prefix=_prefix(kind), dir=memory)
        try:
            # The lock file gets its name when it is locked: until then, no other start can take the directory for one
            # that a killed server has left.
            lock, name = tempfile.mkstemp(dir=path)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if fill is not None:
                    fill(path)
                Path(name).rename(Path(path) / LOCK_FILE)
                return cls(path)
            finally:
                os.close(lock)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def close(self) -> None:
        """Release the lock, and remove the directory if no other process has locked it."""
        self._finalizer()

    def leave(self) -> None:
        """Release the lock, and leave the directory to other processes."""
        if self._finalizer.detach() is not None:
            os.close(self._lock)


def memory_file_system() -> Path:
    """Return /dev/shm, or the temporary directory where there is none. Raises OSError if there is neither."""
    return _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def locked_directories(kind: Kind, memory: Path) -> list[str]:
    """Return the directories of this kind that processes of this user have locked, sorted."""
    return sorted(str(each) for each in _own_directories(kind, memory) if _is_locked(each))


def _prefix(kind: Kind) -> str:
    return f"cartsvc-{kind}-"


def _own_directories(kind: Kind, memory: Path) -> list[Path]:
    """Return our directories. Those of other users are theirs, and a link could lead anywhere."""
    found = []
    for directory in memory.glob(f"{_prefix(kind)}*"):
        with suppress(OSError):
            if directory.lstat().st_uid == os.geteuid() and directory.is_dir() and not directory.is_symlink():
                found.append(directory)
    return found


def _remove_leftover(directory: Path) -> None:
    try:
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        with suppress(OSError):
            if time.time() - directory.stat().st_mtime > _SETTLED_S:
                shutil.rmtree(directory, ignore_errors=True)
    else:
        _release(str(directory), lock, os.getpid())


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


def _release(path: str, lock: int, pid: int) -> None:
    """Release a lock, and remove the directory if nothing else has locked it. Do nothing in a forked process."""
    if os.getpid() != pid:
        return
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
