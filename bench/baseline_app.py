"""The least WSGI app: the same number of bytes as a cart, and nothing done for them; a body is read and dropped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

SIZE = "BENCH_BYTES"  # the variable that says how long the answer is, so that both apps send the same

_ANSWER = b'{"filler":"%s"}' % (b"x" * (int(os.environ.get(SIZE, "900")) - len('{"filler":""}')))
_HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(_ANSWER)))]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request alike."""
    if environ["REQUEST_METHOD"] == "POST":
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", _HEADERS)
    return [_ANSWER]
