"""A server that drains before it stops: it is unready, and it serves, so that a rolling restart loses no request."""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.balancer import balancer
from tests.support.http_clients import SECONDS, Client
from tests.support.load import ROOM
from tests.support.servers import serve
from tests.support.valkeys import valkey
from tests.system.test_stop import wait_until_refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.balancer import Balancer
    from tests.support.servers import Server

LONG = {"CARTSVC_DRAIN": "600", "CARTSVC_KEEP_ALIVE": "75"}  # until a second signal
DRAINING = "draining for 600 s: /readyz returns 503, and requests are served"
MANY = 20  # connections, so that each worker has some of them


def readiness(server: Server, count: int = MANY) -> set[tuple[int, str]]:
    """Return the different responses of /readyz on this number of new connections: status, and status or problem."""
    found = set()
    for _ in range(count):
        with Client(server.url) as client:
            response = client.call("GET", "/readyz")
            found.add((response.status, response.body.get("type", response.body["status"])))
    return found


READY = {(200, "ok")}
UNREADY = {(503, "urn:cartsvc:problem:draining")}


def drain(server: Server) -> None:
    """Send SIGTERM, and return once the server drains."""
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_log(DRAINING)


def end(server: Server, second: signal.Signals) -> None:
    """End the drain with a second signal."""
    server.process.send_signal(second)
    assert server.process.wait(SECONDS) == 0


@pytest.mark.parametrize(
    ("server", "second"),
    [
        (LONG | {"WEB_CONCURRENCY": "2"}, signal.SIGTERM),
        (LONG | {"WEB_CONCURRENCY": "2", "CARTSVC_THREADS": "4"}, signal.SIGQUIT),
    ],
    ids=["gevent", "threads"],
    indirect=["server"],
)
def test_all_workers_are_unready_and_serve(server: Server, second: signal.Signals) -> None:
    """On old and new connections; each response closes its connection, so that clients move to other servers."""
    with ExitStack() as stack:
        kept = []
        for _ in range(MANY):
            kept.append(stack.enter_context(Client(server.url)))
            assert kept[-1].add("alice").headers["Connection"] == "keep-alive"
        assert readiness(server) == READY

        drain(server)

        assert readiness(server) == UNREADY
        for number in range(2 * MANY):
            client = kept[number] if number < MANY else stack.enter_context(Client(server.url))
            response = client.add("alice")
            assert (response.status, response.headers["Connection"]) == (200, "close")
            assert response.headers["Keep-Alive"] is None
        with Client(server.url) as client:
            assert client.call("GET", "/healthz").status == 200
    assert server.process.poll() is None
    end(server, second)
    assert server.log().count("draining for") == 1


@pytest.mark.parametrize("server", [LONG | {"WEB_CONCURRENCY": "1"}], indirect=True)
def test_a_reload_does_not_drain(server: Server) -> None:
    """HUP replaces the worker; during a drain, the new one drains too, and so does the successor of a killed one."""
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_boots(2)
    server.wait_for_workers(1)
    assert readiness(server) == READY

    drain(server)
    before = server.workers()
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_boots(3)
    server.wait_until(lambda: not set(before) & set(server.workers()), "has old workers")
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for_boots(4)
    server.wait_for_workers(1)
    assert readiness(server) == UNREADY
    end(server, signal.SIGINT)


def test_a_server_that_shares_its_port_does_not_drain() -> None:
    """While two servers share it (USR2), /readyz of the one that stops would take the other out of rotation too."""

    def second_server(boots: int) -> int:
        server.process.send_signal(signal.SIGUSR2)
        server.wait_for_boots(boots)
        return int(re.findall(r"\[(\d+)\] \[INFO\] Listening at", server.log())[-1])

    with serve(**LONG, WEB_CONCURRENCY="1") as server:
        server.wait_for_boots(1)
        os.kill(second_server(2), signal.SIGTERM)
        server.wait_for_log("Shutting down: Master.2")
        # Only then does gunicorn start another one: the ended server is a child, like the worker, until it was reaped.
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
        server.wait_until(lambda: len(children.read_text().split()) == 1, "has not reaped the ended server")
        second = second_server(3)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        assert readiness(server) == READY
        assert DRAINING not in server.log()

        server.wait_for_log("Master has been promoted")
        os.kill(second, signal.SIGTERM)
        server.wait_for_log(DRAINING)
        os.kill(second, signal.SIGTERM)
        wait_until_refused(server)


# ---- a rolling restart ----


class Kind(NamedTuple):
    """Clients of a kind: they pause after each request, and keep their connection or do not."""

    name: str
    pause_s: float
    keeps: bool


KINDS = [Kind("busy", 0.04, keeps=True), Kind("thinking", 0.3, keeps=True), Kind("new", 0.02, keeps=False)]
EACH = 2  # clients of each kind


class Shopper:
    """A client that adds to its cart without retries, on a new connection when a response has closed the last one."""

    def __init__(self, url: str, kind: Kind, number: int) -> None:
        self.user_id = f"{kind.name}-{number}"
        self.accepted, self.failed = 0, []
        self._url, self._kind = url, kind

    def shop(self, stopped: threading.Event) -> None:
        """Add one after another."""
        client: Client | None = None
        while not stopped.is_set():
            try:
                client = client or Client(self._url)
                response = client.add(self.user_id)
                closes = not self._kind.keeps or response.headers["Connection"] == "close"
                if response.status == 200:
                    self.accepted += 1
                else:
                    self.failed.append(f"{response.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                closes = True
            if closes and client is not None:
                client.connection.close()
                client = None
            stopped.wait(self._kind.pause_s)
        if client is not None:
            client.connection.close()


def restart_in_turn(servers: Iterable[Server], balanced: Balancer) -> None:
    """Restart one server after another, each once the others are ready.

    By itself, each closes its port after the drain, and ends in order.
    """
    ports = [server.port for server in servers]
    for server in servers:
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("draining for 1 s")
        assert readiness(server, 1) == UNREADY
        wait_until_refused(server)
        assert server.process.wait(SECONDS) == 0
        server.start()
        balanced.wait_for(*ports)


def test_a_rolling_restart_loses_no_request() -> None:
    """Two servers behind a balancer that polls /readyz, with clients of each kind: no failure, and exact carts."""
    settings = {"CARTSVC_DRAIN": "1", "WEB_CONCURRENCY": "1"} | ROOM
    stopped = threading.Event()
    with valkey() as store, ExitStack() as stack:
        servers = [stack.enter_context(serve(CARTSVC_STORE_URL=store.url, **settings)) for _ in range(2)]
        balanced = stack.enter_context(balancer(*(server.port for server in servers)))
        balanced.wait_for(*(server.port for server in servers))
        shoppers = [Shopper(balanced.url, kind, number) for kind in KINDS for number in range(EACH)]
        with ThreadPoolExecutor(len(shoppers)) as pool:
            working = [pool.submit(shopper.shop, stopped) for shopper in shoppers]
            try:
                restart_in_turn(servers, balanced)
            finally:
                stopped.set()
            for each in working:
                each.result()
        assert [(shopper.user_id, shopper.failed) for shopper in shoppers if shopper.failed] == []
        assert min(shopper.accepted for shopper in shoppers) > 10
        with Client(servers[0].url) as client:
            totals = {
                each.user_id: client.call("GET", f"/cart/{each.user_id}").body["total_quantity"] for each in shoppers
            }
        assert totals == {shopper.user_id: shopper.accepted for shopper in shoppers}
