"""Clients generated from the documents in docs/openapi, and linters of these documents."""
