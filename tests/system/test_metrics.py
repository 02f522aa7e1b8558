"""The metrics of the real server: right for all workers while they are killed, recycled, reloaded and added."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.http_clients import SECONDS, Client
from tests.support.load import ROOM
from tests.support.metric_names import COUNT, NAMES
from tests.support.ports import free_port
from tests.support.raw_http import exchange
from tests.support.scrapes import scrape, scrape_until
from tests.support.servers import run, serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.scrapes import Scrape
    from tests.support.servers import Server
    from tests.support.valkeys import Valkey

CLASSES = pytest.mark.parametrize("environment", [{}, {"CARTSVC_THREADS": "4"}], ids=["gevent", "threads"])
CLIENTS = 4
PAUSE_S = 0.03  # of a client after each response
CALLS = "db_client_operation_duration_seconds_count"
SKU = {"product_id": "sku-1", "quantity": 1}


@contextmanager
def measured(*arguments: str, **environment: str) -> Iterator[tuple[Server, int]]:
    """Run a server of two workers with a port for metrics."""
    port = free_port()
    settings = {"WEB_CONCURRENCY": "2", "CARTSVC_METRICS_PORT": str(port)} | environment
    with serve(*arguments, **settings) as server:
        yield server, port


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Server, int]]:
    """Return a server of one worker with little room for carts."""
    with measured(WEB_CONCURRENCY="1", CARTSVC_MEMORY_LIMIT=str(2**20)) as running:
        yield running


@pytest.fixture(scope="module")
def on_valkey() -> Iterator[tuple[Valkey, Server, int]]:
    """Return a store, which a test may stop and starts again, and a server on it."""
    with valkey() as store, measured(CARTSVC_STORE_URL=store.url, CARTSVC_STORE_TIMEOUT="30") as (server, port):
        yield store, server, port


class Load(NamedTuple):
    """What the clients have seen: responses, and requests that got none."""

    answered: int
    lost: int


def under_load(server: Server, act: Callable[[], None]) -> Load:
    """Let clients add to carts, one request shortly after another, while ``act`` runs.

    Each opens a new connection for every fifth request, so that new workers get requests too.
    """
    stop, started = threading.Event(), threading.Barrier(CLIENTS + 1)

    def shop(number: int) -> Load:
        answered = lost = 0
        client = Client(server.url)
        client.add(f"user-{number}")
        answered += 1
        started.wait(SECONDS)
        while not stop.wait(PAUSE_S):
            try:
                response = client.add(f"user-{number}")
                assert response.status == 200
                answered += 1
                closed = response.headers["Connection"] == "close" or answered % 5 == 0
            except (OSError, http.client.HTTPException):
                lost += 1
                closed = True
            if closed:
                client.connection.close()
                client = Client(server.url)
        client.connection.close()
        return Load(answered, lost)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(shop, number) for number in range(CLIENTS)]
        try:
            started.wait(SECONDS)
            act()
        finally:
            stop.set()
        seen = [client.result() for client in clients]
    return Load(sum(each.answered for each in seen), sum(each.lost for each in seen))


def adds(page: Scrape) -> float:
    """Return how many adds were counted."""
    return page.total(COUNT, http_route="/cart/{user_id}", http_request_method="POST")


def counted(port: int) -> float:
    """Return how many adds are counted now."""
    return adds(scrape(port))


def busy(port: int) -> Callable[[], None]:
    """Return a function that returns once 20 more adds were counted."""

    def wait() -> None:
        before = counted(port)
        scrape_until(port, lambda page: adds(page) >= before + 20)

    return wait


# ---- names ----


def test_every_metric_is_there_with_its_labels() -> None:
    """After requests of each kind; problems, merges and statuses have the values that the requests had."""
    with measured(CARTSVC_RATE_LIMIT="7/minute", WEB_CONCURRENCY="1") as (server, port):
        with Client(server.url) as client:
            client.call("POST", "/cart/alice", SKU, Idempotency_Key="k")
            client.call("POST", "/cart/alice", SKU, Idempotency_Key="k")
            client.call("POST", "/cart/alice/merge", {"from_user_id": "bob"}, Idempotency_Key="m")
            client.call("POST", "/cart/alice/merge", {"from_user_id": "bob"}, Idempotency_Key="m")
            client.call("POST", "/cart/alice/merge", {"from_user_id": "alice"})
            client.call("DELETE", "/cart/nobody")
            client.call("BREW", "/nowhere")
            while client.call("GET", "/cart/alice").status != 429:
                pass
        page = scrape(port)
        assert {name: page.labels(name) for name in NAMES} == {name: {labels} for name, labels in NAMES.items()}
        others = {family.name for family in page.families} - {
            re.sub("_(total|count|bucket)$", "", name) for name in NAMES
        }
        assert others == set()
        assert page.values("cartsvc_problems_total", "type") == {
            *("invalid-request", "cart-not-found", "not-found", "too-many-requests"),
        }
        merges = {result: page.total("cartsvc_merges_total", result=result) for result in ("merged", "replayed")}
        assert merges == {"merged": 1, "replayed": 1}
        assert page.total("cartsvc_merges_total", result="invalid-request") == 1
        assert page.total("cartsvc_idempotent_replays_total") == 2
        assert page.total("cartsvc_rate_limited_total") == 1
        assert page.total(COUNT, http_request_method="_OTHER", http_route="") == 1
        assert page.total("cartsvc_build_info", store="memory") == 1
        assert page.values(CALLS, "db_system_name") == {"memory"}
        assert page.total("cartsvc_store_records") == 1
        assert 0 < page.total("cartsvc_store_used_bytes") < page.total("cartsvc_store_limit_bytes")
        assert page.total("http_server_active_requests") == 0


def test_the_table_of_metrics_has_every_metric() -> None:
    """docs/observability.md lists each name with its labels, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `((?:http|db|cartsvc)_\w+)` \| (\w+) \| (.*?) ?\| ", page, re.MULTILINE)
    listed = {
        f"{name}_count" if kind == "histogram" else name: sorted(re.findall(r"`(\w+)`", labels))
        for name, kind, labels in rows
    }
    assert listed == {name: sorted(labels) for name, labels in NAMES.items() if not name.endswith("_bucket")}
    assert len(rows) == len(listed)


