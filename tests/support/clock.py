"""The clocks of tests: one that they set, and the real one."""

from __future__ import annotations

import time


class FakeClock:
    """Returns milliseconds since the epoch; the time changes only when it is advanced."""

    def __init__(self, now: int = 1_767_323_045_678) -> None:
        self.now = now

    def __call__(self) -> int:
        """Return the current time."""
        return self.now

    def advance(self, milliseconds: int) -> None:
        """Let this time pass."""
        self.now += milliseconds


def real_now() -> int:
    """Return the real time. A fake clock begins there if a server expires records by its own clock."""
    return time.time_ns() // 1_000_000
