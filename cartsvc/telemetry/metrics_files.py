"""The files of the metrics: a directory in memory, with one set of files for each worker slot.

A worker takes the lowest slot that no living worker has, and continues the counts in its files. So nothing that a
recycled or killed worker has counted is lost, and the number of files does not grow with the number of workers that
ever ran.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cartsvc.shared_directory import SharedDirectory, memory_file_system

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

# Bytes of each file. They are written through a map, so a worker would be killed (SIGBUS) if the memory is full and a
# page does not exist; therefore the pages are allocated before the worker starts. 256 KiB are about 60 combinations of
# method, route and status; a file with more is enlarged.
_SIZES = {"histogram": 2**18, "counter": 2**16, "gauge_livesum": 2**12}
_STARTS = "starts-"  # the files in which first processes count the workers that they start, by reason


class WorkerSlot(NamedTuple):
    """The files of this process: those in ``directory`` whose names end in ``name``."""

    directory: str
    name: str


_slot: WorkerSlot | None = None


def own_slot() -> WorkerSlot | None:
    """Return the slot of this worker; None in any other process."""
    return _slot


def worker_starts(directory: str) -> Counter[str]:
    """Return how many workers were started, by reason: ``boot``, or because another was ``recycled`` or ``killed``."""
    total = Counter(boot=0, recycled=0, killed=0)
    for file in Path(directory).glob(f"{_STARTS}*"):
        total.update(json.loads(file.read_text()))
    return total


class MetricsFiles:
    """The directory, made by gunicorn's first process, and what that process knows of its workers' slots.

    The server that a USR2 signal starts shares the directory of the first one.
    """

    def __init__(self, directory: SharedDirectory) -> None:
        self.directory = directory
        self.path = directory.path
        self._pid = os.getpid()
        self._replacements: list[str] = []  # why workers ended that are still to be replaced
        self._starts: Counter[str] = Counter()

    @classmethod
    def open(cls, inherited: str | None, *, workers: int, memory: Path | None = None) -> MetricsFiles:
        """Open the ``inherited`` directory, or make one, with room for the files of ``workers``. Raises OSError."""
        directory: SharedDirectory | None = None
        if inherited is not None:
            with suppress(OSError):
                directory = SharedDirectory(inherited)
        found = cls(directory or SharedDirectory.make("metrics", memory or memory_file_system()))
        for number in range(workers):
            found.allocate(number)
        return found

    def allocate(self, number: int) -> str:
        """Make the files of this slot unless they exist, and return its name. Raises OSError if there is no room."""
        name = f"{self._pid}-{number}"  # two servers that share the directory have different process ids
        for kind, size in _SIZES.items():
            file = os.open(Path(self.path) / f"{kind}_{name}.db", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file, 0, size)
            finally:
                os.close(file)
        return name

    def before_fork(self, server: Arbiter, worker: Worker) -> None:
        """Give the worker the lowest slot that no living worker has. It counts nothing if there is no room."""
        taken = {getattr(each, "metrics_slot", None) for each in server.WORKERS.values()}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        worker.metrics_slot, worker.has_metrics = number, True
        self._starts[self._replacements.pop(0) if self._replacements else "boot"] += 1
        self._sign(worker).unlink(missing_ok=True)
        try:
            self.allocate(number)
            self._write_starts()
        except OSError as error:
            server.log.warning("%s has no room for the metrics of another worker: %s", self.path, error)
            worker.has_metrics = False

    def after_fork(self, worker: Worker) -> None:
        """Remember the slot in the worker's process."""
        global _slot  # noqa: PLW0603 - gunicorn loads the application without arguments
        if worker.has_metrics:
            _slot = WorkerSlot(self.path, f"{self._pid}-{worker.metrics_slot}")

    def worker_exit(self, worker: Worker) -> None:
        """Leave a sign, in the worker's process, that it ends in order."""
        with suppress(OSError):
            self._sign(worker).touch()

    def worker_ended(self, server: Arbiter, worker: Worker) -> None:
        """Remove what applies only to a living worker, and remember why it ended if it is replaced."""
        number = worker.metrics_slot
        with suppress(OSError):
            (Path(self.path) / f"gauge_livesum_{self._pid}-{number}.db").unlink()
        in_order = not worker.aborted
        try:
            self._sign(worker).unlink()
        except OSError:
            in_order = False
        if len(server.WORKERS) < server.num_workers:
            self._replacements.append("recycled" if in_order else "killed")

    def _write_starts(self) -> None:
        new = Path(self.path) / f"new-{self._pid}"
        new.write_text(json.dumps(self._starts))
        new.rename(Path(self.path) / f"{_STARTS}{self._pid}")  # in one step, because a worker may read it meanwhile

    def _sign(self, worker: Worker) -> Path:
        return Path(self.path) / f"ended-{self._pid}-{worker.metrics_slot}"
