"""Test that each request of the Valkey store ends in time, and what is known when a response is lost."""

# ruff: noqa: SLF001 - a command is stopped on its way, and a name made to lead elsewhere

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.validation import NewItem
from cartsvc.errors import OutcomeUnknown
from cartsvc.stores import valkey as module
from tests.support.clock import real_now
from tests.support.deadline_contract import DeadlineContract, Stage
from tests.support.records import adding
from tests.support.server_store import (
    LOST,
    TIME,
    quantity,
)
from tests.support.services import make_service
from tests.support.valkey_store import WRITE, opened, url_of
from tests.support.valkeys import eventually

if TYPE_CHECKING:
    from tests.support.proxy import Fate, Proxy
    from tests.support.valkeys import Valkey


class TestValkeyDeadlines(DeadlineContract):
    """The contract, held by the Valkey store."""

    MODULE = module
    READ = "GET"
    ADD = PROBE = WRITE

    @pytest.fixture
    def stage(self, server: Valkey, between: Proxy) -> Stage:
        """Return the server and the proxy."""
        return Stage(server, server.url, between, url_of(between), opened)


# ---- lost responses ----


@LOST
def test_write_without_a_response_is_sent_once(between: Proxy, fate: Fate, *, done: bool) -> None:
    """Applied or not, the write is not sent again, and the store goes on."""
    with opened(url_of(between), timeout=TIME) as store:
        store.ping()
        between.names()
        between.once(WRITE, fate)
        with pytest.raises(OutcomeUnknown):
            store.update("u", adding(real_now))
        assert between.names() == ["GET", WRITE]
        assert quantity(store) == int(done)
        assert store.update("u", adding(real_now)) == int(done) + 1


@pytest.mark.usefixtures("admin")
def test_write_to_a_paused_server_is_in_doubt(server: Valkey) -> None:
    """The server may apply it once it goes on; a retry with its key adds nothing."""
    conditions = WriteConditions(b"key", b"request")
    with opened(server.url, timeout=TIME) as store:
        service = make_service(store, real_now)
        send, sent = store._client.execute_command, []

        def pausing(*command: Any, **options: Any) -> Any:
            if command[0] == WRITE and not sent:
                sent.append(command)
                server.pause()
            return send(*command, **options)

        store.ping()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store._client, "execute_command", pausing)
                with pytest.raises(OutcomeUnknown):
                    service.add("u", [NewItem("p", 1)], conditions=conditions)
        finally:
            server.resume()
        eventually(lambda: service.add("u", [NewItem("p", 1)], conditions=conditions))
        assert quantity(store) == 1
