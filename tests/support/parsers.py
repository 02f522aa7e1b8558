"""gunicorn's parsers of request heads: which are installed, and how to start a server with one of them.

The C parser is optional. Tests of malformed requests run with both parsers; without the C parser, the summary of the
test run contains a line on that, and .ci/run fails.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.servers import Server

C_PARSER = find_spec("gunicorn_h1c") is not None
PARSERS = ("C", "Python") if C_PARSER else ("Python",)  # gunicorn's choice first


def with_parser(parser: str) -> tuple[str, str]:
    """Return the arguments with which gunicorn uses this parser."""
    return "--http-parser", {"C": "fast", "Python": "python"}[parser]


def parser_of(server: Server) -> str:
    """Return the parser that the start line of a server names."""
    (named,) = re.findall(r"\((\w+) parser\)", server.log())
    return str(named)
