"""Turns carts into responses: JSON, ETag, caching headers, and 304 for a cart that the client already has."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
from flask import Response
from msgspec import Struct, structs

from cartsvc.api.flask_app import PrebuiltResponse
from cartsvc.api.headers import entity_tags
from cartsvc.carts.cart import subtotal
from cartsvc.carts.combine import Adjustment
from cartsvc.carts.conditions import ANY_TAG

if TYPE_CHECKING:
    from cartsvc.carts.cart import Cart, Item
    from cartsvc.carts.conditions import Outcome

_CACHING = {"Cache-Control": "private, no-cache"}  # no shared cache stores a cart, and each use is revalidated
_JSON = ("Content-Type", "application/json")
_encoder = msgspec.json.Encoder()


class ItemView(Struct):
    """One item as the API shows it. Times are texts (RFC 3339)."""

    item_id: str
    product_id: str
    options: dict[str, str]
    quantity: int
    unit_price: int | None
    currency: str | None
    line_total: int | None
    metadata: dict[str, str]
    added_at: str


class CartView(Struct):
    """A cart as the API shows it."""

    user_id: str
    version: int
    items: list[ItemView]
    item_count: int
    total_quantity: int
    currency: str | None
    subtotal: int | None
    metadata: dict[str, str]
    created_at: str | None
    updated_at: str | None
    expires_at: str | None


class MergedCartView(CartView):
    """A cart after a merge, and what the merge has cut."""

    adjustments: tuple[Adjustment, ...] = ()


def cart_response(user_id: str, cart: Cart | None) -> Response:
    """Return the response to a GET: the cart, or 304 if the client already has it (RFC 9110, 13.1.2)."""
    if _is_current(cart):
        return Response(status=304, headers=etag_headers(cart))
    return _json(cart_view(user_id, cart), 200, cart)


def item_response(cart: Cart, item: Item) -> Response:
    """Return one item with its cart's ETag; 304 as for the cart."""
    if _is_current(cart):
        return Response(status=304, headers=etag_headers(cart))
    return _json(_item_view(item, cart.currency), 200, cart)


def write_response(user_id: str, outcome: Outcome) -> Response:
    """Return the response to a write: the current cart, or 204 if the cart was deleted."""
    if outcome.status == 204:  # noqa: PLR2004 - No Content
        response = Response(status=204)
        del response.headers["Content-Type"]  # of an absent body
    else:
        response = _json(cart_view(user_id, outcome.cart), outcome.status, outcome.cart)
    return _marked(response, outcome)


def merge_response(user_id: str, outcome: Outcome) -> Response:
    """Return the response to a merge: the current cart, and what the merge has cut."""
    view = MergedCartView(**structs.asdict(cart_view(user_id, outcome.cart)), adjustments=outcome.adjustments)
    return _marked(_json(view, outcome.status, outcome.cart), outcome)


def guest_response(user_id: str, token: str | None) -> Response:
    """Return a guest. No cache may store it: the token (without authentication, the id) grants access to the cart."""
    # Relative to /cart, so it is right behind a proxy that adds a path prefix.
    headers = {"Location": f"cart/{user_id}", "Cache-Control": "no-store"}
    body = _encoder.encode({"user_id": user_id, "token": token})
    return Response(body, 201, headers, mimetype="application/json")


def cart_view(user_id: str, cart: Cart | None) -> CartView:
    """Return the cart as the API shows it; an absent cart has version 0 and no items."""
    if cart is None:
        return CartView(user_id, 0, [], 0, 0, None, 0, {}, None, None, None)
    return CartView(
        user_id,
        cart.version,
        [_item_view(item, cart.currency) for item in cart.items],
        len(cart.items),
        sum([item.quantity for item in cart.items]),
        cart.currency,
        subtotal(cart.items),
        dict(cart.metadata),
        _to_text(cart.created_at),
        _to_text(cart.updated_at),
        _to_text(cart.expires_at),
    )


def etag_headers(cart: Cart | None) -> dict[str, str]:
    """Return the headers of a response that contains this cart; an absent cart has no ETag."""
    return _CACHING if cart is None else {**_CACHING, "ETag": f'"{cart.etag}"'}


def _is_current(cart: Cart | None) -> bool:
    tags = entity_tags("If-None-Match")
    return tags is not None and cart is not None and (tags == ANY_TAG or cart.etag in tags)


def _json(view: CartView | ItemView, status: int, cart: Cart | None) -> Response:
    return PrebuiltResponse(_encoder.encode(view), status, [_JSON, *etag_headers(cart).items()])


def _marked(response: Response, outcome: Outcome) -> Response:
    if outcome.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _item_view(item: Item, currency: str | None) -> ItemView:
    price = item.unit_price
    return ItemView(
        item.item_id,
        item.product_id,
        dict(item.options),
        item.quantity,
        price,
        None if price is None else currency,
        None if price is None else price * item.quantity,
        dict(item.metadata),
        _to_text(item.added_at),
    )


@lru_cache(maxsize=4096)  # a third of a large cart's GET: its items were mostly added at the same time
def _to_text(milliseconds: int) -> str:
    """Return the time as text with milliseconds (RFC 3339), so that responses can be put in order."""
    return f"{_seconds(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


@lru_cache(maxsize=64)  # 2 µs for each time of a write, because requests of the same second share them
def _seconds(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
