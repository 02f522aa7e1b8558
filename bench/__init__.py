"""Measure the cost of cartsvc, next to that of the smallest WSGI app."""
