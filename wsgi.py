"""The WSGI application that gunicorn serves, and flask's commands work with."""

from __future__ import annotations

import click

from cartsvc import create_app
from cartsvc.errors import CartsvcError

try:
    app = create_app()
except CartsvcError as error:
    if click.get_current_context(silent=True) is None:
        raise  # gunicorn stops then
    raise click.ClickException(str(error)) from None  # a command's user wants the reason, and no traceback
