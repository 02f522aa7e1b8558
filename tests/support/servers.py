"""The real gunicorn with the real configuration, started by a test on a free port and stopped by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.ports import free_port
from tests.support.programs import Ended, run_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT = Path(__file__).parents[2]
STARTUP = Path(__file__).with_name("startup")  # on PYTHONPATH, it lets programs start faster
_SECONDS = 30  # to start, to stop, to log something; more than the graceful timeout
_OURS = (
    "CARTSVC_",
    "GUNICORN_",
    "HOST",
    "OTEL_",
    "PORT",
    "WEB_CONCURRENCY",
)  # settings of the shell that runs the tests are not passed on


class Server:
    """A server on its own port. ``url`` has no trailing slash; ``process`` is gunicorn's arbiter.

    It can be killed and started again on the same port.
    """

    process: subprocess.Popen[bytes]

    def __init__(
        self, arguments: tuple[str, ...], environment: dict[str, str], log: Path, *, open_files: int | None = None
    ) -> None:
        self.port = free_port()
        host = environment.get("HOST", "127.0.0.1")
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        self._command = _command(arguments)
        if open_files is not None:  # the hard limit too, which the server could raise its own limit to
            self._command = ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *self._command]
        self._environment = _environment(environment, self.port)
        self._log = log

    @property
    def pid(self) -> int:
        """Return the process id of gunicorn's arbiter."""
        return self.process.pid

    def start(self) -> None:
        """Start it, and return once it responds."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=_ROOT, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.wait_until_live()

    def kill(self) -> None:
        """Kill all its processes at once, and wait until none exists."""
        self.process.send_signal(signal.SIGSTOP)  # so that it cannot start a worker between the listing and the killing
        self.wait_until(lambda: _state(self.pid) in "TZ", "has not stopped")
        workers = self.workers()
        for pid in [*workers, self.pid]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(_SECONDS)
        self.wait_until(lambda: not any(map(runs, workers)), "has workers left")

    def workers(self) -> list[int]:
        """Return the ids of its live worker processes."""
        # The main thread of gunicorn starts them, so they are its children.
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if runs(pid)]

    def wait_for_workers(self, count: int) -> None:
        """Return once it has this number of workers."""
        self.wait_until(lambda: len(self.workers()) == count, f"has not come to {count} workers")

    def wait_for_boots(self, count: int) -> None:
        """Return once this number of workers have begun to start, including those that ended."""
        self.wait_until(lambda: self.log().count("Booting worker") >= count, f"has not started {count} workers")

    def log(self) -> str:
        """Return its output on both streams."""
        return self._log.read_text(errors="replace")

    def wait_for_log(self, text: str) -> None:
        """Return once its output contains this text."""
        self.wait_until(lambda: text in self.log(), f"has not written {text!r}")

    def wait_until_live(self) -> None:
        """Return once /healthz responds."""

        def responds() -> bool:
            assert self.process.poll() is None, f"the server did not start:\n{self.log()}"
            return self._is_live()

        self.wait_until(responds, "does not respond")

    def wait_until(self, holds: Callable[[], bool], otherwise: str = "has not come to that") -> None:
        """Return once this holds."""
        deadline = time.monotonic() + _SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"the server {otherwise}:\n{self.log()}"
            time.sleep(0.02)

    def _is_live(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=_SECONDS):  # noqa: S310 - our own URL
                return True
        except OSError:
            return False


@contextmanager
def serve(*arguments: str, open_files: int | None = None, **environment: str) -> Iterator[Server]:
    """Run a server with these settings and gunicorn arguments until the block ends.

    ``open_files`` limits the open files of each of its processes; the default is this process's limit.
    SIGTERM must stop it within the graceful timeout, with exit code 0. A failure shows its log.
    """
    with tempfile.NamedTemporaryFile(prefix="cartsvc-", suffix=".log") as log:
        server = Server(arguments, environment, Path(log.name), open_files=open_files)
        try:
            server.start()
            yield server
            if server.process.poll() is None:
                server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(_SECONDS)
            assert code == 0, f"the server ended with exit code {code}"
        except BaseException as error:
            error.add_note(f"The server's log:\n{server.log()}")
            raise
        finally:
            if server.process.poll() is None:
                server.kill()


def run(*arguments: str, **environment: str) -> Ended:
    """Start a server that ends by itself, and wait for that."""
    settings = _environment(environment, free_port())
    return run_program(_command(arguments), cwd=_ROOT, env=settings, timeout=_SECONDS)


def _command(arguments: tuple[str, ...]) -> list[str]:
    # Of several applications gunicorn takes the first: a test may name one of its own among its arguments.
    # The script, because a USR2 signal would start a second server of "python -m gunicorn" with another import path.
    return [str(Path(sys.executable).with_name("gunicorn")), *arguments, "wsgi:app"]


def _environment(settings: dict[str, str], port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | {"PORT": str(port), "CARTSVC_LOG_FORMAT": "text", "PYTHONPATH": str(STARTUP)} | settings


def runs(pid: int) -> bool:
    """Return whether this process exists and has not ended."""
    return _state(pid) not in "XZ"


def _state(pid: int) -> str:
    """Return the state letter of proc(5); X if the process does not exist."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return text.rpartition(") ")[2][0]
