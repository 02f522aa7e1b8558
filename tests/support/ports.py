"""Free ports for the servers that tests start."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a free port; the port of the cluster bus, 10,000 above, is free too."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port + 10_000 > 65_535:
                continue
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port
