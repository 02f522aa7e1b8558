"""The lock on an LMDB directory, which keeps out servers of other containers and machines.

LMDB tracks readers by PID. A process that cannot see a reader's PID assumes that the reader is dead, and reuses its
pages. Therefore all processes that open the directory must be in one PID namespace of one running machine. The workers
of a server and the commands next to it are; a second container is not.
"""

from __future__ import annotations

import fcntl
import os
import socket
import weakref
from pathlib import Path

from cartsvc.errors import StoreUnusable

_FILE_NAME = "guard"
_FILE_SIZE = 512  # bytes, always the same, so that a server can start on a full disk


class DirectoryLock:
    """Lock a directory for this process, and for the processes that can see its PID, until the lock is closed.

    Each process has a shared lock on one file, which contains the identity of its PID namespace. The lock ends with
    this object. The operating system releases it when the process ends in any way, so a file left by an earlier server
    has no effect.
    """

    def __init__(self, directory: str) -> None:
        """Create the directory (mode 0700) if it is absent. Raises StoreUnusable if another container has locked it."""
        ours = _identity()
        try:
            Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(Path(directory) / _FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._finalizer = weakref.finalize(self, os.close, self._file)
            self._finalizer.atexit = False  # the process may use the directory to its end
            try:
                host, theirs = self._acquire(ours)
            except OSError:
                self.close()
                raise
        except OSError as error:
            raise StoreUnusable(f"{directory} cannot be used for carts: {error.strerror}.") from error
        if theirs != ours:
            self.close()
            raise StoreUnusable(
                f"{directory} is in use by a server in another container or on another machine ({host}). LMDB's carts "
                "are for the processes of one container or machine: stop that server, or keep the carts in Valkey."
            )

    def close(self) -> None:
        """Release the lock."""
        self._finalizer()

    def _acquire(self, ours: str) -> tuple[str, str]:
        """Take the lock, and return the host name and the identity of the processes that have it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # other processes have it already
        else:
            os.pwrite(self._file, f"{socket.gethostname()} {ours}".encode().ljust(_FILE_SIZE), 0)
        # Changing from the exclusive to the shared lock is not atomic. In between, another process may take the
        # exclusive lock and write its identity, so the file is read after the change.
        fcntl.flock(self._file, fcntl.LOCK_SH)
        host, _, identity = os.pread(self._file, _FILE_SIZE, 0).decode(errors="replace").partition(" ")
        return host, identity.rstrip()


def _identity() -> str:
    """Return the running system and the PID namespace, which processes that can see each other's PIDs share."""
    try:
        system = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{system} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux, where only the host name is available
        return socket.gethostname()
