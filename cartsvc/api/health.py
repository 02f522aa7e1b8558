"""The routes that tell whether the service lives, and whether it can serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import current_app

from cartsvc.api.blueprint import Blueprint, answers
from cartsvc.api.schemas import READINESS, STATUS

if TYPE_CHECKING:
    from cartsvc.service import CartService

_OK = {"status": "ok"}
_READY = {**_OK, "writes": "ok"}

blp = Blueprint("health", __name__, description="For load balancers and orchestrators.", always=(500,))


@blp.route("/healthz", methods=["GET"])
@blp.response(200, STATUS, example=_OK, description="It does.")
def live() -> dict[str, str]:
    """Does the process answer?

    Asks nothing else: a store that is away is no reason to restart this process.
    """
    return _OK


@blp.route("/readyz", methods=["GET"])
@answers(503)
@blp.response(200, READINESS, example=_READY, description="It can.")
def ready() -> dict[str, str]:
    """Can it serve carts?

    Sends the store a write that changes nothing; 503 while the store is unavailable. A full store is ready, because its
    carts can be read, made smaller and removed: then `writes` is `full`.
    """
    return {**_OK, "writes": cast("CartService", current_app.extensions["cartsvc"]).check_ready()}
