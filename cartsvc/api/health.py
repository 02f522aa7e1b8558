"""The routes of the health checks: liveness and readiness."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import current_app, request

from cartsvc.api.openapi import Blueprint, documents
from cartsvc.api.schemas import HEALTH_SCHEMA, READINESS
from cartsvc.errors import Draining, StoreError
from cartsvc.version import __version__

if TYPE_CHECKING:
    from cartsvc.carts.service import CartService

_OK = {"status": "ok"}
_HEALTHY = {**_OK, "version": __version__}
_READY = {**_OK, "writes": "ok"}

blueprint = Blueprint("health", __name__, description="For load balancers and orchestrators.")


@blueprint.route("/healthz", methods=["GET"])
@documents()
@blueprint.response(200, HEALTH_SCHEMA, example=_HEALTHY, description="The process is alive.")
def get_health() -> dict[str, str]:
    """Check that the process is alive

    Does not query the store, because an unavailable store is no reason to restart this process.
    """
    return _HEALTHY


@blueprint.route("/readyz", methods=["GET"])
@documents(Draining, StoreError)
@blueprint.response(200, READINESS, example=_READY, description="The service can serve requests.")
def get_readiness() -> dict[str, str]:
    """Check that the service can serve carts

    Sends the store a write that changes nothing, and returns 503 while the store is unavailable. A full store is ready,
    because carts can still be read, reduced and deleted; `writes` is then `full`. Also returns 503 when the server is
    about to stop, although it still serves requests.
    """
    if request.environ.get("cartsvc.draining"):
        raise Draining
    return {**_OK, "writes": cast("CartService", current_app.extensions["cartsvc"]).check_ready()}
