"""The hooks of gunicorn.conf.py, called without a server: what a start rejects and warns of, and what signals do."""

from __future__ import annotations

import gc
import signal
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gunicorn.config import Config

from cartsvc.server.hooks import Hooks, start_error, start_warnings
from cartsvc.server.slow_clients import ClientTimeouts
from cartsvc.settings import Settings, export_store
from cartsvc.stores.memory import MemoryDirectory
from cartsvc.stores.urls import LmdbConfig, MemoryConfig, StoreConfig
from cartsvc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB = 2**20
STOPS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
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
    return Hooks(
        settings_for(store, memory_limit=4 * _MIB),
        timeouts=timeouts,
        open_files=4096,
        connections=2000,
        max_connections=2000,
        export_store=export_store,
    )


def server_with(**options: Any) -> SimpleNamespace:
    """Return what the hooks use of gunicorn's first process."""
    options = {"workers": 1, "worker_connections": 2000} | options
    return SimpleNamespace(
        cfg=config(**options),
        log=Log(),
        worker_class=object,
        master_pid=0,
        reexec_pid=0,
        store_lock=None,
        metrics=None,
        SIG_QUEUE=SimpleQueue(),
    )


@pytest.fixture(autouse=True)
def _store_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the variable that a start on memory:// sets."""
    monkeypatch.setenv("CARTSVC_STORE_URL", "memory://")


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Restore this process's handlers of signals."""
    handlers = {each: signal.getsignal(each) for each in STOPS}
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


# ---- a start ----


@pytest.mark.parametrize(
    ("store", "options", "words"),
    [
        (MemoryConfig(), {"preload_app": True}, ["with --preload all workers would share one open store"]),
        (_LMDB, {"preload_app": True}, ["with --preload all workers would share one open store"]),
        (MemoryConfig("/dev/shm/x"), {}, ["=memory:///dev/shm/x has the carts of another server", "Set memory://"]),  # noqa: S108 - never created
    ],
)
def test_an_unsafe_combination_is_rejected(store: StoreConfig, options: dict[str, Any], words: list[str]) -> None:
    """The error names the option and the remedy; a start with it ends and locks nothing."""
    error = start_error(store, config(**options), takes_over=False)
    assert error is not None
    assert [word for word in words if word not in error] == []
    server = server_with(**options)
    with pytest.raises(SystemExit) as ended:
        hooks_for(store).on_starting(server)
    assert ended.value.code == f"cartsvc cannot start: {error}"
    assert server.store_lock is None
    assert server.log.infos == []


@pytest.mark.parametrize(
    ("bind", "is_accepted"),
    [
        (["0.0.0.0:8080", "0.0.0.0:9100"], True),
        (["127.0.0.1:8080"], False),
        (["unix:/run/cartsvc"], False),
        (["0.0.0.0:9100", "unix:/run/cartsvc"], False),
    ],
)
def test_metrics_need_a_listener(bind: list[str], *, is_accepted: bool) -> None:
    """For their port; and of a Unix socket a client would choose the port."""
    error = start_error(_LMDB, config(bind=bind), takes_over=False, metrics_port=9100)
    assert (error is None) == is_accepted
    assert is_accepted or "no listener for CARTSVC_METRICS_PORT" in str(error)


@pytest.mark.parametrize("store", [MemoryConfig(), _LMDB])
def test_any_number_of_workers_is_accepted(store: StoreConfig) -> None:
    """On every store, and workers may be replaced."""
    assert start_error(store, config(workers=8, max_requests=1000), takes_over=False) is None


def test_a_server_may_take_over_the_carts_of_another() -> None:
    """The server that a USR2 signal starts."""
    assert start_error(MemoryConfig("/dev/shm/x"), config(), takes_over=True) is None  # noqa: S108 - never created


def test_the_warnings_of_a_start() -> None:
    """They are those of the settings, memory, open files and authentication, in this order."""
    settings = msgspec.structs.replace(settings_for(MemoryConfig(), memory_limit=512 * _MIB), warnings=("a slip",))
    found = start_warnings(
        settings,
        config(workers=1),
        memory=400 * _MIB,
        container=128 * _MIB,
        open_files=64,
        connections=16,
        max_connections=2000,
    )
    assert [each.split(",")[0].split(": anyone")[0] for each in found] == [
        "a slip",
        "memory:// is limited to 400 MiB",
        "the container has 128 MiB of memory",
        "each worker has room for 16 connections only",
        "CARTSVC_AUTH=none",
    ]


