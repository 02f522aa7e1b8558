"""Tests of cartsvc.cli."""
