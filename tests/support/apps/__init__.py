"""WSGI applications that misbehave on purpose."""
