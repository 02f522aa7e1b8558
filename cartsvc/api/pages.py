"""The pages for people: Swagger UI, its files served by ourselves under a strict Content-Security-Policy."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from flask import Blueprint, Response, redirect, send_from_directory

# 'unsafe-inline' for styles only: Swagger UI sets style attributes. No script but our own files', no other host at all.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_OURS = Path(__file__).parent / "static"
_SWAGGER_UI = Path(str(files("flask_swagger_ui"))) / "dist"

blp = Blueprint("pages", __name__)


@blp.get("/")
def root() -> Response:
    """Lead to Swagger UI."""
    return redirect("swagger-ui", Response=Response)


@blp.get("/swagger-ui")
def swagger_ui() -> Response:
    """The page; what it loads is below it."""
    page = send_from_directory(_OURS, "swagger-ui.html")
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@blp.get("/swagger-ui/start.js")
def start_script() -> Response:
    """What the package's own template has inline, which the policy forbids."""
    return send_from_directory(_OURS, "start.js")


@blp.get("/swagger-ui/<file>")
def swagger_ui_file(file: str) -> Response:
    """The package's script, style sheet or icon."""
    return send_from_directory(_SWAGGER_UI, file, max_age=86_400)
