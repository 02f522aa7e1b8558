"""The clock that tests turn by hand."""

from __future__ import annotations


class FakeClock:
    """Tells milliseconds since the epoch, always the same ones until it is advanced."""

    def __init__(self, now: int = 1_767_323_045_678) -> None:
        self.now = now

    def __call__(self) -> int:
        """The time it is."""
        return self.now

    def advance(self, milliseconds: int) -> None:
        """Let this time pass."""
        self.now += milliseconds
