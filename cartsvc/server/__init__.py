"""What gunicorn.conf.py plugs into gunicorn."""
