"""The guard on an LMDB directory: servers that cannot see each other's processes must not share it.

LMDB's table of readers goes by process id, and whoever finds an id that he cannot see takes its reader for dead and
gives its pages away. So all that open the directory must be of one PID namespace on one running machine: workers of one
server and commands beside it, yes; a second container, no.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from cartsvc.errors import StoreUnusable

_FILE_NAME = "guard"
_FILE_SIZE = 512  # bytes: always the same ones, so that a server can start on a full disk


class DirectoryLock:
    """Holds a directory for this process, and for others that see its processes, until it is closed.

    Each of them has a shared lock on one file, which says who they are. A lock goes with its process, however that
    ends; so what an earlier server wrote does no harm.
    """

    def __init__(self, directory: str) -> None:
        """Make the directory if it is not there (0700). Raises StoreUnusable when somebody else holds it."""
        ours = _identity()
        try:
            Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(Path(directory) / _FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
                "are for the processes of one container or machine: stop the other one, or keep the carts in Valkey."
            )

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._file)

    def _acquire(self, ours: str) -> tuple[str, str]:
        """Take the lock; returns the host's name and the identity of those who have it, us among them or not."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # somebody is there already
        else:
            os.pwrite(self._file, f"{socket.gethostname()} {ours}".encode().ljust(_FILE_SIZE), 0)
        # While we change locks another one may be alone for a moment, and write itself down: so it is read after that.
        fcntl.flock(self._file, fcntl.LOCK_SH)
        host, _, identity = os.pread(self._file, _FILE_SIZE, 0).decode(errors="replace").partition(" ")
        return host, identity.rstrip()


def _identity() -> str:
    """Running system and PID namespace: the same for all that can see each other's processes."""
    try:
        system = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{system} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: there the host's name must do
        return socket.gethostname()
