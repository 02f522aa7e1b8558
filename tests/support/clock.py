"""A clock that tests set."""

from __future__ import annotations


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
