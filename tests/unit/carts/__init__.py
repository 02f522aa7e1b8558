"""Tests of cartsvc.carts."""
