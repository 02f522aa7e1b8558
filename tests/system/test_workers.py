"""gunicorn's worker processes: how many there are, and how they come and go, without a failed request."""

from __future__ import annotations

import os
import signal
import time
from itertools import count
from typing import TYPE_CHECKING

import pytest

from cartsvc.server.cpus import available_cpus
from tests.support.http_clients import SECONDS, Client, at_once
from tests.support.servers import run, serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = pytest.mark.parametrize("environment", [{}, {"CARTSVC_THREADS": "4"}], ids=["gevent", "threads"])


@pytest.fixture
def lmdb_url(tmp_path: Path) -> str:
    """A store in a directory of its own."""
    return f"lmdb://{tmp_path}/carts?sync=off"  # no test waits for a disk


# ---- how many ----


def test_there_is_a_worker_for_each_core() -> None:
    """Unless told otherwise there are as many as usable cores; TTIN adds one, and TTOU takes one away."""
    with serve() as server:
        server.wait_for_workers(available_cpus())
        server.process.send_signal(signal.SIGTTIN)
        server.wait_for_workers(available_cpus() + 1)
        server.process.send_signal(signal.SIGTTOU)
        server.wait_for_workers(available_cpus())


def test_a_worker_that_takes_anothers_place_repeats_no_advice() -> None:
    """A fault in the setup of the Valkey server is logged once, however many workers WEB_CONCURRENCY starts."""
    advice = "the Valkey server writes no append-only file"
    with valkey() as store, serve(CARTSVC_STORE_URL=store.url, WEB_CONCURRENCY="3") as server:
        server.wait_for_workers(3)
        server.wait_for_log(advice)
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        server.wait_for_boots(6)
        with Client(server.url) as client:
            assert client.add("alice").status == 200
        assert server.log().count(advice) == 1


# ---- coming and going ----


@pytest.mark.usefixtures("soak_round")
@CLASSES
def test_workers_are_replaced_without_a_failed_request(lmdb_url: str, environment: dict[str, str]) -> None:
    """Clients keep their connections until they are told to close them, and each request is answered: none fails."""
    often = ("--workers", "2", "--max-requests", "40", "--max-requests-jitter", "40")
    with serve(*often, CARTSVC_STORE_URL=lmdb_url, **environment) as server:

        def shop(first: Client, number: int) -> int:
            """Count the connections that were used up."""
            client = first
            for closed in count():
                for total in count(1):
                    response = client.add(f"user-{number}-{closed}")
                    assert (response.status, response.body["total_quantity"]) == (200, total)
                    if response.headers["Connection"] == "close":
                        break
                client.connection.close()
                if server.log().count("Autorestarting worker") >= 4:
                    return closed + 1
                time.sleep(0.02)  # for a second gevent's worker, while it ends, closes each connection after a request
                client = Client(server.url)
            raise AssertionError

        assert sum(at_once(8, server.url, shop)) >= 4


@CLASSES
def test_a_connection_may_rest_while_its_worker_is_replaced(lmdb_url: str, environment: dict[str, str]) -> None:
    """It is kept as long as always, and the request that comes on it then is answered, and closes it."""
    soon = ("--workers", "1", "--max-requests", "10", "--max-requests-jitter", "0")
    keep = {"CARTSVC_KEEP_ALIVE": "3"} | environment
    with serve(*soon, CARTSVC_STORE_URL=lmdb_url, **keep) as server, Client(server.url) as resting:
        resting.add("alice")
        began = time.monotonic()
        with Client(server.url) as busy:
            while busy.add("bob").headers["Connection"] != "close":
                pass
        time.sleep(2.5 - (time.monotonic() - began))  # the rest
        response = resting.add("alice")
        assert (response.status, response.body["total_quantity"], response.headers["Connection"]) == (200, 2, "close")


@pytest.mark.usefixtures("soak_round")
def test_a_worker_that_is_starting_hears_a_stop(lmdb_url: str) -> None:
    """SIGTERM just after a worker was forked does not have to wait until the graceful time-out is over."""
    with serve("--workers", "2", CARTSVC_STORE_URL=lmdb_url) as server:
        server.wait_for_boots(2)
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        server.wait_for_boots(4)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS // 2) == 0


# ---- what is not shared ----


def test_preload_is_refused(lmdb_url: str) -> None:
    """A store that was opened before the fork would be shared: the server does not start, and says why."""
    ended = run("--preload", CARTSVC_STORE_URL=lmdb_url)
    assert ended.returncode == 1
    assert "cartsvc cannot start: with --preload all workers would share one open store." in ended.output
    assert "Traceback" not in ended.output
