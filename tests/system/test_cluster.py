"""The real server on a Valkey cluster whose primary is killed under load: it recovers, and says what was lost."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import count
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.http_clients import Persistent
from tests.support.servers import serve
from tests.support.valkeys import cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("soak_round")

CLIENTS = 8
EACH = 10  # adds to one cart, each with a key: fewer than a cart remembers
TROUBLES = {(503, f"urn:cartsvc:problem:{slug}", "1") for slug in ("store-unavailable", "outcome-unknown")}


class Add(NamedTuple):
    """One add of a client."""

    user_id: str
    key: str
    began: float  # by the monotonic clock

    def send(self, client: Persistent) -> bool:
        """Send it until it is accepted; whether it was there already."""
        path = f"/cart/{self.user_id}"
        response = client.call("POST", path, {"product_id": "sku-1", "quantity": 1}, Idempotency_Key=self.key)
        assert response.status == 200
        return response.headers["Idempotency-Replayed"] == "true"


def adds(number: int) -> Iterator[Add]:
    """What one client adds: so many to a cart, then to the next one."""
    for each in count():
        yield Add(f"cart-{number}-{each // EACH}", f"key-{each}", time.monotonic())


def test_a_failover_takes_the_last_moments_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody sees anything but a 503, whole changes are lost or none, and sending them again brings all back once.

    An add goes with its key: what the failover took is applied when it is sent again, all else is answered from memory.
    How many it took is reported: the replica is stopped for a moment, so that there are some. What was sent after the
    primary had died, and accepted, is there.
    """
    over = Event()
    with cluster(replicas=1) as nodes, ThreadPoolExecutor(CLIENTS) as pool:
        url = "valkey+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:3])
        with serve(CARTSVC_STORE_URL=url, WEB_CONCURRENCY="2") as server, ExitStack() as stack:
            clients = [stack.enter_context(closing(Persistent(server.url))) for _ in range(CLIENTS)]
            accepted: list[list[Add]] = [[] for _ in clients]

            def work(number: int) -> None:
                for add in adds(number):
                    if over.is_set():
                        return
                    add.send(clients[number])
                    accepted[number].append(add)

            def wait_for_more(adds: int) -> None:
                goals = [len(each) + adds for each in accepted]
                while any(len(each) < goal for each, goal in zip(accepted, goals, strict=True)):
                    assert not any(worker.done() for worker in working), [worker.exception(0) for worker in working]
                    time.sleep(0.01)

            working = [pool.submit(work, number) for number in range(CLIENTS)]
            try:
                wait_for_more(EACH)
                nodes[3].pause()
                with nodes[0].client() as admin:  # or what was sent waits for the replica in a buffer
                    admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
                wait_for_more(EACH)
                nodes[0].kill()
                killed_at = time.monotonic()
                nodes[3].resume()
                nodes[3].wait_until(lambda client: client.info("replication")["role"] == "master")
                promoted_at = time.monotonic()
                wait_for_more(EACH)
            finally:
                over.set()
            for worker in working:
                worker.result()
            everything = [add for each in accepted for add in each]
            met = sum((client.met for client in clients), Counter())
            assert set(met) <= TROUBLES
            assert met

            def send_again(number: int) -> list[Add]:
                return [add for add in accepted[number] if not add.send(clients[number])]

            lost = [add for each in pool.map(send_again, range(CLIENTS)) for add in each]
            assert lost
            assert [add for add in lost if add.began > killed_at] == []
            for user_id in {add.user_id for add in everything}:
                cart = clients[0].call("GET", f"/cart/{user_id}").body
                assert cart["total_quantity"] == sum(add.user_id == user_id for add in everything)
            with capsys.disabled():
                print(  # noqa: T201 - a report is what it is for
                    f"\nfailover behind the server: {promoted_at - killed_at:.1f} s until the replica took over, "
                    f"{met.total()} answers 503; of {len(everything)} acknowledged adds {len(lost)} were lost"
                )
