"""A shopping-cart service that loses no accepted change and applies none twice."""

from cartsvc.app import create_app

__all__ = ["create_app"]
