"""Drain a server before it stops: it is unready and serves all requests, so that a balancer removes it meanwhile."""

from __future__ import annotations

import mmap
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

# One byte, which gunicorn's first process and all workers share: those that run when it is set, and those forked later.
_shared = mmap.mmap(-1, 1)


def is_draining() -> bool:
    """Return whether the server of this process drains."""
    return _shared[0] != 0


def drain_before_stop(server: Arbiter, seconds: float) -> None:
    """Let SIGTERM drain the server for this time before it stops. A second SIGTERM ends the drain.

    SIGINT and SIGQUIT stop the server at once, as without a drain, and HUP reloads it.
    """
    stop = server.handle_term

    def drain() -> None:
        # USR2: two servers share the port, so /readyz of this one would take the other out of the balancer too.
        shares_port = server.reexec_pid != 0 or server.master_pid != 0
        if shares_port or is_draining():
            stop()  # raises
        _shared[0] = 1
        server.log.info("draining for %g s: /readyz returns 503, and requests are served", seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    # gunicorn's main loop looks up the method of a queued signal by name. It goes on while the server drains, so
    # workers that end are replaced. The timer ends the drain through the same queue.
    server.handle_term, server.handle_alrm = drain, stop
    signal.signal(signal.SIGALRM, server.signal)
