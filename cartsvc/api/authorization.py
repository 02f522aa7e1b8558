"""Identifies the caller and checks access to the cart before a view runs."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, cast

from flask import current_app, g

from cartsvc.api.flask_app import current_request
from cartsvc.auth.tokens import Auth, Caller, parse_bearer
from cartsvc.errors import CartsvcError, Forbidden

if TYPE_CHECKING:
    from flask import Flask

_WITH_PORT = re.compile(r"\[([^]]*)\](?::\d+)?|([\d.]+):\d+")  # the format of some proxies


def init_app(app: Flask, auth: Auth | None) -> None:
    """Check every request for a cart with ``auth`` before anything else; with None, all are allowed."""
    app.extensions["cartsvc.auth"] = auth
    if auth is not None:
        app.before_request_funcs["carts"].insert(0, _require_access)


def check_source(user_id: str, token: str | None) -> None:
    """Raise Forbidden unless the caller, or the owner of this token, may merge this cart into another."""
    auth = _auth()
    if auth is not None:
        auth.check_source(_caller(), user_id, token)


def guest_to_renew() -> str | None:
    """Return the guest whose token is to be renewed; None for other callers. Raises Unauthorized."""
    auth = _auth()
    return None if auth is None else auth.renewable_guest(_token())


def guest_token(user_id: str) -> str | None:
    """Return a token for this guest, or None without authentication."""
    auth = _auth()
    return None if auth is None else auth.guest_token(user_id)


def rate_limit_key() -> str:
    """Return the caller that a request counts for: the subject of a valid token, otherwise its address."""
    try:
        return f"user {_caller().user_id}" if _auth() is not None else _address()
    except CartsvcError:
        return _address()


def _require_access() -> None:
    request = current_request()
    view_args = request.view_args
    if view_args and request.method != "OPTIONS" and not _caller().may_access(view_args["user_id"]):
        raise Forbidden


def _caller() -> Caller:
    """Return the caller, identified once per request. Raises Unauthorized and KeysUnavailable."""
    if "caller" not in g:
        g.caller = cast("Auth", _auth()).identify(_token())
    return cast("Caller", g.caller)


def _address() -> str:
    """Return the client's IPv4 address or its IPv6 /64, because one subscriber has all the addresses of a /64."""
    text = current_request().remote_addr or ""
    with_port = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address((with_port[1] or with_port[2]) if with_port else text)
    except ValueError:
        return "address unknown"
    if isinstance(address, IPv6Address):
        return f"address {address.ipv4_mapped or IPv6Network((int(address), 64), strict=False)}"
    return f"address {address}"


def _token() -> str | None:
    return parse_bearer(current_request().headers.get("Authorization"))


def _auth() -> Auth | None:
    return cast("Auth | None", current_app.extensions["cartsvc.auth"])
