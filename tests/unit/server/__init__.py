"""Tests of cartsvc.server."""
