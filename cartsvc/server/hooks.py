"""The hooks of gunicorn.conf.py: the checks of a start, how a worker starts, and the start and end of a request."""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

from gunicorn.http.message import _check_fast_parser

from cartsvc.errors import StoreUnusable
from cartsvc.server.startup import container_memory, files_warning, memory_warning, start_line
from cartsvc.stores import lock_store
from cartsvc.stores.urls import MemoryConfig

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.config import Config
    from gunicorn.http import Request
    from gunicorn.workers.base import Worker

    from cartsvc.server.slow_clients import ClientTimeouts
    from cartsvc.settings import Settings


def raise_file_limit(wanted: int) -> int:
    """Return how many files a worker may open. Raise the soft limit (often 1,024 or 256) to ``wanted`` if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def start_error(settings: Settings, cfg: Config) -> str | None:
    """Return why a server must not start with these settings and command-line options; None if it may."""
    if not isinstance(settings.store, MemoryConfig):
        if cfg.preload_app:
            return "with --preload all workers would share one open store. Leave it out."
        return None
    if cfg.workers > 1:
        return (
            f"{cfg.workers} workers were requested, and CARTSVC_STORE_URL=memory:// keeps carts in one process: with "
            "more, each would have carts of its own. Set WEB_CONCURRENCY=1, or leave it and --workers out."
        )
    if cfg.max_requests:
        return (
            "--max-requests replaces the worker now and then, and CARTSVC_STORE_URL=memory:// keeps carts in it. "
            "Leave it out."
        )
    return None


def start_warnings(
    settings: Settings, cfg: Config, *, container: int | None, open_files: int, connections: int, max_connections: int
) -> list[str]:
    """Return the warnings of a start.

    ``container`` is the memory limit of the container in bytes. A worker may open ``open_files`` files, which allow it
    ``connections`` instead of ``max_connections`` connections.
    """
    found = [
        *settings.warnings,
        memory_warning(container, store=settings.store, memory_limit=settings.memory_limit, workers=cfg.workers),
        files_warning(connections, wanted=max_connections, files=open_files),
    ]
    if settings.auth is None:
        found.append("CARTSVC_AUTH=none: anyone who can reach this port can read and change every cart")
    return [warning for warning in found if warning is not None]


class Hooks:
    """The functions that gunicorn calls, with the settings that they need."""

    def __init__(
        self,
        settings: Settings,
        *,
        timeouts: ClientTimeouts,
        open_files: int,
        connections: int,
        max_connections: int,
    ) -> None:
        self._settings = settings
        self._timeouts = timeouts
        self._open_files = open_files
        self._connections = connections
        self._max_connections = max_connections
        self._one_process = isinstance(settings.store, MemoryConfig)

    def on_starting(self, server: Arbiter) -> None:
        """Log warnings, reject unsafe combinations of settings and command-line options, and lock the store."""
        container, cfg = container_memory(), server.cfg
        for warning in start_warnings(
            self._settings,
            cfg,
            container=container,
            open_files=self._open_files,
            connections=self._connections,
            max_connections=self._max_connections,
        ):
            server.log.warning(warning)
        error = start_error(self._settings, cfg)
        if error is not None:
            sys.exit(f"cartsvc cannot start: {error}")
        try:
            server.store_lock = lock_store(self._settings.store)  # for the life of the server; its workers inherit it
        except StoreUnusable as unusable:
            sys.exit(f"cartsvc cannot start: {unusable}")
        server.log.info(
            start_line(
                self._settings.store,
                memory_limit=self._settings.memory_limit,
                container=container,
                workers=cfg.workers,
                worker_class=getattr(server.worker_class, "kind", cfg.worker_class_str),
                threads=cfg.threads,
                parser="C" if _check_fast_parser(cfg) else "Python",  # gunicorn's own choice, for each request
                connections=cfg.worker_connections,
                auth="none" if self._settings.auth is None else "jwt",
            )
        )

    def post_fork(self, server: Arbiter, worker: Worker) -> None:
        """Handle SIGTERM while a worker boots. Until then it has the arbiter's handler, which only queues signals."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(worker, "alive", False))
        while not server.SIG_QUEUE.empty():  # this process's copy, which has the signals that arrived since the fork
            if server.SIG_QUEUE.get() == signal.SIGTERM:
                worker.alive = False

    def post_worker_init(self, worker: Worker) -> None:
        """Log the warnings of the store once, in the first worker."""
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

    def pre_exec(self, server: Arbiter) -> None:
        """End the second server that a USR2 signal starts: with memory:// it would have carts of its own."""
        if self._one_process:
            server.log.warning("memory:// keeps carts in one process: no second server is started")
            os._exit(1)

    def nworkers_changed(self, server: Arbiter, new: int, old: int | None) -> None:
        """Undo the second worker that a TTIN signal adds: with memory:// it would have carts of its own."""
        if self._one_process and old is not None and new > 1:
            server.log.warning("memory:// keeps carts in one process: no worker is added")
            server.num_workers = 1
