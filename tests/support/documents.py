"""The OpenAPI documents in docs/openapi, from which people generate clients, and the settings that make them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[2] / "docs" / "openapi"


class Document(NamedTuple):
    """A committed document: its file, and the settings of the server that serves it."""

    file: str
    environ: dict[str, str]

    @property
    def path(self) -> Path:
        """Return the path of its file."""
        return FOLDER / self.file

    @property
    def command(self) -> str:
        """Return the command that renews the file."""
        settings = "".join(f"{name}={value} " for name, value in self.environ.items())
        return f"{settings}.venv/bin/flask --app wsgi openapi > docs/openapi/{self.file}"


WITHOUT_AUTH = Document("openapi.json", {})
# All settings that add problems, so that its types hold for any server with authentication.
WITH_AUTH = Document(
    "openapi-auth.json",
    {
        "CARTSVC_AUTH": "jwt",
        "CARTSVC_JWT_JWKS_URL": "https://issuer.example/jwks.json",
        "CARTSVC_GUEST_KEY": "32-characters-or-more-of-any-kind",
        "CARTSVC_RATE_LIMIT": "100/minute",
    },
)
DOCUMENTS = (WITHOUT_AUTH, WITH_AUTH)


def code_of_page(language: str) -> str:
    """Return the one block of code in this language of docs/clients.md."""
    page = (FOLDER.parent / "clients.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(block)
