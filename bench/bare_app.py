"""The smallest WSGI app: a constant response of the size of a cart; the body of a request is read and dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

CART_BYTES = 1_100  # of cartsvc's response with a cart of five items; a test compares it

_RESPONSE = b'{"filler":"%s"}' % (b"x" * (CART_BYTES - len('{"filler":""}')))
_HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(_RESPONSE)))]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Send the same response to every request."""
    if environ["REQUEST_METHOD"] == "POST":
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", _HEADERS)
    return [_RESPONSE]
