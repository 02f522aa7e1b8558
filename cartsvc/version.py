"""The version of cartsvc: pyproject.toml reads it here, and so does the line that each start logs."""

from __future__ import annotations

__version__ = "0.1.0"
