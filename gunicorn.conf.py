"""How gunicorn serves cartsvc. Each line says which failure it prevents.

The worker class was chosen by measurement (docs/decisions/0004-gevent-workers.md): one memory process serves more under
gevent than under threads, which fight for the interpreter lock, and clients that dribble their requests cost it a
coroutine each and not a thread each. CARTSVC_THREADS asks for real threads all the same.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import warnings
from typing import TYPE_CHECKING

import gevent.monkey

from cartsvc.errors import SettingsError, StoreUnusable
from cartsvc.server.slow_clients import ClientTimeouts
from cartsvc.server.startup import (
    connections_within,
    container_memory,
    files_needed,
    files_warning,
    memory_warning,
    start_line,
)
from cartsvc.settings import Settings
from cartsvc.stores import count_pools, lock_store
from cartsvc.stores.urls import MemoryConfig

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.http import Request
    from gunicorn.workers.base import Worker

try:
    settings = Settings.from_env()
except SettingsError as error:
    sys.exit(str(error))  # the faults, without a traceback around them

_ONE_PROCESS = isinstance(settings.store, MemoryConfig)

# PyJWT's own fetching of keys, which nothing here uses, has ssl imported before gevent's workers replace its parts.
warnings.filterwarnings("ignore", "Monkey-patching ssl", category=gevent.monkey.MonkeyPatchWarning)

# By default every IPv4 address, because other containers could not connect to a loopback address.
_host = f"[{settings.host}]" if ":" in settings.host else settings.host  # IPv6 needs brackets
bind = f"{_host}:{settings.port}"

# A worker a core, or cores stand idle. Each process of memory:// has carts of its own, so there it is one: a second one
# would show a shopper another cart every other time.
workers = settings.worker_count

# A coroutine a connection: slow clients hold up nobody, and no threads fight for the interpreter lock.
worker_class = "cartsvc.server.workers.ThreadWorker" if settings.threads else "cartsvc.server.workers.GeventWorker"
threads = settings.threads or 1

# Who finds no room waits outside until somebody leaves: 1,500 idle connections must not fill it. More would be
# unsafe: of 2,000 that all ask, each still gets a turn within a second or so, and their bodies take 256 MiB at most.
_CONNECTIONS = 2000
# The rate limit counts over connections of its own.
_pools = count_pools(settings.store) * (1 if settings.rate_limit is None else 2)


def _allowed_files(wanted: int) -> int:
    """How many files a worker may open; as many as wanted, if only the soft limit (often 1,024 or 256) forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


# Fewer where fewer files may be open: accepting more would fail in the middle of a request.
_files = _allowed_files(files_needed(_CONNECTIONS, _pools))
worker_connections = connections_within(_files, wanted=_CONNECTIONS, pools=_pools)

# Without it each request pays for a new connection. A proxy that keeps connections longer than we do meets closed ones.
# It is also how long a client may take over the head of its request.
keepalive = settings.keep_alive

# A body that never ends, or an answer nobody takes, would hold its connection for ever. We wait as for the head; but a
# keep-alive of minutes, which a proxy may want, is for the time between requests. By default all of it together is less
# than graceful_timeout. Coroutines take turns only where one waits: who has always sent already must be made to.
_timeouts = ClientTimeouts(
    timeout_s=float(min(keepalive, 5)),
    max_body=settings.max_body,
    yield_control=(lambda: None) if settings.threads else gevent.sleep,
)

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

# By default gunicorn believes headers from the same host, where a proxy may pass on what it was sent: a request would
# have another path than its own, or end as 500. CARTSVC_TRUSTED_PROXIES alone says who is believed, and in what.
forwarded_allow_ips = ""

# One line a request costs more than the request, and user ids would stand in it. Turn it on with --access-logfile -.
accesslog = None
logger_class = "cartsvc.server.workers.Logger"
loglevel = settings.log_level


def on_starting(server: Arbiter) -> None:
    """Refuse what would be wrong, once the command line has had its say; tell what looks like a slip."""
    container = container_memory()
    for warning in (
        *settings.warnings,
        memory_warning(container, store=settings.store, memory_limit=settings.memory_limit, workers=server.cfg.workers),
        files_warning(worker_connections, wanted=_CONNECTIONS, files=_files),
    ):
        if warning is not None:
            server.log.warning(warning)
    if settings.auth is None:
        server.log.warning("CARTSVC_AUTH=none: whoever reaches this port can read and change every cart")
    if _ONE_PROCESS and server.cfg.workers > 1:
        sys.exit(
            f"cartsvc cannot start: {server.cfg.workers} workers were asked for, and CARTSVC_STORE_URL=memory:// keeps "
            "carts in one process: with more, each would have carts of its own. Set WEB_CONCURRENCY=1, or leave it and "
            "--workers out."
        )
    if _ONE_PROCESS and server.cfg.max_requests:
        sys.exit(
            "cartsvc cannot start: --max-requests replaces the worker now and then, and CARTSVC_STORE_URL=memory:// "
            "keeps carts in it. Leave it out."
        )
    if server.cfg.preload_app and not _ONE_PROCESS:
        sys.exit("cartsvc cannot start: with --preload all workers would share one open store. Leave it out.")
    try:
        server.store_lock = lock_store(settings.store)  # for as long as the server lives; its workers inherit it
    except StoreUnusable as error:
        sys.exit(f"cartsvc cannot start: {error}")
    server.log.info(
        start_line(
            settings.store,
            memory_limit=settings.memory_limit,
            container=container,
            workers=server.cfg.workers,
            worker_class=getattr(server.worker_class, "kind", server.cfg.worker_class_str),
            threads=server.cfg.threads,
            connections=server.cfg.worker_connections,
            auth="none" if settings.auth is None else "jwt",
        )
    )


def post_fork(server: Arbiter, worker: Worker) -> None:
    """Let a worker hear a stop while it starts: it has its parent's handler, which only queues what nobody reads."""
    signal.signal(signal.SIGTERM, lambda *_: setattr(worker, "alive", False))
    while not server.SIG_QUEUE.empty():  # this process's own copy; what came since the fork is in it
        if server.SIG_QUEUE.get() == signal.SIGTERM:
            worker.alive = False


def post_worker_init(worker: Worker) -> None:
    """Warn about how the store is set up: the first worker, once."""
    service = getattr(worker.app.wsgi(), "extensions", {}).get(
        "cartsvc"
    )  # none when another app is served with this file
    if worker.age == 1 and service is not None:
        for warning in service.startup_warnings():
            worker.log.warning(warning)


def pre_request(_worker: Worker, request: Request) -> None:
    """Begin to keep the time that its client has."""
    _timeouts.start_request(request)


def post_request(_worker: Worker, request: Request, _environ: object, _response: object) -> None:
    """End it, and let other connections have a turn."""
    _timeouts.finish_request(request)


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
