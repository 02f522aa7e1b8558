"""The calls of one request to a server: their common deadline, and whether one of their writes is in doubt."""

from __future__ import annotations

import time
from contextvars import ContextVar


class Operation:
    """The calls of one request to the store: their deadline, and whether one of their writes is in doubt."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline  # by the monotonic clock
        self.in_doubt = False  # whether a write was sent whose response has not arrived

    def remaining(self) -> float:
        """Return the seconds until the deadline, or 0 after it."""
        return max(0.0, self._deadline - time.monotonic())


current_operation: ContextVar[Operation | None] = ContextVar("current_operation", default=None)


def seconds_left() -> float:
    """Return the remaining seconds of the current operation, more than 0. Raises TimeoutError after its deadline."""
    operation = current_operation.get()
    seconds = operation.remaining() if operation is not None else 0.0
    if not seconds:
        raise TimeoutError("no time is left for this request")
    return seconds


def set_in_doubt(*, in_doubt: bool) -> None:
    """Record whether a write of the current operation is in doubt."""
    operation = current_operation.get()
    if operation is not None:
        operation.in_doubt = in_doubt
