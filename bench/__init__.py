"""Measure cartsvc next to other services on the same machine; ``python -m bench`` (docs/performance.md)."""
