"""gunicorn's settings for cartsvc, each with the failure that it prevents. The hooks are in cartsvc/server/hooks.py.

The worker class was chosen by measurement (docs/decisions/0004-gevent-workers.md). One process with carts in memory
serves more requests with gevent than with threads, which compete for the interpreter lock, and a slow client costs it a
coroutine instead of a thread. CARTSVC_THREADS selects threads nevertheless.
"""

from __future__ import annotations

import os
import sys
import warnings

import gevent.monkey

from cartsvc.errors import SettingsError
from cartsvc.server.hooks import Hooks, raise_file_limit
from cartsvc.server.slow_clients import ClientTimeouts
from cartsvc.server.startup import connections_within, files_needed
from cartsvc.settings import Settings, export_metrics_directory, export_store, metrics_directory
from cartsvc.stores import count_pools
from cartsvc.telemetry.gunicorn_log import logger_with
from cartsvc.telemetry.log_format import log_formatter

try:
    settings = Settings.from_env()
except SettingsError as error:
    sys.exit(str(error))  # the faults, without a traceback

# PyJWT's own client for keys, which is not used, imports ssl before gevent's workers patch it.
warnings.filterwarnings("ignore", "Monkey-patching ssl", category=gevent.monkey.MonkeyPatchWarning)

# By default all IPv4 addresses, because other containers cannot connect to a loopback address.
_host = f"[{settings.host}]" if ":" in settings.host else settings.host  # IPv6 needs brackets
bind = [f"{_host}:{settings.port}"]

# Metrics have a port of their own, which no client of the carts can reach. Any worker serves it.
_open_metrics = None
if settings.metrics_port is not None:
    # Imported before gevent patches the standard library in the workers. So the library's lock is Python's own, with
    # which counting takes a quarter less. No coroutine waits for it, because none is suspended while it has it.
    import prometheus_client  # noqa: F401

    from cartsvc.telemetry.metrics_files import MetricsFiles

    bind.append(f"{_host}:{settings.metrics_port}")

    def _open_metrics(*, takes_over: bool, workers: int) -> MetricsFiles:
        """Open the files of the metrics, and let the workers find them."""
        files = MetricsFiles.open(metrics_directory() if takes_over else None, workers=workers)
        export_metrics_directory(files.path)
        return files


# One worker per CPU, so that no CPU is idle.
workers = settings.worker_count

# One coroutine per connection: slow clients block no other client, and no threads compete for the interpreter lock.
worker_class = "cartsvc.server.workers.ThreadWorker" if settings.threads else "cartsvc.server.workers.GeventWorker"
threads = settings.threads or 1

# Maximum connections per worker; further connections wait in the listen backlog. 2,000 leave room for 1,500 idle
# connections. With 2,000 active ones, each gets a response within a second or so, and buffered bodies need at most
# 256 MiB. With a low limit of open files there are fewer: accepting more would fail in the middle of a request.
_MAX_CONNECTIONS = 2000
_pools = count_pools(settings.store) * (1 if settings.rate_limit is None else 2)  # rate counters have their own
_files = raise_file_limit(files_needed(_MAX_CONNECTIONS, _pools))
worker_connections = connections_within(_files, wanted=_MAX_CONNECTIONS, pools=_pools)

# Keep-alive timeout. Without it, each request needs a new connection. It must exceed the idle timeout of a proxy, which
# would otherwise reuse connections that the service has closed. It also limits how long a client may take to send its
# headers.
keepalive = settings.keep_alive

# A worker that hangs is replaced. This is a heartbeat, not a limit on requests.
timeout = 30

# A stop lets running requests finish, after CARTSVC_DRAIN. docker-compose.yml's stop_grace_period must be longer than
# both together, or they are aborted.
graceful_timeout = 20

# Slow leaks, of the service or of a library, never fill the memory, because workers are replaced at intervals, and not
# all at once.
max_requests = 100_000
max_requests_jitter = max_requests // 10

# The heartbeat changes a file. On a slow or busy disk that blocks the worker, which is then killed.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112 - memory, not a shared temporary file; a plain test

# Any process that can open gunicorn's control socket can add and end workers.
control_socket_disable = True

# The app is loaded after the fork, because two processes must not share an open store.
preload_app = False

# Limit the size of headers, so that a client cannot fill the memory with them.
limit_request_line = 4094
limit_request_fields = 100
limit_request_field_size = 8190

# By default gunicorn trusts headers of connections from the same host, where a proxy may pass on those of a client: a
# request could get another path than its own, or end with 500. Only CARTSVC_TRUSTED_PROXIES selects trusted headers.
forwarded_allow_ips = ""

# gunicorn's lines would contain user ids. CARTSVC_ACCESS_LOG selects those of cartsvc.
accesslog = None

# Programs read JSON, people read text.
logger_class = logger_with(log_formatter(settings.log_format or ("text" if sys.stderr.isatty() else "json")))
loglevel = settings.log_level

# Time out slow request bodies and unread responses, which would block a connection forever. The limit follows
# `keepalive`, but is at most 5 s: a long keep-alive, which a proxy may need, applies between requests only, and by
# default all timeouts together are shorter than graceful_timeout. gevent switches only when a coroutine blocks, so the
# worker yields explicitly after each read and each response.
_hooks = Hooks(
    settings,
    timeouts=ClientTimeouts(
        timeout_s=float(min(keepalive, 5)),
        max_body=settings.max_body,
        yield_control=(lambda: None) if settings.threads else gevent.sleep,
    ),
    open_files=_files,
    connections=worker_connections,
    max_connections=_MAX_CONNECTIONS,
    export_store=export_store,
    open_metrics=_open_metrics,
    export_metrics=export_metrics_directory,
)
on_starting = _hooks.on_starting
pre_fork = _hooks.pre_fork
post_fork = _hooks.post_fork
post_worker_init = _hooks.post_worker_init
pre_request = _hooks.pre_request
post_request = _hooks.post_request
worker_exit = _hooks.worker_exit
child_exit = _hooks.child_exit
pre_exec = _hooks.pre_exec
on_exit = _hooks.on_exit
