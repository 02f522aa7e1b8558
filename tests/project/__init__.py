"""The layout of the project, and what it depends on."""
