"""The hooks of gunicorn.conf.py, called without a server: what a start rejects and warns of, and what signals do."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gunicorn.config import Config

from cartsvc.server.hooks import Hooks, start_error, start_warnings
from cartsvc.server.slow_clients import ClientTimeouts
from cartsvc.settings import Settings
from cartsvc.stores.urls import LmdbConfig, MemoryConfig, StoreConfig
from cartsvc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MIB = 2**20
_LMDB = LmdbConfig("/var/lib/cartsvc")
_SETTINGS = Settings.from_env()


def settings_for(store: StoreConfig, **changes: Any) -> Settings:
    """Return settings with this store and without authentication."""
    return msgspec.structs.replace(_SETTINGS, store=store, auth=None, warnings=(), **changes)


def config(**options: Any) -> Config:
    """Return gunicorn's configuration with these command-line options."""
    cfg = Config()
    for name, value in options.items():
        cfg.set(name, value)
    return cfg


class Log:
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.infos: list[str] = []

    def warning(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)

    def info(self, text: str) -> None:
        """Keep an information."""
        self.infos.append(text)


def hooks_for(store: StoreConfig) -> Hooks:
    """Return the hooks of a server with this store."""
    timeouts = ClientTimeouts(timeout_s=5, max_body=_MIB, yield_control=lambda: None)
    return Hooks(settings_for(store), timeouts=timeouts, open_files=4096, connections=2000, max_connections=2000)


def server_with(**options: Any) -> SimpleNamespace:
    """Return what the hooks use of gunicorn's first process."""
    options = {"workers": 1, "worker_connections": 2000} | options
    return SimpleNamespace(
        cfg=config(**options), log=Log(), worker_class=object, num_workers=2, SIG_QUEUE=SimpleQueue()
    )


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """Restore this process's handler of SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


# ---- a start ----


@pytest.mark.parametrize(
    ("store", "options", "words"),
    [
        (MemoryConfig(), {"workers": 2}, ["2 workers were requested", "Set WEB_CONCURRENCY=1"]),
        (MemoryConfig(), {"max_requests": 1000}, ["--max-requests replaces the worker"]),
        (_LMDB, {"preload_app": True}, ["with --preload all workers would share one open store"]),
    ],
    ids=["workers", "max_requests", "preload"],
)
def test_an_unsafe_combination_is_rejected(store: StoreConfig, options: dict[str, Any], words: list[str]) -> None:
    """The error names the option and the remedy; a start with it ends and locks nothing."""
    error = start_error(settings_for(store), config(**options))
    assert error is not None
    assert [word for word in words if word not in error] == []
    server = server_with(**options)
    with pytest.raises(SystemExit) as ended:
        hooks_for(store).on_starting(server)
    assert ended.value.code == f"cartsvc cannot start: {error}"
    assert not hasattr(server, "store_lock")
    assert server.log.infos == []


@pytest.mark.parametrize(
    ("store", "options"),
    [
        (MemoryConfig(), {"workers": 1}),
        (MemoryConfig(), {"workers": 1, "preload_app": True}),  # one process: nothing is shared
        (_LMDB, {"workers": 8, "max_requests": 1000}),
    ],
)
def test_a_safe_combination_is_accepted(store: StoreConfig, options: dict[str, Any]) -> None:
    """What is unsafe for one store is allowed for another one."""
    assert start_error(settings_for(store), config(**options)) is None


def test_the_warnings_of_a_start() -> None:
    """They are those of the settings, memory, open files and authentication, in this order."""
    settings = msgspec.structs.replace(settings_for(MemoryConfig(), memory_limit=512 * _MIB), warnings=("a slip",))
    found = start_warnings(
        settings, config(workers=1), container=128 * _MIB, open_files=64, connections=16, max_connections=2000
    )
    assert [each.split(":")[0].split(",")[0] for each in found] == [
        "a slip",
        "the container has 128 MiB of memory",
        "each worker has room for 16 connections only",
        "CARTSVC_AUTH=none",
    ]


def test_fewer_connections_on_request_are_no_warning() -> None:
    """With --worker-connections only that number is used, so open files are not what limits it."""
    cfg = config(workers=1, worker_connections=16)
    found = start_warnings(
        settings_for(_LMDB), cfg, container=None, open_files=4096, connections=2000, max_connections=2000
    )
    assert found == ["CARTSVC_AUTH=none: anyone who can reach this port can read and change every cart"]


def test_a_start_locks_the_store_and_logs_the_configuration(tmp_path: Path) -> None:
    """The lock is kept on the server, so that it lives as long."""
    server = server_with(workers=2)
    hooks_for(LmdbConfig(str(tmp_path / "carts"))).on_starting(server)
    assert (tmp_path / "carts" / "guard").exists()
    server.store_lock.close()
    assert [line.startswith(f"cartsvc {__version__}: store lmdb://{tmp_path}/carts") for line in server.log.infos] == [
        True
    ]


def test_an_unusable_store_ends_the_start(tmp_path: Path) -> None:
    """The message is that of the store, without a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"^cartsvc cannot start: .*file/carts cannot be used for carts"):
        hooks_for(LmdbConfig(str(tmp_path / "file" / "carts"))).on_starting(server_with())


