"""The real gunicorn with the real configuration, its processes killed and paused."""
