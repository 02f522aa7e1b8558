"""Tests of cartsvc.api."""
