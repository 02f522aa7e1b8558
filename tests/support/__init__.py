"""Helpers shared by all tests: clocks, failing stores, servers, clients."""
