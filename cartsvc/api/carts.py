"""The routes of carts and their items."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import Response, current_app

from cartsvc.api.authorization import check_source, guest_to_renew, guest_token
from cartsvc.api.flask_app import current_request
from cartsvc.api.headers import write_conditions
from cartsvc.api.openapi import ETAG, ITEM_ID, LOCATION, USER_ID, Blueprint, documents
from cartsvc.api.request_schemas import (
    CART_INPUT_SCHEMA,
    CART_UPDATE_SCHEMA,
    ITEM_INPUT_EXAMPLE,
    ITEM_INPUT_SCHEMA,
    ITEM_UPDATE_SCHEMA,
    ITEMS_INPUT_SCHEMA,
    ITEMS_UPDATE_SCHEMA,
    MERGE_INPUT_SCHEMA,
    CartContents,
    Merge,
)
from cartsvc.api.responses import cart_response, guest_response, item_response, merge_response, write_response
from cartsvc.api.schemas import (
    CART_EXAMPLE,
    CART_SCHEMA,
    GUEST_SCHEMA,
    ITEM_EXAMPLE,
    ITEM_SCHEMA,
    MERGED_CART_EXAMPLE,
    MERGED_CART_SCHEMA,
)
from cartsvc.carts.validation import check_user_id
from cartsvc.errors import (
    CartNotFound,
    CurrencyMismatch,
    ItemNotFound,
    LimitExceeded,
    MergeAborted,
    StoreFull,
    TooManyMerges,
)

if TYPE_CHECKING:
    from cartsvc.carts.service import CartService
    from cartsvc.carts.validation import ItemChange, NewItem

_GUEST_EXAMPLE = {"user_id": "guest-3xKq2v0PzT9cW1bYd7Rf4A", "token": None}

blueprint = Blueprint("carts", __name__, url_prefix="/cart", description="Carts and their items.")


def _service() -> CartService:
    return cast("CartService", current_app.extensions["cartsvc"])


@blueprint.before_request
def _check_user_id() -> None:
    request = current_request()
    if request.view_args and request.method != "OPTIONS":
        check_user_id(request.view_args["user_id"], location="path")


@blueprint.route("", methods=["POST"])
@documents()
@blueprint.response(201, GUEST_SCHEMA, example=_GUEST_EXAMPLE, headers=LOCATION, description="The guest.")
def create_guest() -> Response:
    """Create a guest

    Returns an id for a shopper without an account. The cart is created when the first item is added. A request with a
    guest's token returns the same guest and a new token, or a new guest if that guest's cart was merged.
    """
    user_id = _service().new_guest(guest_to_renew())
    return guest_response(user_id, guest_token(user_id))


@blueprint.route("/<user_id>", methods=["GET"], parameters=[USER_ID])
@documents(conditional=True)
@blueprint.response(200, CART_SCHEMA, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def get_cart(user_id: str) -> Response:
    """Get a cart

    An absent cart is returned as an empty cart with version 0, null times and no ETag. Reading does not create it.
    """
    return cart_response(user_id, _service().get(user_id))


@blueprint.route("/<user_id>", methods=["POST"], parameters=[USER_ID])
@documents(LimitExceeded, CurrencyMismatch, StoreFull, keyed=True)
@blueprint.arguments(ITEM_INPUT_SCHEMA, example=ITEM_INPUT_EXAMPLE)
@blueprint.response(200, CART_SCHEMA, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def add_item(new_item: NewItem, user_id: str) -> Response:
    """Add an item

    The same product with the same options is the same item: quantities are added, and the latest price applies.
    If there is no cart, it is created.
    """
    return write_response(user_id, _service().add(user_id, [new_item], conditions=write_conditions(new_item)))


@blueprint.route("/<user_id>", methods=["PUT"], parameters=[USER_ID])
@documents(LimitExceeded, StoreFull, keyed=True)
@blueprint.arguments(CART_INPUT_SCHEMA, example={"items": [ITEM_INPUT_EXAMPLE]})
@blueprint.response(200, CART_SCHEMA, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
@blueprint.response(201, CART_SCHEMA, example=CART_EXAMPLE, headers=ETAG, description="The cart was created.")
def replace_cart(contents: CartContents, user_id: str) -> Response:
    """Replace a cart

    Afterwards the cart contains exactly these items, in this order. The response to a GET can be edited and sent back.
    Metadata that the request does not give stays: that of the cart, and that of its items.
    """
    items, currency, metadata = contents
    conditions = write_conditions(contents)
    outcome = _service().replace(user_id, items, currency=currency, metadata=metadata, conditions=conditions)
    return write_response(user_id, outcome)


@blueprint.route("/<user_id>", methods=["PATCH"], parameters=[USER_ID])
@documents(CartNotFound, LimitExceeded, StoreFull, keyed=True)
@blueprint.arguments(CART_UPDATE_SCHEMA, example={"metadata": {"gift_note": "Happy birthday!"}})
@blueprint.response(200, CART_SCHEMA, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def update_cart(metadata: dict[str, str], user_id: str) -> Response:
    """Set the metadata of a cart

    The object replaces the earlier metadata; `{}` removes it. The items stay as they are.
    """
    return write_response(user_id, _service().update(user_id, metadata, conditions=write_conditions(metadata)))


@blueprint.route("/<user_id>", methods=["DELETE"], parameters=[USER_ID])
@documents(CartNotFound, keyed=True)
@blueprint.response(204, description="The cart was deleted.")
def delete_cart(user_id: str) -> Response:
    """Delete a cart

    Returns 404 if there is no cart. For a retry, this means that the cart was already deleted.
    """
    return write_response(user_id, _service().remove(user_id, conditions=write_conditions()))


@blueprint.route("/<user_id>/items", methods=["POST"], parameters=[USER_ID])
@documents(LimitExceeded, CurrencyMismatch, StoreFull, keyed=True)
@blueprint.arguments(ITEMS_INPUT_SCHEMA, example={"items": [ITEM_INPUT_EXAMPLE]})
@blueprint.response(200, CART_SCHEMA, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def add_items(contents: CartContents, user_id: str) -> Response:
    """Add several items

    Either all of them are added, or none.
    """
    items, currency, _ = contents
    conditions = write_conditions(contents)
    return write_response(user_id, _service().add(user_id, items, currency=currency, conditions=conditions))


@blueprint.route("/<user_id>/items", methods=["PATCH"], parameters=[USER_ID])
@documents(CartNotFound, ItemNotFound, LimitExceeded, CurrencyMismatch, StoreFull, keyed=True)
@blueprint.arguments(ITEMS_UPDATE_SCHEMA, example={"items": [{"item_id": "sku-1", "quantity": 3}]})
@blueprint.response(200, CART_SCHEMA, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def update_items(changes: list[ItemChange], user_id: str) -> Response:
    """Change several items

    Either all changes are applied, or none. They apply to the items as they are, so two variants can be exchanged. An
    unknown `item_id` returns 404 with its pointer.
    """
    return write_response(user_id, _service().update_items(user_id, changes, conditions=write_conditions(changes)))


@blueprint.route("/<user_id>/items/<item_id>", methods=["GET"], parameters=[USER_ID, ITEM_ID])
@documents(CartNotFound, ItemNotFound, conditional=True)
@blueprint.response(200, ITEM_SCHEMA, example=ITEM_EXAMPLE, headers=ETAG, description="The item.")
def get_item(user_id: str, item_id: str) -> Response:
    """Get an item

    The ETag is that of the whole cart.
    """
    return item_response(*_service().get_item(user_id, item_id))


@blueprint.route("/<user_id>/items/<item_id>", methods=["PATCH"], parameters=[USER_ID, ITEM_ID])
@documents(CartNotFound, ItemNotFound, LimitExceeded, CurrencyMismatch, StoreFull, keyed=True)
@blueprint.arguments(ITEM_UPDATE_SCHEMA, example={"quantity": 3})
@blueprint.response(200, CART_SCHEMA, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def update_item(change: ItemChange, user_id: str, item_id: str) -> Response:
    """Set an item's quantity, price, metadata or options

    A quantity of 0 removes the item. A price requires its currency. Other options turn the item into that variant, in
    its place; its `item_id` is then another one.
    """
    conditions = write_conditions(change)
    return write_response(user_id, _service().update_item(user_id, item_id, change, conditions=conditions))


@blueprint.route("/<user_id>/items/<item_id>", methods=["DELETE"], parameters=[USER_ID, ITEM_ID])
@documents(CartNotFound, ItemNotFound, keyed=True)
@blueprint.response(200, CART_SCHEMA, example=CART_EXAMPLE, headers=ETAG, description="The cart.")
def delete_item(user_id: str, item_id: str) -> Response:
    """Remove an item

    Removing the last item leaves an empty cart, which still exists.
    """
    return write_response(user_id, _service().remove_item(user_id, item_id, conditions=write_conditions()))


@blueprint.route("/<user_id>/merge", methods=["POST"], parameters=[USER_ID])
@documents(LimitExceeded, CurrencyMismatch, MergeAborted, TooManyMerges, StoreFull, keyed=True)
@blueprint.arguments(MERGE_INPUT_SCHEMA, example={"from_user_id": _GUEST_EXAMPLE["user_id"]})
@blueprint.response(200, MERGED_CART_SCHEMA, example=MERGED_CART_EXAMPLE, headers=ETAG, description="The cart.")
def merge_cart(merge: Merge, user_id: str) -> Response:
    """Merge another cart into this one

    At sign-in, the guest's items move into the user's cart, and the guest's cart is deleted. Both happen, or neither.
    Afterwards writes to that guest get 409 `cart-merged`. With authentication, `from_token` must be the guest's token.

    The guest of the example does not exist, and merging an absent cart changes nothing. To see a merge, create a guest,
    add an item to its cart, and paste its `user_id` here, and its `token` as `from_token`.
    """
    source, strategy, on_limit, token = merge
    check_source(source, token)
    conditions = write_conditions((source, strategy, on_limit))
    return merge_response(user_id, _service().merge(user_id, source, strategy, on_limit, conditions=conditions))
