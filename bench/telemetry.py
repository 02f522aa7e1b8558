"""Measure what telemetry adds to a GET in process: ids and times, metrics, and a line of the log.

It runs in a process of its own with gevent's locks, as a worker has them.
Four applications, each with its own store in memory, serve the same request in turns.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
from werkzeug.test import EnvironBuilder

from bench.processes import ROOT, Broken
from bench.results import Telemetry
from bench.sizes import cpu_us
from cartsvc import create_app
from cartsvc.api.flask_app import FlaskApp
from cartsvc.settings import Settings, export_metrics_directory
from cartsvc.telemetry.log_format import log_formatter
from cartsvc.telemetry.metrics_files import MetricsFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from wsgiref.types import WSGIApplication, WSGIEnvironment

_CALLS = 100  # in one round, of each application
_ITEMS = 5
_MEMORY = str(2**20)  # bytes of each store
_METRICS_PORT = "9100"  # nothing listens; it is not the port of the requests
_TIMEOUT_S = 300


def measure(rounds: int) -> list[Telemetry]:
    """Return the figures of each round. Raises Broken if the process fails."""
    # As in a worker, what gunicorn.conf.py imports is imported before the patch.
    program = "import sys, prometheus_client, gevent.monkey as monkey; monkey.patch_all(); "
    program += "from bench.telemetry import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, str(rounds)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CARTSVC_")}
    ended = subprocess.run(  # noqa: S603 - our own command
        command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if ended.returncode != 0:
        raise Broken(f"telemetry was not measured: {ended.stderr.strip().rpartition(chr(10))[2]}")
    figures: list[Telemetry] = msgspec.json.decode(ended.stdout, type=list[Telemetry])
    return figures


def in_turns(rounds: int) -> Iterator[Telemetry]:
    """Measure in this process, each round with all applications."""
    with ExitStack() as stack:
        apps = _applications(stack)
        for name in list(apps):  # to warm up, and to fill the stores
            for n in range(_ITEMS):
                _serve(apps[name], _environ("POST", {"product_id": f"sku-{n}", "quantity": 1}))
            _cpu_us_of(apps[name])
        for _ in range(rounds):
            yield Telemetry(**{name: _cpu_us_of(app) for name, app in apps.items()})


def _applications(stack: ExitStack) -> dict[str, WSGIApplication]:
    """Return the applications by the names of their figures. The files of the metrics are removed with the stack."""
    files = MetricsFiles.open(None, workers=1)
    stack.callback(files.directory.close)
    export_metrics_directory(files.path)
    plain = create_app(_settings(CARTSVC_ACCESS_LOG="off"), wrap_store=lambda measured: measured.inner)  # type: ignore[attr-defined]
    ids = create_app(_settings(CARTSVC_ACCESS_LOG="off"))
    line = create_app(_settings(CARTSVC_ACCESS_LOG="all"))
    _write_lines(stack)
    files.after_fork(SimpleNamespace(has_metrics=True, metrics_slot=0))  # from here on, this process is a worker
    metrics = create_app(_settings(CARTSVC_ACCESS_LOG="off", CARTSVC_METRICS_PORT=_METRICS_PORT))
    return {
        # The method of the class, because create_app replaces that of the object by the one with telemetry.
        "none": lambda environ, start: FlaskApp.wsgi_app(plain, environ, start),
        "ids": ids.wsgi_app,
        "metrics": metrics.wsgi_app,
        "line": line.wsgi_app,
    }


def _settings(**environ: str) -> Settings:
    return Settings.from_env({"CARTSVC_MEMORY_LIMIT": _MEMORY, **environ})


def _write_lines(stack: ExitStack) -> None:
    """Write lines as a server does, but to nowhere."""
    handler = logging.FileHandler(os.devnull)
    stack.callback(handler.close)
    handler.setFormatter(log_formatter("json"))
    logger = logging.getLogger("cartsvc")
    logger.handlers, logger.propagate = [handler], False


def _cpu_us_of(app: WSGIApplication) -> float:
    environs = [_environ("GET") for _ in range(_CALLS)]
    return cpu_us(lambda environ: _serve(app, environ), environs)


def _environ(method: str, body: dict[str, Any] | None = None) -> WSGIEnvironment:
    return EnvironBuilder("/cart/alice", method=method, json=body).get_environ()


def _serve(app: WSGIApplication, environ: WSGIEnvironment) -> None:
    def start_response(status: str, *_: object) -> Callable[[bytes], object]:
        if not status.startswith("2"):
            raise Broken(f"{environ['REQUEST_METHOD']} got {status}")
        return bytes  # never called

    for _ in app(environ, start_response):
        pass


def main(arguments: Sequence[str]) -> None:
    """Print the figures of this number of rounds as JSON."""
    print(msgspec.json.encode(list(in_turns(int(arguments[0])))).decode())  # noqa: T201 - the purpose of this program


if __name__ == "__main__":
    main(sys.argv[1:])
