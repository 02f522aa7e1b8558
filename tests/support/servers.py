"""The real gunicorn with the real configuration, started by a test on a free port and stopped by it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT = Path(__file__).parents[2]
_SECONDS = 30  # to start, to stop, to log something; more than the graceful time-out
_OURS = (
    "CARTSVC_",
    "GUNICORN_",
    "HOST",
    "PORT",
    "WEB_CONCURRENCY",
)  # what the shell that runs the tests must not decide


class Ended(NamedTuple):
    """How a server ended that was not to start: its exit code, and all it said."""

    returncode: int
    output: str


class Server:
    """A server on a port of its own. ``url`` has no slash at its end; ``process`` is gunicorn's first one.

    It can be killed and started again on the same port.
    """

    process: subprocess.Popen[bytes]

    def __init__(
        self, arguments: tuple[str, ...], environment: dict[str, str], log: Path, *, open_files: int | None = None
    ) -> None:
        self.port = _free_port()
        host = environment.get("HOST", "127.0.0.1")
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        self._command = _command(arguments)
        if open_files is not None:  # the hard limit too, which the server could raise its own limit to
            self._command = ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *self._command]
        self._environment = _environment(environment, self.port)
        self._log = log

    @property
    def pid(self) -> int:
        """Of gunicorn's first process."""
        return self.process.pid

    def start(self) -> None:
        """Start it, and return once it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=_ROOT, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.wait_until_live()

    def kill(self) -> None:
        """Kill all its processes at once; none of them is there when this returns."""
        self.process.send_signal(signal.SIGSTOP)  # it would start another worker between our looking and killing
        self._wait(lambda: _state(self.pid) in "TZ", "has not stopped")
        workers = self.workers()
        for pid in [*workers, self.pid]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(_SECONDS)
        self._wait(lambda: not any(map(_runs, workers)), "has workers left")

    def workers(self) -> list[int]:
        """The ids of its worker processes, dead ones left out."""
        # Started by gunicorn's main thread, so they are that one's children.
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if _runs(pid)]

    def wait_for_workers(self, count: int) -> None:
        """Return once it has so many workers."""
        self._wait(lambda: len(self.workers()) == count, f"has not come to {count} workers")

    def wait_for_boots(self, count: int) -> None:
        """Return once so many workers have begun to start, those that are gone included."""
        self._wait(lambda: self.log().count("Booting worker") >= count, f"has not started {count} workers")

    def log(self) -> str:
        """What it has said until now, on both streams."""
        return self._log.read_text(errors="replace")

    def wait_for_log(self, text: str) -> None:
        """Return once it has said this."""
        self._wait(lambda: text in self.log(), f"has not said {text!r}")

    def wait_until_live(self) -> None:
        """Return once /healthz answers."""

        def answers() -> bool:
            assert self.process.poll() is None, f"the server did not start:\n{self.log()}"
            return self._is_live()

        self._wait(answers, "does not answer")

    def _wait(self, holds: Callable[[], bool], otherwise: str) -> None:
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
    """A server with these settings, and with these arguments of gunicorn's, until the block ends.

    ``open_files`` is how many files each of its processes may open, if that is not to be this process's own limit.
    It must stop by SIGTERM within the graceful time-out, with exit code 0. What it said stands below any failure.
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
    ended = subprocess.run(
        _command(arguments),
        cwd=_ROOT,
        env=_environment(environment, _free_port()),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout)


def _command(arguments: tuple[str, ...]) -> list[str]:
    # Of several applications gunicorn takes the first: a test may name one of its own among its arguments.
    return [sys.executable, "-m", "gunicorn", *arguments, "wsgi:app"]


def _environment(settings: dict[str, str], port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | {"PORT": str(port)} | settings


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _runs(pid: int) -> bool:
    return _state(pid) not in "XZ"


def _state(pid: int) -> str:
    """One letter, as proc(5) has it; X when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return text.rpartition(") ")[2][0]
