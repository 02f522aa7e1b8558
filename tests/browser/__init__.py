"""Swagger UI, CORS and the module for pages in Chromium."""
