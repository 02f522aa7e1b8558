"""examples/storefront/serve.py, started by a test on free ports and stopped by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.ports import free_port
from tests.support.servers import STARTUP

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
_SECONDS = 30


class Demo(NamedTuple):
    """A running demo: the URLs of the page and of its cart service, without a trailing slash, and its process."""

    url: str
    service: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Return the id of the process, whose child is the cart service."""
        return self.process.pid


@contextmanager
def demo(*, expected: int = 0, **environment: str) -> Iterator[Demo]:
    """Run the demo until the block ends, with these variables in its environment. SIGINT must stop it.

    ``expected`` is its exit code.
    """
    page, service = free_port(), free_port()
    command = [sys.executable, "examples/storefront/serve.py", f"--port={page}", f"--service-port={service}"]
    with tempfile.TemporaryFile("w+") as log:
        settings = {"PYTHONPATH": str(STARTUP), "WEB_CONCURRENCY": "1", **environment}
        process = subprocess.Popen(command, cwd=_ROOT, env={**os.environ, **settings}, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _SECONDS
            while f"http://localhost:{page}\n" not in _read(log):
                assert process.poll() is None, _read(log)
                assert time.monotonic() < deadline, _read(log)
                time.sleep(0.02)
            yield Demo(f"http://127.0.0.1:{page}", f"http://127.0.0.1:{service}", process)
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(_SECONDS)
        assert code == expected, _read(log)


def _read(log: tempfile._TemporaryFileWrapper[str]) -> str:
    log.seek(0)
    return log.read()
