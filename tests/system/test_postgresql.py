"""The real server on PostgreSQL: slow statements, missing rights, restarts, and failovers that lose nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.http_clients import SECONDS, Client, Persistent
from tests.support.load import (
    AWAY,
    CHANCE,
    UNKNOWN,
    Load,
    adds,
    adds_unchecked,
    check_pauses_and_restarts,
    stored,
)
from tests.support.postgresqls import postgresql
from tests.support.servers import run, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.http_clients import Response
    from tests.support.postgresqls import Postgresql
    from tests.support.servers import Server

TABLE = "cartsvc_records"
WAITS = "FROM pg_stat_activity WHERE application_name = 'cartsvc' AND wait_event = 'SyncRep'"
UNKNOWN_PROBLEM = (503, "urn:cartsvc:problem:outcome-unknown")


# ---- one server ----


@pytest.mark.parametrize("environment", [{}, {"CARTSVC_THREADS": "4"}], ids=["gevent", "threads"])
def test_slow_statement_holds_up_no_other_request(postgresql_server: Postgresql, environment: dict[str, str]) -> None:
    """While a write waits in the server, the only worker serves all others."""
    name = postgresql_server.empty_database()
    url = postgresql_server.url_of(name)
    alone = {"CARTSVC_STORE_URL": url, "CARTSVC_STORE_TIMEOUT": "20", "WEB_CONCURRENCY": "1"}
    with (
        serve(**alone, **environment) as server,
        Client(server.url) as slow,
        Client(server.url) as quick,
        postgresql_server.client(name) as operator,
    ):
        assert slow.add("slow").status == 200
        operator.execute(f"BEGIN; SELECT 1 FROM {TABLE} FOR UPDATE".encode())
        slow.send("POST", "/cart/slow", {"product_id": "sku-1", "quantity": 1})
        waits = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'cartsvc' AND wait_event_type = 'Lock'"
        postgresql_server.wait_until(lambda client: client.execute(waits.encode()).fetchone())
        for total in range(1, 31):
            assert quick.add("quick").body["total_quantity"] == total
            assert quick.call("GET", "/cart/slow").body["total_quantity"] == 1
        assert postgresql_server.ask(waits) == [(1,)]
        operator.execute(b"COMMIT")
        assert slow.answer().body["total_quantity"] == 2


def test_start_without_rights_names_the_command(postgresql_server: Postgresql) -> None:
    """The server does not start, and its log shows what to do."""
    name = postgresql_server.empty_database()
    postgresql_server.ask("CREATE ROLE beginner LOGIN")
    try:
        ended = run(CARTSVC_STORE_URL=postgresql_server.url_of(name, user="beginner"), WEB_CONCURRENCY="1")
    finally:
        postgresql_server.ask("DROP ROLE beginner")
    assert ended.returncode == 3
    assert "permission denied for schema public. Run 'flask --app wsgi carts init'" in ended.output


@pytest.mark.usefixtures("soak_round")
def test_server_that_is_paused_killed_and_restarted_loses_nothing() -> None:
    """Meanwhile the response is 503 with Retry-After; then the service goes on, and each add is stored once."""
    with postgresql() as store:

        def hold_writes(load: Load) -> None:
            with store.client() as operator:
                operator.execute(f"BEGIN; LOCK TABLE {TABLE} IN SHARE MODE".encode())
                load.wait_to_meet(UNKNOWN)

        check_pauses_and_restarts(store, store.url, hold_writes)


# ---- failovers ----


class Pair(NamedTuple):
    """A primary and its standby, and the URL of both."""

    primary: Postgresql
    standby: Postgresql

    @property
    def url(self) -> str:
        """Return the URL with both hosts."""
        return f"postgresql://postgres@127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}/postgres"


@contextmanager
def replicated(*, synchronous: bool) -> Iterator[Pair]:
    """Run a primary with a standby until the block ends; a primary that is synchronous waits for its standby."""
    names = {"synchronous_standby_names": "standby"} if synchronous else {}
    with postgresql(**names, synchronous_commit="on") as primary, postgresql(primary=primary) as standby:
        pair = Pair(primary, standby)
        follows = f"SELECT 1 FROM pg_stat_replication WHERE sync_state = '{'sync' if synchronous else 'async'}'"
        primary.wait_until(lambda client: client.execute(follows.encode()).fetchone())
        yield pair


@contextmanager
def service(pair: Pair) -> Iterator[Server]:
    """Run a service on these servers until the block ends."""
    with serve(CARTSVC_STORE_URL=pair.url, CARTSVC_STORE_TIMEOUT="0.5", WEB_CONCURRENCY="1") as server:
        yield server


@pytest.mark.usefixtures("soak_round")
def test_failover_to_a_synchronous_standby_loses_nothing() -> None:
    """The primary is killed under keyed load from two services, and the standby promoted.

    Both services go on by themselves; each acknowledged add is stored once, and each add in doubt is exact after its
    retry.
    """
    with replicated(synchronous=True) as pair, service(pair) as first, service(pair) as second:
        urls = [first.url, second.url]
        load = Load(urls, adds)
        with load():
            load.wait_for(CHANCE.randrange(20, 200))
            pair.primary.kill()
            load.wait_to_meet(AWAY)
            pair.standby.promote()
            load.wait_for(50)

        assert load.met().keys() <= {AWAY, UNKNOWN}
        for url in urls:
            assert stored(url, load.carts()) == load.carts()


def test_failover_to_an_asynchronous_standby_is_noticed() -> None:
    """Such a load loses adds when a standby is promoted that did not have them: the test above would fail."""
    with replicated(synchronous=False) as pair, service(pair) as server:
        load = Load(server.url, adds_unchecked)
        with load():
            load.wait_for(20)
            pair.standby.stop()
            load.wait_for(50)
            pair.primary.kill()
            pair.standby.start()
            pair.standby.promote()
            load.wait_for(20)

        found = stored(server.url, load.carts())
        expected = load.carts()
        assert found != expected
        assert all(found[user_id].items() <= cart.items() for user_id, cart in expected.items())


# ---- a standby that is missing ----


class Shop(NamedTuple):
    """A service on a primary with a synchronous standby, and a client of it."""

    pair: Pair
    server: Server
    client: Client

    def add(self, number: int) -> Response:
        """Add a product under a key."""
        body = {"product_id": f"sku-{number}", "quantity": 1}
        return self.client.call("POST", "/cart/alice", body, Idempotency_Key=f"key-{number}")

    def products(self) -> list[str]:
        """Return what the cart shows."""
        return [item["product_id"] for item in self.client.call("GET", "/cart/alice").body["items"]]

    def ready(self) -> int:
        """Return the status of the readiness check."""
        return self.client.call("GET", "/readyz").status


@pytest.fixture
def shop() -> Iterator[Shop]:
    """Return a shop with one product in Alice's cart."""
    with replicated(synchronous=True) as pair, service(pair) as server, Client(server.url) as client:
        shop = Shop(pair, server, client)
        assert shop.add(1).status == 200
        assert shop.ready() == 200
        yield shop


