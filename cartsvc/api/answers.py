"""Turns carts into answers: JSON bytes, the ETag, caching, and 304 for what the caller has."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
from flask import Response, request
from msgspec import Struct

from cartsvc.cart import subtotal

if TYPE_CHECKING:
    from cartsvc.cart import Cart, Item

_CACHING = "private, no-cache"  # a shared cache must not keep a cart, and every use asks whether it is current
_encoder = msgspec.json.Encoder()


class _ItemView(Struct):
    item_id: str
    product_id: str
    options: dict[str, str]
    quantity: int
    unit_price: int | None
    line_total: int | None
    added_at: datetime


class _CartView(Struct):
    user_id: str
    version: int
    items: list[_ItemView]
    item_count: int
    total_quantity: int
    currency: str | None
    subtotal: int | None
    created_at: datetime | None
    updated_at: datetime | None
    expires_at: datetime | None


def cart_answer(user_id: str, cart: Cart | None, *, status: int = 200) -> Response:
    """The cart, or what an absent one reads as; 304 when a GET says that the caller has it (RFC 9110, 13.1.2)."""
    if cart is None:
        return _json(_encoder.encode(_CartView(user_id, 0, [], 0, 0, None, 0, None, None, None)), status)
    if _is_current(cart):
        return _not_modified(cart)
    view = _CartView(
        user_id,
        cart.version,
        [_item_view(item) for item in cart.items],
        len(cart.items),
        sum([item.quantity for item in cart.items]),
        cart.currency,
        subtotal(cart.items),
        _time(cart.created_at),
        _time(cart.updated_at),
        _time(cart.expires_at),
    )
    return _json(_encoder.encode(view), status, etag=cart.etag)


def item_answer(cart: Cart, item: Item) -> Response:
    """One item, under its cart's ETag; 304 as for the cart."""
    if _is_current(cart):
        return _not_modified(cart)
    return _json(_encoder.encode(_item_view(item)), 200, etag=cart.etag)


def empty_answer() -> Response:
    """204: done, and there is nothing to show."""
    answer = Response(status=204)
    del answer.headers["Content-Type"]  # of no content
    return answer


def _is_current(cart: Cart) -> bool:
    stated = request.method in {"GET", "HEAD"} and "If-None-Match" in request.headers
    return stated and request.if_none_match.contains_weak(cart.etag)


def _not_modified(cart: Cart) -> Response:
    return Response(status=304, headers={"ETag": f'"{cart.etag}"', "Cache-Control": _CACHING})


def _json(body: bytes, status: int, *, etag: str | None = None) -> Response:
    headers = {"Cache-Control": _CACHING}
    if etag is not None:
        headers["ETag"] = f'"{etag}"'
    return Response(body, status, headers, mimetype="application/json")


def _item_view(item: Item) -> _ItemView:
    price = item.unit_price
    return _ItemView(
        item.item_id,
        item.product_id,
        dict(item.options),
        item.quantity,
        price,
        None if price is None else price * item.quantity,
        _time(item.added_at),
    )


@lru_cache(maxsize=4096)  # the items of a cart are mostly added together; a third of a large cart's GET went here
def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds // 1000, UTC)
