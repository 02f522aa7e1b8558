"""Tests without a server, in the folders of the package."""