def outcome(response: Response) -> tuple[int, str]:
    """Return the status and the kind of problem."""
    return response.status, response.body["type"]


def test_write_without_its_standby_is_not_acknowledged(shop: Shop) -> None:
    """It is in doubt and cannot be seen; once the standby is back, it is applied, and its retry is a replay."""
    shop.pair.standby.stop()
    assert outcome(shop.add(2)) == UNKNOWN_PROBLEM
    assert shop.products() == ["sku-1"]
    assert shop.ready() == 503
    shop.pair.standby.start()
    shop.pair.primary.wait_until(lambda client: not client.execute(f"SELECT 1 {WAITS}".encode()).fetchone())
    repeated = shop.add(2)
    assert (repeated.status, repeated.headers["Idempotency-Replayed"]) == (200, "true")
    assert shop.products() == ["sku-1", "sku-2"]
    assert shop.ready() == 200


def test_write_on_one_server_only_is_not_acknowledged(shop: Shop) -> None:
    """A wait for the standby that is cancelled, cut, or ended by a restart leaves the write on the primary.

    Reads show it there, but neither it nor its retry succeeds. After a failover it is lost, and its retry applies it.
    """
    primary, standby = shop.pair
    numbers = {"pg_cancel_backend": 2, "pg_terminate_backend": 3, "restart": 4}
    standby.stop()
    with ThreadPoolExecutor(1) as pool:
        for function, number in numbers.items():
            adding = pool.submit(shop.add, number)
            primary.wait_until(lambda client: client.execute(f"SELECT 1 {WAITS}".encode()).fetchone())
            if function != "restart":
                primary.ask(f"SELECT {function}(pid) {WAITS}")
            assert outcome(adding.result(SECONDS)) == UNKNOWN_PROBLEM
    primary.kill()
    primary.start(synchronous_standby_names="standby")
    assert shop.products() == ["sku-1", "sku-2", "sku-3", "sku-4"]
    for number in numbers.values():
        assert outcome(shop.add(number)) == UNKNOWN_PROBLEM
    primary.kill()
    standby.start()
    standby.promote()
    with closing(Persistent(shop.server.url)) as client:
        for number in numbers.values():
            body = {"product_id": f"sku-{number}", "quantity": 1}
            applied = client.call("POST", "/cart/alice", body, Idempotency_Key=f"key-{number}")
            assert (applied.status, applied.headers["Idempotency-Replayed"]) == (200, None)
            assert applied.body["total_quantity"] == number
    assert shop.products() == ["sku-1", "sku-2", "sku-3", "sku-4"]
