"""The routes that tell whether the service lives, and whether it can serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import current_app

from cartsvc.api.blueprint import Blueprint, answers
from cartsvc.api.schemas import STATUS

if TYPE_CHECKING:
    from cartsvc.service import CartService

_OK = {"status": "ok"}

blp = Blueprint("health", __name__, description="For load balancers and orchestrators.", always=(500,))


@blp.route("/healthz", methods=["GET"])
@blp.response(200, STATUS, example=_OK, description="It does.")
def live() -> dict[str, str]:
    """Does the process answer?

    Asks nothing else: a store that is away is no reason to restart this process.
    """
    return _OK


@blp.route("/readyz", methods=["GET"])
@answers(503, 507)
@blp.response(200, STATUS, example=_OK, description="It can.")
def ready() -> dict[str, str]:
    """Can it serve carts?

    Asks the store; 503 while it is away, 507 when it takes no more.
    """
    cast("CartService", current_app.extensions["cartsvc"]).check_ready()
    return _OK
