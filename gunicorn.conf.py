"""How gunicorn serves cartsvc. Each line says which failure it prevents.

The worker class was chosen by measurement (docs/decisions/0004-gevent-workers.md): one memory process serves more under
gevent than under threads, which fight for the interpreter lock, and clients that dribble their requests cost it a
coroutine each and not a thread each. CARTSVC_THREADS asks for real threads all the same.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import gevent

from cartsvc.errors import SettingsError, StoreUnusable
from cartsvc.settings import Settings
from cartsvc.stores import hold
from cartsvc.stores.urls import MemoryPlace

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

try:
    settings = Settings.from_env()
except SettingsError as error:
    sys.exit(str(error))  # the faults, without a traceback around them

_ONE_PROCESS = isinstance(settings.store, MemoryPlace)

# Containers reach each other by address, and a loopback default would be heard by nobody.
bind = f"0.0.0.0:{settings.port}"

# A worker a core, or cores stand idle. Each process of memory:// has carts of its own, so there it is one: a second one
# would show a shopper another cart every other time.
workers = settings.processes

# A coroutine a connection: slow clients hold up nobody, and no threads fight for the interpreter lock.
worker_class = "gthread" if settings.threads else "gevent"
threads = settings.threads or 1

# Below the usual limit of 1,024 open files: accepting more would fail in the middle of a request.
worker_connections = 1000

# Without it each request pays for a new connection. A proxy that keeps connections longer than we do meets closed ones.
# It is also how long a client may take over the head of its request.
keepalive = settings.keep_alive

# A worker that hangs is replaced. This is a heartbeat and no limit on a request; memory's carts go with their worker.
timeout = 30

# A stop lets running requests finish; docker-compose.yml's stop_grace_period must be longer, or they are cut off.
graceful_timeout = 20

# What leaks slowly, here or in a library, never fills the memory: workers are replaced now and then, not all at once.
# With memory:// that would throw the carts away.
max_requests = 0 if _ONE_PROCESS else 100_000
max_requests_jitter = max_requests // 10

# The heartbeat touches a file; on a disk that is slow or busy that blocks the worker, and it is killed for it.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112 - memory, not a shared temporary file; a plain test

# Through its control socket anyone who can open it adds workers, each with carts of its own.
control_socket_disable = True

# The app is loaded after the fork: an open store must not be shared by two processes.
preload_app = False

# Bound what a head of a request can hold, so that nobody fills the memory with headers.
limit_request_line = 4094
limit_request_fields = 100
limit_request_field_size = 8190

# One line a request costs more than the request, and user ids would stand in it. Turn it on with --access-logfile -.
accesslog = None
loglevel = settings.log_level


def on_starting(server: Arbiter) -> None:
    """Refuse what would be wrong, once the command line has had its say; tell what looks like a slip."""
    for warning in settings.warnings:
        server.log.warning(warning)
    if _ONE_PROCESS and server.cfg.workers > 1:
        sys.exit(
            f"cartsvc cannot start: {server.cfg.workers} workers were asked for, and CARTSVC_STORE_URL=memory:// keeps "
            "carts in one process: with more, each would have carts of its own. Set WEB_CONCURRENCY=1, or leave it and "
            "--workers out."
        )
    if server.cfg.preload_app and not _ONE_PROCESS:
        sys.exit("cartsvc cannot start: with --preload all workers would share one open store. Leave it out.")
    try:
        server.held = hold(settings.store)  # for as long as the server lives; its workers inherit it
    except StoreUnusable as error:
        sys.exit(f"cartsvc cannot start: {error}")


def post_worker_init(worker: Worker) -> None:
    """Tell what is wrong with how the store is set up: once, by the first worker."""
    if worker.age == 1:
        for warning in worker.wsgi.extensions["cartsvc"].advice():
            worker.log.warning(warning)


def post_request(_worker: Worker, _request: object, _environ: object, _response: object) -> None:
    """Let the other connections' coroutines run: one whose next request is there already would go on for ever."""
    if worker_class == "gevent":
        gevent.sleep(0)


def pre_exec(server: Arbiter) -> None:
    """Undo a USR2 signal's second server beside this one, for the reason above."""
    if _ONE_PROCESS:
        server.log.warning("memory:// keeps carts in one process: no second server is started")
        os._exit(1)


def nworkers_changed(server: Arbiter, new: int, old: int | None) -> None:
    """Undo a TTIN signal's second worker, for the reason above."""
    if _ONE_PROCESS and old is not None and new > 1:
        server.log.warning("memory:// keeps carts in one process: no worker is added")
        server.num_workers = 1
