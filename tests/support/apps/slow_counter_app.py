"""cartsvc that waits long for its shared rate counter, so that a busy machine makes no count wrong."""

from __future__ import annotations

from cartsvc import create_app

app = create_app(counter_timeout=20)
