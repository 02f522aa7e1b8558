"""The version of cartsvc, for pyproject.toml, the start line, /healthz, /openapi.json and the metrics."""

from __future__ import annotations

__version__ = "0.1.0"
