"""The classes and hooks with which gunicorn.conf.py extends gunicorn."""
