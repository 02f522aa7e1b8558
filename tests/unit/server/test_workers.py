"""What of gunicorn's workers no client can bring about at will; tests/system has the rest."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from concurrent.futures import Future

import pytest
from gunicorn import http
from gunicorn.config import Config
from gunicorn.workers.gthread import TConn

from cartsvc.server.workers import IDLE_GRACE_S, ThreadWorker

KEEP_ALIVE = 75


@pytest.mark.parametrize("stopped", [False, True], ids=["replaced", "stopped"])
def test_a_connection_that_comes_back_after_the_end_is_kept_as_long_as_it_was_told(*, stopped: bool) -> None:
    """Its response said keep-alive before the worker began to end. Only a stop is in a hurry."""
    config = Config()
    config.set("keepalive", KEEP_ALIVE)
    worker = ThreadWorker(1, os.getppid(), [], None, 30, config, None)
    worker.method_queue.init()
    ours, theirs = socket.socketpair()
    with ours, theirs, selectors.DefaultSelector() as worker.poller:
        connection = TConn(config, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
        connection.parser = http.get_parser(config, ours, connection.client)
        answered: Future[bool] = Future()
        answered.set_result(True)
        began = time.monotonic()
        if stopped:
            worker.handle_exit(signal.SIGTERM, None)
        worker.alive = False  # as after max_requests

        worker.finish_request(connection, answered)

        assert list(worker.keepalived_conns) == [connection]
        seconds = IDLE_GRACE_S if stopped else KEEP_ALIVE
        assert connection.timeout - began == pytest.approx(seconds, abs=1)
    worker.method_queue.close()
    worker.tmp.close()
