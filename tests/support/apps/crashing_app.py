"""cartsvc in workers that die now and then, as by SIGKILL: just before a write, in the middle of it, or just after."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

from cartsvc import create_app
from cartsvc.carts.store import WrappedStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import T

_ONE_IN = 40  # writes


class MortalStore(WrappedStore):
    """Kills its own process at some writes."""

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Write, and perhaps die of it."""
        fate = random.randrange(3 * _ONE_IN)  # noqa: S311 - not for secrets
        _die_if(fate == 0)

        def mortal_change(record: Record | None) -> tuple[Record | None, T]:
            changed = change(record)
            _die_if(fate == 1)
            return changed

        result = self.inner.update(user_id, mortal_change)
        _die_if(fate == 2)
        return result


def _die_if(due: bool) -> None:  # noqa: FBT001 - reads as a sentence
    if due:
        os.kill(os.getpid(), signal.SIGKILL)


app = create_app(wrap_store=MortalStore)
