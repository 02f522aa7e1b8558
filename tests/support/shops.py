"""A server for generated clients, without and with authentication."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import jwt

from tests.support.documents import WITH_AUTH, Document
from tests.support.servers import serve
from tests.support.tokens import GUEST_SECRET, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator


class Shop(NamedTuple):
    """A running server, and alice's token if the server needs one."""

    url: str
    token: str | None


@contextmanager
def shop(document: Document) -> Iterator[Shop]:
    """Serve the API that the document describes."""
    if document is not WITH_AUTH:
        with serve(WEB_CONCURRENCY="1") as server:
            yield Shop(server.url, None)
        return
    token = jwt.encode({"sub": "alice", "exp": int(time.time()) + 600}, SECRET, "HS256")
    keys = {"CARTSVC_JWT_KEY": SECRET, "CARTSVC_GUEST_KEY": GUEST_SECRET}
    with serve(WEB_CONCURRENCY="1", CARTSVC_AUTH="jwt", **keys) as server:
        yield Shop(server.url, token)
