"""The real server on Valkey with sentinels: the primary is killed under load, and the service follows."""

from __future__ import annotations

import pytest

from tests.support.load import AWAY, UNKNOWN, Load, adds_unchecked, stored
from tests.support.servers import serve
from tests.support.valkeys import watched_pair


@pytest.mark.usefixtures("soak_round")
def test_service_follows_the_sentinels() -> None:
    """Clients meet nothing but a 503 until the replica is promoted; adds after that are stored, each once.

    The failover may lose the last adds before it, because replication is asynchronous.
    """
    with (
        watched_pair() as watched,
        serve(CARTSVC_STORE_URL=watched.url, CARTSVC_STORE_TIMEOUT="0.5", WEB_CONCURRENCY="2") as server,
    ):
        load = Load(server.url, adds_unchecked)
        with load():
            load.wait_for(50)
            watched.primary.kill()
            load.wait_to_meet(AWAY)
            watched.replica.wait_until(lambda client: client.info("replication")["role"] == "master")
            before = {each[-1] for each in load.accepted if each}
            load.wait_for(100)

        assert load.met().keys() <= {AWAY, UNKNOWN}
        carts = load.carts()
        found = stored(server.url, carts)
        assert all(found[user_id].items() <= cart.items() for user_id, cart in carts.items())
        last = {each[-1] for each in load.accepted}
        assert not last & before
        assert all(found[user_id][product] == 1 for user_id, product in last)