def test_fewer_connections_on_request_are_no_warning() -> None:
    """With --worker-connections only that number is used, so open files are not what limits it."""
    cfg = config(workers=1, worker_connections=16)
    found = start_warnings(
        settings_for(_LMDB),
        cfg,
        memory=None,
        container=None,
        open_files=4096,
        connections=2000,
        max_connections=2000,
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


@pytest.mark.parametrize(
    ("queued", "alive"), [([], True), ([signal.SIGHUP], True), *[([each], False) for each in STOPS]]
)
def test_a_stop_since_the_fork_ends_a_worker(queued: list[signal.Signals], *, alive: bool) -> None:
    """The handler of the arbiter has only queued it, and the worker would never read that queue."""
    server, worker = server_with(), SimpleNamespace(alive=True)
    for each in queued:
        server.SIG_QUEUE.put(each)
    with kept_handlers():
        hooks_for(MemoryConfig()).post_fork(server, worker)
    assert worker.alive is alive


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_ends_a_worker_that_boots(stop: signal.Signals) -> None:
    """From the fork on, the worker has a handler of its own."""
    worker = SimpleNamespace(alive=True)
    with kept_handlers():
        hooks_for(MemoryConfig()).post_fork(server_with(), worker)
        signal.raise_signal(stop)
    assert worker.alive is False


@pytest.mark.parametrize(("age", "expected"), [(1, ["evicts carts"]), (2, [])])
def test_the_first_worker_logs_the_warnings_of_the_store(age: int, expected: list[str]) -> None:
    """One line is enough, however many workers there are."""
    app = SimpleNamespace(extensions={"cartsvc": SimpleNamespace(startup_warnings=lambda: ["evicts carts"])})
    worker = SimpleNamespace(app=SimpleNamespace(wsgi=lambda: app), age=age, log=Log())
    hooks_for(_LMDB).post_worker_init(worker)
    assert worker.log.warnings == expected


def test_a_worker_freezes_what_it_has_loaded() -> None:
    """The collector does not look at it again."""
    worker = SimpleNamespace(app=SimpleNamespace(wsgi=object), age=2, log=Log())
    gc.unfreeze()
    hooks_for(_LMDB).post_worker_init(worker)
    assert gc.get_freeze_count() > 10_000


def test_the_arbiter_freezes_what_it_has_loaded(tmp_path: Path) -> None:
    """The collectors of the workers leave it as it is, so that they share its memory."""
    server = server_with()
    gc.unfreeze()
    hooks_for(LmdbConfig(str(tmp_path / "carts"))).on_starting(server)
    assert gc.get_freeze_count() > 10_000
    server.store_lock.close()


def test_another_app_has_no_warnings() -> None:
    """gunicorn.conf.py may serve an app without carts."""
    worker = SimpleNamespace(app=SimpleNamespace(wsgi=object), age=1, log=Log())
    hooks_for(_LMDB).post_worker_init(worker)
    assert worker.log.warnings == []


# ---- carts in memory ----


@pytest.fixture
def started() -> Iterator[tuple[Hooks, SimpleNamespace, Path]]:
    """Return the hooks of a server on memory://, the server after its start, and the directory of its carts."""
    hooks, server = hooks_for(MemoryConfig()), server_with(workers=2)
    hooks.on_starting(server)
    yield hooks, server, Path(server.store_lock.path)
    server.store_lock.close()


def test_a_start_creates_the_directory_of_the_carts(started: tuple[Hooks, SimpleNamespace, Path]) -> None:
    """Its workers find it in the environment, and the operator finds it in the log."""
    _, server, directory = started
    assert (directory / "data.mdb").exists()
    assert Settings.from_env().store == MemoryConfig(str(directory))
    (line,) = server.log.infos
    assert line.startswith(f"cartsvc {__version__}: store memory://{directory} (4 MiB")
    server.store_lock.close()
    assert not directory.exists()


def test_a_worker_leaves_the_directory(started: tuple[Hooks, SimpleNamespace, Path]) -> None:
    """Its copy of the arbiter's lock would keep the directory of an arbiter that was killed."""
    hooks, server, directory = started
    lock, server.store_lock = server.store_lock, MemoryDirectory(str(directory))
    with kept_handlers():
        hooks.post_fork(server, SimpleNamespace(alive=True))
    server.store_lock.close()
    assert directory.exists()
    server.store_lock = lock
    lock.close()
    assert not directory.exists()


def test_a_server_passes_its_carts_on(started: tuple[Hooks, SimpleNamespace, Path]) -> None:
    """The server that a USR2 signal starts has the environment of the first start, and keeps the directory."""
    hooks, server, directory = started
    server.cfg.env_orig["CARTSVC_STORE_URL"] = "memory://"
    hooks.pre_exec(server)
    assert server.cfg.env_orig["CARTSVC_STORE_URL"] == f"memory://{directory}"
    second = server_with(workers=2)
    second.master_pid = 1
    hooks_for(MemoryConfig(str(directory))).on_starting(second)
    server.reexec_pid = 1
    hooks.on_exit(server)
    server.store_lock.close()
    assert directory.exists()
    hooks.on_exit(second)
    second.store_lock.close()
    assert not directory.exists()


def test_other_stores_have_nothing_to_pass_on() -> None:
    """Their URL is the same for every server."""
    server = server_with()
    before = dict(server.cfg.env_orig)
    hooks_for(_LMDB).pre_exec(server)
    hooks_for(_LMDB).on_exit(server)
    assert server.cfg.env_orig == before
