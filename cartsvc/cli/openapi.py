"""``flask openapi``: print the OpenAPI document, for generators of clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable


def openapi_command(document: Callable[[], bytes]) -> click.Command:
    """Return the command; ``document`` returns the document as JSON. It replaces flask-smorest's group of this name."""

    @click.command("openapi")
    def openapi() -> None:
        """Print the OpenAPI document of this configuration, as /openapi.json serves it, on several lines."""
        click.echo(msgspec.json.format(document(), indent=2))

    return openapi
