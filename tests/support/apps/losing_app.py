"""cartsvc that loses some writes, and applies retries again."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from cartsvc import create_app
from cartsvc.carts.store import WrappedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import T

_ONE_IN = 10  # writes


class LosingStore(WrappedStore):
    """Acknowledges some writes without storing them."""

    _writes = count(1)

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Write, or pretend to."""
        if next(self._writes) % _ONE_IN:
            return self.inner.update(user_id, change)
        return self.inner.update(user_id, lambda record: (record, change(record)[1]))


_app = create_app(wrap_store=LosingStore)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Drop the key of every request, as a proxy does that does not know it."""
    environ.pop("HTTP_IDEMPOTENCY_KEY", None)
    return _app(environ, start_response)
