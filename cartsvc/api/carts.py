"""The routes of carts and their items."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import Response, current_app

from cartsvc.api.access import check_source, guest_token, known_guest
from cartsvc.api.answers import cart_answer, guest_answer, item_answer, write_answer
from cartsvc.api.blueprint import ETAG, Blueprint, answers
from cartsvc.api.headers import terms, this_request
from cartsvc.api.schemas import (
    CART,
    CART_EXAMPLE,
    GUEST,
    ITEM,
    ITEM_CHANGE,
    ITEM_EXAMPLE,
    MERGE,
    NEW_CART,
    NEW_ITEM,
    NEW_ITEM_EXAMPLE,
    NEW_ITEMS,
    Contents,
    Merge,
)
from cartsvc.cart import check_user_id
from cartsvc.strings import USER_ID

if TYPE_CHECKING:
    from cartsvc.cart import ItemChange, Line
    from cartsvc.service import CartService

_USER_ID = {
    "in": "path",
    "name": "user_id",
    "required": True,
    "description": "Whose cart it is. It stands in logs: opaque ids, not e-mail addresses, are best.",
    "schema": {"type": "string", **USER_ID.json_schema()},
    "example": "alice",
}
_ITEM_ID = {
    "in": "path",
    "name": "item_id",
    "required": True,
    "description": "An item_id as the cart shows it.",
    "schema": {"type": "string"},
    "example": "sku-1",
}
_GUEST_EXAMPLE = {"user_id": "guest-3xKq2v0PzT9cW1bYd7Rf4A", "token": None}
_LOCATION = {"Location": {"schema": {"type": "string"}, "description": "The guest's cart, relative to this URL."}}

blp = Blueprint("carts", __name__, url_prefix="/cart", description="Carts and their items.", always=(422, 500, 503))


def _service() -> CartService:
    return cast("CartService", current_app.extensions["cartsvc"])


@blp.before_request
def _check_user_id() -> None:
    request = this_request()
    if request.view_args and request.method != "OPTIONS":
        check_user_id(request.view_args["user_id"])


@blp.route("/<user_id>", methods=["GET"], parameters=[_USER_ID])
@answers(conditional=True)
@blp.response(200, CART, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def get_cart(user_id: str) -> Response:
    """Get a cart

    A cart that is not there reads as one without items: version 0, null times, and no ETag. Reading creates nothing.
    """
    return cart_answer(user_id, _service().get(user_id))


@blp.route("/<user_id>", methods=["POST"], parameters=[_USER_ID])
@answers(keyed=True)
@blp.arguments(NEW_ITEM, example=NEW_ITEM_EXAMPLE)
@blp.response(200, CART, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def add_item(line: Line, user_id: str) -> Response:
    """Add an item

    The same product with the same options is the same item: its quantities add up, and the last price stated wins.
    The cart is made when it is not there.
    """
    return write_answer(user_id, _service().add(user_id, [line], terms=terms(line)))


@blp.route("/<user_id>", methods=["PUT"], parameters=[_USER_ID])
@answers(keyed=True)
@blp.arguments(NEW_CART, example={"items": [NEW_ITEM_EXAMPLE]})
@blp.response(200, CART, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
@blp.response(201, CART, example=CART_EXAMPLE, headers=ETAG, description="The cart was not there before.")
def put_cart(contents: Contents, user_id: str) -> Response:
    """Replace a cart

    The cart holds exactly these items afterwards, in this order. What a GET returned can be edited and sent back.
    """
    lines, currency = contents
    return write_answer(user_id, _service().replace(user_id, lines, currency=currency, terms=terms(contents)))


@blp.route("/<user_id>", methods=["DELETE"], parameters=[_USER_ID])
@answers(404, keyed=True)
@blp.response(204, description="The cart is gone.")
def delete_cart(user_id: str) -> Response:
    """Remove a cart

    404 when there is none; on a retry that means: it is done.
    """
    return write_answer(user_id, _service().remove(user_id, terms=terms()))


@blp.route("/<user_id>/items", methods=["POST"], parameters=[_USER_ID])
@answers(keyed=True)
@blp.arguments(NEW_ITEMS, example={"items": [NEW_ITEM_EXAMPLE]})
@blp.response(200, CART, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def add_items(lines: list[Line], user_id: str) -> Response:
    """Add several items

    All of them are added, or none.
    """
    return write_answer(user_id, _service().add(user_id, lines, terms=terms(lines)))


@blp.route("/<user_id>/items/<item_id>", methods=["GET"], parameters=[_USER_ID, _ITEM_ID])
@answers(404, conditional=True)
@blp.response(200, ITEM, example=ITEM_EXAMPLE, headers=ETAG, description="The item.")
def get_item(user_id: str, item_id: str) -> Response:
    """Get one item of a cart

    Its ETag is the cart's.
    """
    return item_answer(*_service().get_item(user_id, item_id))


@blp.route("/<user_id>/items/<item_id>", methods=["PATCH"], parameters=[_USER_ID, _ITEM_ID])
@answers(404, keyed=True)
@blp.arguments(ITEM_CHANGE, example={"quantity": 3})
@blp.response(200, CART, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def change_item(change: ItemChange, user_id: str, item_id: str) -> Response:
    """Set an item's quantity or price

    A quantity of 0 removes the item. A price comes with its currency.
    """
    return write_answer(user_id, _service().set_item(user_id, item_id, change, terms=terms(change)))


@blp.route("/<user_id>/items/<item_id>", methods=["DELETE"], parameters=[_USER_ID, _ITEM_ID])
@answers(404, keyed=True)
@blp.response(200, CART, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def delete_item(user_id: str, item_id: str) -> Response:
    """Take an item out of a cart

    A cart whose last item was taken out is an empty cart, not an absent one.
    """
    return write_answer(user_id, _service().remove_item(user_id, item_id, terms=terms()))


@blp.route("", methods=["POST"])
@blp.response(201, GUEST, example=_GUEST_EXAMPLE, headers=_LOCATION, description="The guest's id.")
def create_guest() -> Response:
    """Make a guest

    An id for a shopper without an account. The cart is made by the first add, not here. With a guest's token it is the
    same guest again, and a fresh token.
    """
    user_id = known_guest() or _service().new_guest()
    return guest_answer(user_id, guest_token(user_id))


@blp.route("/<user_id>/merge", methods=["POST"], parameters=[_USER_ID])
@answers(429, keyed=True)
@blp.arguments(MERGE, example={"from_user_id": _GUEST_EXAMPLE["user_id"]})
@blp.response(200, CART, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def merge_carts(merge: Merge, user_id: str) -> Response:
    """Merge another cart into this one

    At sign-in: the guest's items move into the user's cart, and the guest's cart is gone. All of it happens, or
    nothing. A cart that is not there brings nothing. Where tokens are asked for, `from_token` is the guest's.
    """
    source, strategy, token = merge
    check_source(source, token)
    return write_answer(user_id, _service().merge(user_id, source, strategy, terms=terms((source, strategy))))
