"""A shopping-cart REST service built for retries, concurrent changes and guest sign-in."""

from cartsvc.app import create_app

__all__ = ["create_app"]
