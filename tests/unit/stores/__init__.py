"""Tests of cartsvc.stores that need no store."""
