"""Turns carts into answers: JSON bytes, the ETag, caching, and 304 for what the caller has."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
from flask import Response
from msgspec import Struct

from cartsvc.api.flask_app import PrebuiltResponse
from cartsvc.api.headers import entity_tags
from cartsvc.carts.cart import subtotal
from cartsvc.carts.conditions import ANY_TAG

if TYPE_CHECKING:
    from cartsvc.carts.cart import Cart, Item
    from cartsvc.carts.conditions import Outcome

_CACHING = {"Cache-Control": "private, no-cache"}  # no shared cache keeps a cart, and every use asks if it is current
_JSON = ("Content-Type", "application/json")
_encoder = msgspec.json.Encoder()


class ItemView(Struct):
    """One item as the API shows it."""

    item_id: str
    product_id: str
    options: dict[str, str]
    quantity: int
    unit_price: int | None
    line_total: int | None
    added_at: datetime


class CartView(Struct):
    """A cart as the API shows it."""

    user_id: str
    version: int
    items: list[ItemView]
    item_count: int
    total_quantity: int
    currency: str | None
    subtotal: int | None
    created_at: datetime | None
    updated_at: datetime | None
    expires_at: datetime | None


def cart_response(user_id: str, cart: Cart | None) -> Response:
    """The cart as a GET asks for it: 304 when the caller has it (RFC 9110, 13.1.2)."""
    if _is_current(cart):
        return Response(status=304, headers=etag_headers(cart))
    return _json(cart_view(user_id, cart), 200, cart)


def item_response(cart: Cart, item: Item) -> Response:
    """One item, under its cart's ETag; 304 as for the cart."""
    if _is_current(cart):
        return Response(status=304, headers=etag_headers(cart))
    return _json(_item_view(item), 200, cart)


def write_response(user_id: str, outcome: Outcome) -> Response:
    """What a write came to: the cart as it is now, or nothing when it was removed."""
    if outcome.status == 204:  # noqa: PLR2004 - No Content
        response = Response(status=204)
        del response.headers["Content-Type"]  # of no content
    else:
        response = _json(cart_view(user_id, outcome.cart), outcome.status, outcome.cart)
    if outcome.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def guest_response(user_id: str, token: str | None) -> Response:
    """A guest. Whoever has the token has the cart (or the id, where nobody is asked), so no cache may keep it."""
    # Relative to /cart, so that it holds behind a proxy that adds a path prefix.
    headers = {"Location": f"cart/{user_id}", "Cache-Control": "no-store"}
    body = _encoder.encode({"user_id": user_id, "token": token})
    return Response(body, 201, headers, mimetype="application/json")


def cart_view(user_id: str, cart: Cart | None) -> CartView:
    """The cart, or what an absent one reads as."""
    if cart is None:
        return CartView(user_id, 0, [], 0, 0, None, 0, None, None, None)
    return CartView(
        user_id,
        cart.version,
        [_item_view(item) for item in cart.items],
        len(cart.items),
        sum([item.quantity for item in cart.items]),
        cart.currency,
        subtotal(cart.items),
        _to_datetime(cart.created_at),
        _to_datetime(cart.updated_at),
        _to_datetime(cart.expires_at),
    )


def etag_headers(cart: Cart | None) -> dict[str, str]:
    """The headers of an answer that shows this cart; an absent cart has no ETag."""
    return _CACHING if cart is None else {**_CACHING, "ETag": f'"{cart.etag}"'}


def _is_current(cart: Cart | None) -> bool:
    stated = entity_tags("If-None-Match")
    return stated is not None and cart is not None and (stated == ANY_TAG or cart.etag in stated)


def _json(view: CartView | ItemView, status: int, cart: Cart | None) -> Response:
    return PrebuiltResponse(_encoder.encode(view), status, [_JSON, *etag_headers(cart).items()])


def _item_view(item: Item) -> ItemView:
    price = item.unit_price
    return ItemView(
        item.item_id,
        item.product_id,
        dict(item.options),
        item.quantity,
        price,
        None if price is None else price * item.quantity,
        _to_datetime(item.added_at),
    )


@lru_cache(maxsize=4096)  # the items of a cart are mostly added together; a third of a large cart's GET went here
def _to_datetime(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds // 1000, UTC)