# ---- counts ----


def test_recycled_workers_lose_no_count() -> None:
    """Each response that a client has received was counted once, through six workers."""
    often = ("--max-requests", "20", "--max-requests-jitter", "10")
    with measured(*often, **ROOM) as (server, port):
        load = under_load(server, lambda: server.wait_for_boots(6))
        assert (counted(port), load.lost) == (load.answered, 0)
        starts = scrape(port)
        assert starts.total("cartsvc_worker_starts_total", reason="recycled") >= 4
        assert starts.total("cartsvc_worker_starts_total", reason="boot") == 2
        assert starts.total("cartsvc_worker_starts_total", reason="killed") == 0


@CLASSES
def test_reloaded_added_and_killed_workers_lose_no_count(environment: dict[str, str]) -> None:
    """HUP, where old and new workers overlap, TTIN, TTOU and SIGKILL.

    What was answered was counted. A request that a killed worker had counted and not answered is one more.
    """

    def reload() -> None:
        for number, boots, workers in ((signal.SIGHUP, 4, 2), (signal.SIGTTIN, 5, 3), (signal.SIGTTOU, 5, 2)):
            server.process.send_signal(number)
            server.wait_for_boots(boots)
            server.wait_for_workers(workers)
            busy(port)()

    def kill() -> None:
        for boots in (6, 7, 8):
            busy(port)()
            os.kill(server.workers()[boots % 2], signal.SIGKILL)
            server.wait_for_boots(boots)

    with measured(**ROOM, **environment) as (server, port):
        server.wait_for_boots(2)
        load = under_load(server, reload)
        before = counted(port)
        assert (before, load.lost) == (load.answered, 0)
        load = under_load(server, kill)
        page = scrape(port)
        assert load.answered <= adds(page) - before <= load.answered + load.lost
        assert page.total("cartsvc_worker_starts_total", reason="killed") == 3
        assert page.total("http_server_active_requests") == 0


