"""memory:// with the real server: its carts end with the server, and with nothing before it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.flask_cli import flask
from tests.support.http_clients import SECONDS, Client
from tests.support.servers import run, serve

if TYPE_CHECKING:
    from tests.support.servers import Server


def directory_of(server: Server) -> Path:
    """Return where the server keeps its carts since its last start, as its log shows it."""
    return Path(re.findall(r"store memory://(/\S+) \(", server.log())[-1])


def quantity(server: Server) -> int:
    """Return the quantity in alice's cart, which each worker must return alike."""
    found = set()
    for _ in range(8):
        with Client(server.url) as client:
            found.add(client.call("GET", "/cart/alice").body["total_quantity"])
    (total,) = found
    return int(total)


def add(server: Server) -> None:
    with Client(server.url) as client:
        assert client.add("alice").status == 200


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGQUIT])
def test_the_files_end_with_the_server(stop: signal.Signals) -> None:
    """By these signals too; the other tests stop it by SIGTERM."""
    with serve(WEB_CONCURRENCY="1") as server:
        add(server)
        directory = directory_of(server)
        assert (directory / "data.mdb").exists()
        server.process.send_signal(stop)
        assert server.process.wait(SECONDS) == 0
    assert not directory.exists()


def test_the_files_end_with_a_start_that_fails() -> None:
    """A certificate is missing, which turns out after the directory was created."""
    ended = run("--certfile", "absent.pem")
    assert ended.returncode == 1
    (path,) = re.findall(r"store memory://(/\S+) \(", ended.output)
    assert not Path(path).exists()


def test_carts_survive_a_reload() -> None:
    """HUP replaces all workers; the files end with the server."""
    with serve(WEB_CONCURRENCY="2") as server:
        server.wait_for_workers(2)
        directory = directory_of(server)
        for total in (1, 2):
            add(server)
            assert quantity(server) == total
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_boots(2 + 2 * total)
            server.wait_for_workers(2)
        assert quantity(server) == 2
        assert directory.exists()
    assert not directory.exists()


def start_second(server: Server) -> int:
    """Let USR2 start a new gunicorn beside the old one; return its process id once it has started its workers."""
    boots = server.log().count("Booting worker")
    server.process.send_signal(signal.SIGUSR2)
    server.wait_for_boots(boots + 2)
    return int(re.findall(r"\[(\d+)\] \[INFO\] Listening at", server.log())[-1])


def test_carts_survive_a_second_server() -> None:
    """The operator stops a new server, and the old one goes on. The next one takes over: the files end with it."""
    with serve(WEB_CONCURRENCY="2") as server:
        add(server)
        directory = directory_of(server)
        second = start_second(server)
        os.kill(second, signal.SIGTERM)
        server.wait_until(lambda: not Path(f"/proc/{second}").exists())
        add(server)
        assert quantity(server) == 2
        third = start_second(server)
        add(server)
        assert quantity(server) == 3
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        add(server)
        assert quantity(server) == 4
        assert directory_of(server) == directory
        os.kill(third, signal.SIGTERM)
        server.wait_until(lambda: not directory.exists())


def test_what_a_killed_server_left_is_removed() -> None:
    """By the next start if all its processes are killed at once; otherwise by the last of its workers."""
    with serve(WEB_CONCURRENCY="2") as server:
        add(server)
        left = directory_of(server)
        server.kill()
        server.start()
        assert not left.exists()
        assert quantity(server) == 0
        server.wait_for_workers(2)
        directory = directory_of(server)
        assert directory.exists()
        server.process.kill()
        server.process.wait(SECONDS)
        server.wait_until(lambda: not directory.exists())
        server.start()


def test_two_servers_never_share() -> None:
    """Not by chance, and not on purpose."""
    alone = {"WEB_CONCURRENCY": "1"}
    with serve(**alone) as first, serve(**alone) as second:
        add(first)
        assert directory_of(first) != directory_of(second)
        assert (quantity(first), quantity(second)) == (1, 0)
        ended = run(CARTSVC_STORE_URL=f"memory://{directory_of(first)}")
        assert ended.returncode == 1
        assert "has the carts of another server. Set memory:// instead." in ended.output


def test_full_memory_is_a_full_store() -> None:
    """507, and nothing else fails: carts can be read and removed, and the workers live."""
    with serve(CARTSVC_MEMORY_LIMIT=str(2**20), WEB_CONCURRENCY="2") as server, Client(server.url) as client:
        server.wait_for_workers(2)
        workers, number = server.workers(), 0
        items = {"items": [{"product_id": f"sku-{n:0100}", "quantity": 1} for n in range(100)]}
        while (status := client.call("PUT", f"/cart/user-{number}", items).status) == 201:
            number += 1
        assert status == 507
        assert number > 10
        assert client.call("GET", "/readyz").body == {"status": "ok", "writes": "full"}
        for each in range(number):
            assert client.call("GET", f"/cart/user-{each}").body["item_count"] == 100
            assert client.call("DELETE", f"/cart/user-{each}").status == 204
        assert client.call("PUT", "/cart/user-0", items).status == 201
        assert server.workers() == workers


def test_commands_work_beside_the_server() -> None:
    """By the URL in its log, or by memory:// if it is the only server of its user."""
    with serve(WEB_CONCURRENCY="1") as server:
        add(server)
        url = f"memory://{directory_of(server)}"
        exported = flask("export", url=url)
        assert json.loads(exported.stdout)["user_id"] == "alice"
        assert json.loads(flask("stats", url=url).stdout)["carts"] == 1
        assert flask("purge", "--user", "alice", "--yes", url=url).returncode == 0
        assert quantity(server) == 0
        assert flask("import", url=url, stdin=exported.stdout).returncode == 0
        assert quantity(server) == 1
        assert directory_of(server).exists()
    gone = flask("stats", url=url)
    assert (gone.returncode, gone.stdout) == (1, b"")
    assert b"its server has stopped" in gone.stderr
    assert b"Traceback" not in gone.stderr
