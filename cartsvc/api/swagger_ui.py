"""Swagger UI: the package's files, served by this service with a strict Content-Security-Policy."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Blueprint, Response, redirect, send_from_directory

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as WerkzeugResponse

# Nothing inline, no eval, no other host; the style sheet contains its icons as data: URLs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STATIC = Path(__file__).parent / "static"
_SWAGGER_UI = Path(str(files("flask_swagger_ui"))) / "dist"

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def root() -> WerkzeugResponse:
    """Redirect to Swagger UI."""
    return redirect("swagger-ui")


@blueprint.get("/swagger-ui")
def swagger_ui() -> Response:
    """Return the page. The files that it loads have paths below its own."""
    page = send_from_directory(_STATIC, "swagger-ui.html")
    page.headers["Content-Security-Policy"] = _POLICY
    page.headers["Referrer-Policy"] = "no-referrer"
    return page


@blueprint.get("/swagger-ui/start.js")
def start_script() -> Response:
    """Return the start script, which the package's template has inline. The policy forbids inline scripts."""
    return send_from_directory(_STATIC, "start.js")


# Only the files that the page loads, because the package also contains pages, which would lack the policy.
@blueprint.get("/swagger-ui/<any('swagger-ui-bundle.js', 'swagger-ui.css', 'favicon-32x32.png'):file>")
def swagger_ui_file(file: str) -> Response:
    """Return the package's script, style sheet or icon."""
    return send_from_directory(_SWAGGER_UI, file, max_age=86_400)
