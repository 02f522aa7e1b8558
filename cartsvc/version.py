"""The version of cartsvc, which pyproject.toml and the start line read."""

from __future__ import annotations

__version__ = "0.1.0"