def test_a_killed_worker_serves_no_requests_any_more(on_valkey: tuple[Valkey, Server, int]) -> None:
    """Those that it was serving do not count as active."""
    store, server, port = on_valkey
    server.wait_for_workers(2)
    waiting = Client(server.url)
    waiting.call("GET", "/cart/alice")
    store.pause()
    waiting.send("GET", "/cart/alice")
    for boots, pid in enumerate(server.workers(), start=3):
        os.kill(pid, signal.SIGKILL)
        server.wait_for_boots(boots)
    store.resume()
    waiting.connection.close()
    scrape_until(port, lambda page: page.total("http_server_active_requests") == 0)


def test_a_new_server_continues_the_counts() -> None:
    """The one that a USR2 signal starts, while the first still runs and after it."""
    with measured(**ROOM) as (server, port):
        before = under_load(server, busy(port))
        directory = directory_of(server)
        server.process.send_signal(signal.SIGUSR2)
        server.wait_for_boots(4)
        second = int(re.findall(r"\[(\d+)\] \[INFO\] Listening at", server.log())[-1])
        during = under_load(server, busy(port))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        after = under_load(server, busy(port))
        assert counted(port) == sum(load.answered for load in (before, during, after))
        os.kill(second, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS
        while directory.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


# ---- the store ----


def visit(client: Client, number: int) -> set[str]:
    """Send four reads, three writes, a replay and a failed delete, and return the ids of these requests."""
    user_id, item = f"user-{number}", {**SKU, "unit_price": 1999, "currency": "EUR"}
    responses = [client.call("GET", f"/cart/{user_id}") for _ in range(3)]
    responses += [client.call("POST", f"/cart/{user_id}", item, Idempotency_Key=key) for key in ("a", "b", "b")]
    responses.append(client.call("PATCH", f"/cart/{user_id}/items/sku-1", {"quantity": 5}))
    responses.append(client.call("GET", f"/cart/{user_id}/items/sku-1"))
    responses.append(client.call("DELETE", f"/cart/{user_id}-absent"))
    assert [each.status for each in responses] == [*[200] * 8, 404]
    return {each.headers["X-Request-ID"] for each in responses}


@pytest.mark.parametrize("store_url", ["lmdb", "valkey", "postgresql"], indirect=True)
def test_every_store_is_counted_exactly(store_url: str) -> None:
    """Two workers count what clients have counted, and log the ids that the clients have received, each once."""
    kind = store_url.partition(":")[0]
    logging = {"CARTSVC_LOG_FORMAT": "json", "CARTSVC_ACCESS_LOG": "all"}
    with measured(CARTSVC_STORE_URL=store_url, **logging) as (server, port):
        server.wait_for_workers(2)
        ids: set[str] = set()
        visits, served_by, deadline = 0, set[int](), time.monotonic() + SECONDS
        while len(served_by) < 2:  # a new connection may get either worker
            assert time.monotonic() < deadline
            with Client(server.url) as client:
                ids |= visit(client, visits)
            visits += 1
            lines = [json.loads(line) for line in server.log().splitlines()]
            served_by = {line["worker_pid"] for line in lines if line.get("http.route", "").startswith("/cart")}
        assert served_by == set(server.workers())
        logged = [line["request_id"] for line in lines if line.get("http.route", "").startswith("/cart")]
        assert (len(logged), set(logged)) == (9 * visits, ids)

        page = scrape(port)
        route, of_item = "/cart/{user_id}", "/cart/{user_id}/items/{item_id}"
        requests = {
            key: page.total(COUNT, http_route=key[0], http_request_method=key[1], http_response_status_code=key[2])
            for key in (
                *((route, "GET", "200"), (route, "POST", "200"), (route, "DELETE", "404")),
                *((of_item, "GET", "200"), (of_item, "PATCH", "200")),
            )
        }
        assert list(requests.values()) == [3 * visits, 3 * visits, visits, visits, visits]
        calls = {name: page.total(CALLS, db_operation_name=name, db_system_name=kind) for name in ("get", "update")}
        assert calls == {"get": 4 * visits, "update": 5 * visits}
        assert page.total(CALLS) == 9 * visits
        assert page.total("cartsvc_idempotent_replays_total") == visits
        assert page.total("cartsvc_problems_total", type="cart-not-found") == visits
        assert page.total("cartsvc_store_conflicts_total") == 0
        assert (page.total("cartsvc_store_up"), page.total("cartsvc_store_full")) == (1, 0)
        is_counted = kind in {"memory", "lmdb"}  # elsewhere, carts share their server with other data
        assert page.labels("cartsvc_store_records") == ({()} if is_counted else set())
        assert page.total("cartsvc_store_records") == (visits if is_counted else 0)
        assert (0 < page.total("cartsvc_store_used_bytes") < page.total("cartsvc_store_limit_bytes")) == is_counted


def test_the_state_of_the_store(on_valkey: tuple[Valkey, Server, int]) -> None:
    """A server that does not respond, and calls that failed with the class of their error."""
    store, server, port = on_valkey
    with Client(server.url) as client:
        assert scrape(port).total("cartsvc_store_up") == 1
        store.kill()
        assert client.call("GET", "/cart/alice").status == 503
        page = scrape(port)
        assert page.labels("cartsvc_store_up") == {()}
        assert page.total("cartsvc_store_up") == 0
        assert page.labels("cartsvc_store_full") == set()
        calls = {"db_system_name": "valkey", "db_operation_name": "get", "error_type": "StoreError"}
        assert page.total(CALLS, **calls) == 1
        store.start()


def test_a_full_store(small: tuple[Server, int]) -> None:
    """It responds, and is full."""
    server, port = small
    items = [{**SKU, "product_id": f"sku-{number}", "metadata": {"note": "n" * 90}} for number in range(100)]
    with Client(server.url) as client:
        number = 0
        while client.call("PUT", f"/cart/user-{number}", {"items": items}).status != 507:
            number += 1
        page = scrape(port)
        assert (page.total("cartsvc_store_up"), page.total("cartsvc_store_full")) == (1, 1)
        assert page.total("cartsvc_store_records") == number


# ---- the port ----


def test_the_two_ports_are_apart(small: tuple[Server, int]) -> None:
    """No header leads from the port of the carts to the metrics, or back; the metrics' own requests are not counted."""
    server, port = small
    before = scrape(port).total(COUNT)
    there = f"127.0.0.1:{port}"
    for target, host in (("/metrics", there), (f"http://{there}/metrics", there), ("/metrics", f"x:{port}")):
        (response,) = exchange(server, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert response.status == 404
        assert b"urn:cartsvc:problem:not-found" in response.body
    with Client(f"http://{there}") as client:
        for method, path, status in (
            ("GET", "/cart/alice", 404),
            ("GET", "/healthz", 404),
            ("POST", "/metrics", 405),
            ("HEAD", "/metrics", 200),
        ):
            client.send(method, path)
            response = client.connection.getresponse()
            response.read()
            assert response.status == status
    assert scrape(port).total(COUNT) == before + 3


def test_a_listener_of_another_kind_is_rejected(tmp_path: Path) -> None:
    """With --bind there is no port for the metrics."""
    ended = run("--bind", f"unix:{tmp_path}/socket", CARTSVC_METRICS_PORT=str(free_port()))
    assert ended.returncode == 1
    assert "cartsvc cannot start: with --bind there is no listener for CARTSVC_METRICS_PORT." in ended.output


# ---- files ----


def directories() -> set[Path]:
    """Return the directories of metrics on this machine."""
    return set(Path("/dev/shm").glob("cartsvc-metrics-*"))  # noqa: S108 - only read


def directory_of(server: Server) -> Path:
    """Return the directory of this server's metrics."""
    (found,) = (each for each in directories() if list(each.glob(f"*_{server.pid}-*.db")))
    return found


def test_the_files_end_with_the_server() -> None:
    """Those of a killed server are removed by the next start."""
    with measured(WEB_CONCURRENCY="1") as (server, _):
        killed = directory_of(server)
        server.kill()
        server.start()
        assert not killed.exists()
        stopped = directory_of(server)
    assert not stopped.exists()


def test_without_a_port_there_are_no_metrics() -> None:
    """No file is made, and gunicorn serves one port."""
    with serve(WEB_CONCURRENCY="1") as server:
        assert [each for each in directories() if list(each.glob(f"*_{server.pid}-*.db"))] == []
        assert re.findall(r"Listening at: (\S+)", server.log()) == [f"http://0.0.0.0:{server.port}"]
