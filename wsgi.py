"""What a WSGI server serves."""

from cartsvc import create_app

app = create_app()
