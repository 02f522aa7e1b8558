"""``python -m bench.shoppers``: send simulated shoppers to a cartsvc, and exit with 1 if items were lost or doubled."""

from __future__ import annotations

import locust  # noqa: F401 - it patches the standard library, so it is imported before all that uses sockets

from bench.shoppers.program import main

if __name__ == "__main__":
    main()
