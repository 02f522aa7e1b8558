"""Asks who is there before a view runs, and shows in the OpenAPI document that this is asked."""

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

_WITH_PORT = re.compile(r"\[([^]]*)\](?::\d+)?|([\d.]+):\d+")  # as some proxies write it


def init_app(app: Flask, auth: Auth | None) -> None:
    """Let ``auth`` decide on every request for a cart, before anything else is looked at; None asks nobody."""
    app.extensions["cartsvc.auth"] = auth
    if auth is not None:
        app.before_request_funcs["carts"].insert(0, _require_access)


def check_source(user_id: str, token: str | None) -> None:
    """Return when the caller, or who gave this token, may give this cart away in a merge. Raises Forbidden."""
    auth = _auth()
    if auth is not None:
        auth.check_source(_caller(), user_id, token)


def guest_to_renew() -> str | None:
    """The guest who asks for a new token; None for everybody else. Raises Unauthorized."""
    auth = _auth()
    return None if auth is None else auth.renewable_guest(_token())


def guest_token(user_id: str) -> str | None:
    """A token for this guest; None when nobody is asked for one."""
    auth = _auth()
    return None if auth is None else auth.guest_token(user_id)


def rate_limit_key() -> str:
    """Whom a request is counted for: the subject of a good token, else the address that it comes from."""
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
    """Who is asking; found out once for each request. Raises Unauthorized, KeysUnavailable."""
    if "caller" not in g:
        g.caller = cast("Auth", _auth()).identify(_token())
    return cast("Caller", g.caller)


def _address() -> str:
    """All that one subscriber has: a network of IPv6 has more addresses than could be counted."""
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
