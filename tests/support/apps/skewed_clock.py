"""cartsvc on a server whose clock is CLOCK_OFFSET_MS milliseconds ahead."""

from __future__ import annotations

import os
import time

from cartsvc import create_app

_OFFSET_MS = int(os.environ["CLOCK_OFFSET_MS"])


def clock() -> int:
    """Return the wrong time."""
    return time.time_ns() // 1_000_000 + _OFFSET_MS


app = create_app(clock=clock)
