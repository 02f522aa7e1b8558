"""Free ports for the servers that tests start."""

from __future__ import annotations

import os
import socket
from itertools import cycle, islice

# Linux gives ports from 32,768 on to outgoing connections, and Chromium opens no page on port 10,080.
_FIRST, _PORTS, _PROCESSES = 11_000, 9_000, 16
_BUS = 10_000  # between the port of a node of a Valkey cluster and that of its bus
# Each process of a run has ports of its own. Two that find one port free at the same moment would start two servers on
# it, and the tests of one would send their requests to the other.
_SHARE = _PORTS // _PROCESSES
_START = _FIRST + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES * _SHARE
_own = cycle(range(_START, _START + _SHARE))


def free_port() -> int:
    """Return a free port; the port of the cluster bus, 10,000 above, is free too."""
    return next(port for port in islice(_own, _SHARE) if _is_free(port) and _is_free(port + _BUS))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
