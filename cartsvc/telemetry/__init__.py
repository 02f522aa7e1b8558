"""What operators see: wraps the CartStore. Only app.py and gunicorn.conf.py import it."""
