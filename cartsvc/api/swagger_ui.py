"""The pages for people: Swagger UI, its files served by ourselves under a strict Content-Security-Policy."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Blueprint, Response, redirect, send_from_directory

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as WerkzeugResponse

# Nothing inline, nothing evaluated, no other host at all; the style sheet has its icons in data: URLs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STATIC = Path(__file__).parent / "static"
_SWAGGER_UI = Path(str(files("flask_swagger_ui"))) / "dist"

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def root() -> WerkzeugResponse:
    """Lead to Swagger UI."""
    return redirect("swagger-ui")


@blueprint.get("/swagger-ui")
def swagger_ui() -> Response:
    """The page; what it loads is below it."""
    page = send_from_directory(_STATIC, "swagger-ui.html")
    page.headers["Content-Security-Policy"] = _POLICY
    page.headers["Referrer-Policy"] = "no-referrer"
    return page


@blueprint.get("/swagger-ui/start.js")
def start_script() -> Response:
    """What the package's own template has inline, which the policy forbids."""
    return send_from_directory(_STATIC, "start.js")


# Only what the page loads: the package holds pages too, and those would go out without the policy.
@blueprint.get("/swagger-ui/<any('swagger-ui-bundle.js', 'swagger-ui.css', 'favicon-32x32.png'):file>")
def swagger_ui_file(file: str) -> Response:
    """The package's script, style sheet or icon."""
    return send_from_directory(_SWAGGER_UI, file, max_age=86_400)
