"""Tests of examples/: the module for pages and the Python caller, against the real server."""
