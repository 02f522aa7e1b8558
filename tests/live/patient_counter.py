"""cartsvc that waits long to be told how often a caller was there, so that a busy machine makes no count wrong."""

from __future__ import annotations

from cartsvc import app as wiring
from cartsvc import create_app

wiring._COUNTER_SECONDS = 20  # noqa: SLF001 - no setting
app = create_app()
