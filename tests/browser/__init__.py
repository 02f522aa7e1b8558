"""Swagger UI and CORS in Chromium."""
