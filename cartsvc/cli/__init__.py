"""The commands of ``flask carts``."""
