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
    from collections.abc import Iterator

_ROOT = Path(__file__).parent.parent
_SECONDS = 30  # to start, to stop, to log something; more than the graceful time-out
_OURS = ("CARTSVC_", "GUNICORN_", "PORT", "WEB_CONCURRENCY")  # what the shell that runs the tests must not decide


class Ended(NamedTuple):
    """How a server ended that was not to start: its exit code, and all it said."""

    returncode: int
    output: str


class Server:
    """A running server. ``url`` has no slash at its end; ``pid`` is gunicorn's first process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def log(self) -> str:
        """What it has said until now, on both streams."""
        return self._log.read_text(errors="replace")

    def wait_for_log(self, text: str) -> None:
        """Return once it has said this."""
        deadline = time.monotonic() + _SECONDS
        while text not in self.log():
            assert time.monotonic() < deadline, f"the server has not said {text!r}, but:\n{self.log()}"
            time.sleep(0.02)

    def wait_until_live(self) -> None:
        """Return once /healthz answers."""
        deadline = time.monotonic() + _SECONDS
        while not self._is_live():
            assert self.process.poll() is None, f"the server did not start:\n{self.log()}"
            assert time.monotonic() < deadline, f"the server does not answer:\n{self.log()}"
            time.sleep(0.02)

    def _is_live(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=_SECONDS):  # noqa: S310 - our own URL
                return True
        except OSError:
            return False


@contextmanager
def serve(*arguments: str, **environment: str) -> Iterator[Server]:
    """A server with these settings, and with these arguments of gunicorn's, until the block ends.

    It must stop by SIGTERM within the graceful time-out, with exit code 0. What it said stands below any failure.
    """
    port = _free_port()
    with tempfile.NamedTemporaryFile(prefix="cartsvc-", suffix=".log") as log:
        process = subprocess.Popen(
            _command(arguments), cwd=_ROOT, env=_environment(environment, port), stdout=log, stderr=subprocess.STDOUT
        )
        server = Server(process, port, Path(log.name))
        try:
            server.wait_until_live()
            yield server
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            code = process.wait(_SECONDS)
            assert code == 0, f"the server ended with exit code {code}"
        except BaseException as error:
            error.add_note(f"The server's log:\n{server.log()}")
            raise
        finally:
            if process.poll() is None:
                process.kill()  # its workers see that their parent is gone, and end
                process.wait()


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
