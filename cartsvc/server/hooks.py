"""The hooks of gunicorn.conf.py: the checks of a start, how a worker starts, and the start and end of a request."""

from __future__ import annotations

import gc
import resource
import signal
import sys
from typing import TYPE_CHECKING

from gunicorn.http.message import _check_fast_parser

from cartsvc.errors import StoreUnusable
from cartsvc.server.drain import drain_before_stop
from cartsvc.server.startup import container_memory, files_warning, memory_warning, room_warning, start_line
from cartsvc.stores import lock_store
from cartsvc.stores.memory import MemoryDirectory
from cartsvc.stores.urls import MemoryConfig, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from gunicorn.arbiter import Arbiter
    from gunicorn.config import Config
    from gunicorn.http import Request
    from gunicorn.workers.base import Worker

    from cartsvc.server.slow_clients import ClientTimeouts
    from cartsvc.settings import Settings
    from cartsvc.shared_directory import SharedDirectory
    from cartsvc.stores.urls import StoreConfig
    from cartsvc.telemetry.metrics_files import MetricsFiles

_STOPS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


def raise_file_limit(wanted: int) -> int:
    """Return how many files a worker may open. Raise the soft limit (often 1,024 or 256) to ``wanted`` if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def start_error(store: StoreConfig, cfg: Config, *, takes_over: bool, metrics_port: int | None = None) -> str | None:
    """Return why a server must not start with this store and these command-line options; None if it may.

    ``takes_over`` is true for the server that a USR2 signal starts, which takes over the carts in memory.
    """
    if cfg.preload_app:
        return "with --preload all workers would share one open store. Leave it out."
    if isinstance(store, MemoryConfig) and store.path is not None and not takes_over:
        return f"CARTSVC_STORE_URL={describe(store)} has the carts of another server. Set memory:// instead."
    # The address of a Unix socket is a text, and the port of its requests is what the client sends.
    ports = {each[1] if isinstance(each, tuple) else None for each in cfg.address}
    if metrics_port is not None and (metrics_port not in ports or None in ports):
        return "with --bind there is no listener for CARTSVC_METRICS_PORT. Set HOST and PORT instead."
    return None


def start_warnings(
    settings: Settings,
    cfg: Config,
    *,
    memory: int | None,
    container: int | None,
    open_files: int,
    connections: int,
    max_connections: int,
) -> list[str]:
    """Return the warnings of a start.

    ``memory`` is the size of memory:// in bytes, or None for other stores. ``container`` is the memory limit of the
    container in bytes. A worker may open ``open_files`` files, which allow it ``connections`` instead of
    ``max_connections`` connections.
    """
    found = [
        *settings.warnings,
        room_warning(memory, memory_limit=settings.memory_limit),
        memory_warning(container, memory=memory, workers=cfg.workers),
        files_warning(connections, wanted=max_connections, files=open_files),
    ]
    if settings.auth is None:
        found.append("CARTSVC_AUTH=none: anyone who can reach this port can read and change every cart")
    return [warning for warning in found if warning is not None]


class Hooks:
    """The functions that gunicorn calls, with the settings that they need.

    ``export_store`` sets the store of a configuration for the processes that this one starts, by default, or in the
    environment that is its second argument; so does ``export_metrics`` with the directory of the metrics, which
    ``open_metrics`` opens. Both are None without metrics.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeouts: ClientTimeouts,
        open_files: int,
        connections: int,
        max_connections: int,
        export_store: Callable[..., None],
        open_metrics: Callable[..., MetricsFiles] | None = None,
        export_metrics: Callable[..., None] | None = None,
    ) -> None:
        self._settings = settings
        self._export_store = export_store
        self._open_metrics = open_metrics
        self._export_metrics = export_metrics
        self._timeouts = timeouts
        self._open_files = open_files
        self._connections = connections
        self._max_connections = max_connections

    def on_starting(self, server: Arbiter) -> None:
        """Reject unsafe combinations of settings and command-line options, lock the store, and log warnings."""
        settings, container, cfg = self._settings, container_memory(), server.cfg
        takes_over = server.master_pid != 0
        error = start_error(settings.store, cfg, takes_over=takes_over, metrics_port=settings.metrics_port)
        if error is not None:
            sys.exit(f"cartsvc cannot start: {error}")
        server.metrics = None
        try:
            if self._open_metrics is not None:  # first, because memory:// takes the memory that is left
                server.metrics = self._open_metrics(takes_over=takes_over, workers=cfg.workers)
            lock = lock_store(settings.store, memory_limit=settings.memory_limit, max_readers=settings.max_readers)
        except (OSError, StoreUnusable) as unusable:
            sys.exit(f"cartsvc cannot start: {unusable}")
        server.store_lock = lock  # for the life of the server
        if settings.drain > 0:
            drain_before_stop(server, settings.drain)
        store, memory = settings.store, None
        if isinstance(lock, MemoryDirectory):
            store, memory = MemoryConfig(lock.path), lock.size
            self._export_store(store)
        for warning in start_warnings(
            settings,
            cfg,
            memory=memory,
            container=container,
            open_files=self._open_files,
            connections=self._connections,
            max_connections=self._max_connections,
        ):
            server.log.warning(warning)
        server.log.info(
            start_line(
                store,
                memory=memory,
                container=container,
                workers=cfg.workers,
                worker_class=getattr(server.worker_class, "kind", cfg.worker_class_str),
                threads=cfg.threads,
                parser="C" if _check_fast_parser(cfg) else "Python",  # gunicorn's own choice, for each request
                connections=cfg.worker_connections,
                auth="none" if settings.auth is None else "jwt",
            )
        )
        # The collectors of the workers do not write into what is loaded by now, so the workers share its memory: each
        # has 10 MiB less of its own, and starts in half the time.
        _freeze_objects()

    def pre_fork(self, server: Arbiter, worker: Worker) -> None:
        """Prepare the files of the worker's metrics."""
        if server.metrics is not None:
            server.metrics.before_fork(server, worker)

    def post_fork(self, server: Arbiter, worker: Worker) -> None:
        """Give the arbiter's locks back, and handle the signals that stop a worker while it boots.

        Until then the worker has the arbiter's handlers, which only queue signals.
        """
        if server.metrics is not None:
            server.metrics.after_fork(worker)
        for directory in _shared_directories(server):
            directory.leave()  # a worker has its own, so that the last one can remove what a killed arbiter left
        for each in _STOPS:
            signal.signal(each, lambda *_: setattr(worker, "alive", False))
        while not server.SIG_QUEUE.empty():  # this process's copy, which has the signals that arrived since the fork
            if server.SIG_QUEUE.get() in _STOPS:
                worker.alive = False

    def post_worker_init(self, worker: Worker) -> None:
        """Keep the garbage collector off what the application has loaded, and log the warnings of the store once."""
        # Each full collection would look at all objects of the libraries again, which takes 6 % of a POST.
        _freeze_objects()
        service = getattr(worker.app.wsgi(), "extensions", {}).get("cartsvc")  # None if another app is served
        if worker.age == 1 and service is not None:
            for warning in service.startup_warnings():
                worker.log.warning(warning)

    def pre_request(self, _worker: Worker, request: Request) -> None:
        """Start the timeouts of the client."""
        self._timeouts.start_request(request)

    def post_request(self, _worker: Worker, request: Request, _environ: object, _response: object) -> None:
        """End the timeouts, and yield to other connections."""
        self._timeouts.finish_request(request)

    def worker_exit(self, server: Arbiter, worker: Worker) -> None:
        """Leave a sign that the worker ends in order, and export its last spans."""
        if server.metrics is not None:
            server.metrics.worker_exit(worker)
        tracing = getattr(worker.app.callable, "extensions", {}).get("cartsvc.tracing")
        if tracing is not None:
            tracing.close()

    def child_exit(self, server: Arbiter, worker: Worker) -> None:
        """Keep the counts of a worker that has ended."""
        if server.metrics is not None:
            server.metrics.worker_ended(server, worker)

    def pre_exec(self, server: Arbiter) -> None:
        """Pass the carts in memory, and the metrics, on to the server that a USR2 signal starts."""
        if server.metrics is not None and self._export_metrics is not None:
            self._export_metrics(server.metrics.path, server.cfg.env_orig)
        if isinstance(server.store_lock, MemoryDirectory):
            self._export_store(MemoryConfig(server.store_lock.path), server.cfg.env_orig)

    def on_exit(self, server: Arbiter) -> None:
        """Leave the carts in memory, and the metrics, to the server that a USR2 signal has started, if it runs."""
        if server.reexec_pid != 0:
            for directory in _shared_directories(server):
                directory.leave()


def _freeze_objects() -> None:
    """Keep the garbage collector off all objects that exist."""
    gc.collect()
    gc.freeze()


def _shared_directories(server: Arbiter) -> list[SharedDirectory]:
    """Return the directories that end with the server: of its carts in memory, and of its metrics."""
    found: list[SharedDirectory] = [] if server.metrics is None else [server.metrics.directory]
    return [*found, server.store_lock] if isinstance(server.store_lock, MemoryDirectory) else found
