"""Start and stop the servers to measure, on free ports of 127.0.0.1, and put carts into them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parent.parent
_TIMEOUT_S = 20  # until a server must respond, and until it must have stopped
_PREFIXES = ("CARTSVC_", "GUNICORN_", "WEB_CONCURRENCY", "PORT", "HOST")  # of variables that would change a server


class Broken(Exception):
    """A server or the load generator does not work, so nothing was measured."""


class Server(NamedTuple):
    """A running server: its port, the process whose tree serves requests, and that of its store's server (or 0)."""

    port: int
    pid: int
    store_pid: int = 0


@contextmanager
def serving(
    command: Sequence[str],
    port: int,
    *,
    cwd: Path = ROOT,
    env: dict[str, str],
    store_pid: int = 0,
    probe: str = "/cart/user-0",
) -> Iterator[Server]:
    """Run a server until the end of the context. Raises Broken if it does not respond to a GET of ``probe``."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES)}
    process = subprocess.Popen(command, cwd=cwd, env=clean | env)  # noqa: S603 - the bench's own commands
    try:
        _wait_for(port, process, probe)
        yield Server(port, process.pid, store_pid)
    finally:
        process.terminate()
        try:
            process.wait(2 * _TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that no program uses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def request(port: int, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401 - JSON
    """Send a request, and return the JSON of the response. Raises Broken for an error status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        raise Broken(f"{method} {path} got {response.status}: {content.decode(errors='replace')}")
    return json.loads(content)


def fill(port: int, user_id: str, items: int) -> Any:  # noqa: ANN401 - JSON
    """Add this many items to a cart one by one, as every subject can, and return the cart."""
    cart = None
    for n in range(items):
        item = {"product_id": f"sku-{n}", "quantity": 2, "unit_price": 1999, "currency": "EUR"}
        cart = request(port, "POST", f"/cart/{user_id}", item)
    return cart


def _wait_for(port: int, process: subprocess.Popen[bytes], probe: str) -> None:
    end = time.monotonic() + _TIMEOUT_S
    while process.poll() is None:
        try:
            request(port, "GET", probe)
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > end:
                raise Broken(f"no response on port {port} within {_TIMEOUT_S} s") from error
            time.sleep(0.05)
        else:
            return
    raise Broken(f"the server stopped with exit code {process.returncode}")
