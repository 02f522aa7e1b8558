"""Start programs of the tests as quickly as where only the packages of the service are installed.

Python imports this module at its start, because tests put its directory on PYTHONPATH. With the packages of
development, the start of a server would take a third longer.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

# structlog imports rich where it is installed, and rich takes a fifth of the start.
sys.modules["rich"] = None  # type: ignore[assignment]  # as Python marks a module that cannot be imported
# redis-py imports OpenTelemetry's metrics where they are installed, which take two fifths of its own import.
sys.modules["opentelemetry.sdk.metrics"] = None  # type: ignore[assignment]

_entry_points = metadata.entry_points


def _of_others(**parameters: Any) -> metadata.EntryPoints:
    """Find no plug-ins of gevent.

    gevent looks for them 25 times in each worker, and each time Python reads a file of every installed package.
    """
    if parameters.get("group", "").startswith("gevent."):
        return metadata.EntryPoints()
    return _entry_points(**parameters)


metadata.entry_points = _of_others  # type: ignore[assignment]