# ---- workers ----


@pytest.mark.parametrize(("queued", "alive"), [([], True), ([signal.SIGHUP], True), ([signal.SIGTERM], False)])
def test_a_stop_since_the_fork_ends_a_worker(queued: list[signal.Signals], *, alive: bool) -> None:
    """The handler of the arbiter has only queued it, and the worker would never read that queue."""
    server, worker = server_with(), SimpleNamespace(alive=True)
    for each in queued:
        server.SIG_QUEUE.put(each)
    with kept_sigterm():
        hooks_for(MemoryConfig()).post_fork(server, worker)
    assert worker.alive is alive


def test_a_stop_ends_a_worker_that_boots() -> None:
    """From the fork on, the worker has a handler of its own."""
    worker = SimpleNamespace(alive=True)
    with kept_sigterm():
        hooks_for(MemoryConfig()).post_fork(server_with(), worker)
        signal.raise_signal(signal.SIGTERM)
    assert worker.alive is False


@pytest.mark.parametrize(("age", "expected"), [(1, ["evicts carts"]), (2, [])])
def test_the_first_worker_logs_the_warnings_of_the_store(age: int, expected: list[str]) -> None:
    """One line is enough, however many workers there are."""
    app = SimpleNamespace(extensions={"cartsvc": SimpleNamespace(startup_warnings=lambda: ["evicts carts"])})
    worker = SimpleNamespace(app=SimpleNamespace(wsgi=lambda: app), age=age, log=Log())
    hooks_for(_LMDB).post_worker_init(worker)
    assert worker.log.warnings == expected


def test_another_app_has_no_warnings() -> None:
    """gunicorn.conf.py may serve an app without carts."""
    worker = SimpleNamespace(app=SimpleNamespace(wsgi=object), age=1, log=Log())
    hooks_for(_LMDB).post_worker_init(worker)
    assert worker.log.warnings == []


@pytest.mark.parametrize(
    ("store", "old", "new", "workers"),
    [(MemoryConfig(), 1, 2, 1), (MemoryConfig(), None, 2, 2), (MemoryConfig(), 1, 1, 2), (_LMDB, 1, 2, 2)],
)
def test_memory_gets_no_second_worker(store: StoreConfig, old: int | None, new: int, workers: int) -> None:
    """A TTIN signal is undone; the first setting of the number (no old one) is checked by the start."""
    server = server_with()
    hooks_for(store).nworkers_changed(server, new, old)
    assert server.num_workers == workers
    assert len(server.log.warnings) == (workers == 1)


def test_other_stores_get_a_second_server() -> None:
    """A USR2 signal starts a new server, which takes over; with memory:// the process would end here."""
    server = server_with()
    hooks_for(_LMDB).pre_exec(server)
    assert server.log.warnings == []
