"""Tests of cartsvc.auth."""
