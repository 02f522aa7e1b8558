"""A toy shop: the page of this directory, and an issuer of tokens. Never use it in production.

The issuer signs in anyone without a password. It shows what a shop's back end does for a page that uses tokens:
it keeps the session, signs short-lived tokens for its user, and publishes the public key at ``/jwks.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from flask import Flask, Response, jsonify, request, send_from_directory
from jwt.algorithms import ECAlgorithm
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from socketserver import BaseServer

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
_FILES = (".html", ".css", ".js")
_USERS = ("ada", "grace")
_ISSUER, _AUDIENCE = "https://toy-issuer.invalid/", "toy-shop-carts"
_COOKIE = "toy-session"
_TOKEN_SECONDS = 300
_STOP_SECONDS = 30  # longer than the graceful time-out of gunicorn.conf.py


class Issuer:
    """Signs tokens for the users of the toy shop, with a key that it makes itself."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._key_id = secrets.token_hex(4)

    def key_set(self) -> dict[str, object]:
        """Return the public key, as a JSON Web Key Set (RFC 7517)."""
        public = json.loads(ECAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [public | {"alg": "ES256", "kid": self._key_id, "use": "sig"}]}

    def token(self, user: str) -> str:
        """Return a token of this user for the cart service."""
        claims = {"sub": user, "exp": int(time.time()) + _TOKEN_SECONDS, "iss": _ISSUER, "aud": _AUDIENCE}
        return jwt.encode(claims, self._key, "ES256", headers={"kid": self._key_id})


def create_shop(service: str) -> Flask:
    """Return the shop, for a cart service that browsers and the shop itself reach at the URL ``service``."""
    shop = Flask(__name__, static_folder=None)
    issuer = Issuer()
    shop.after_request(partial(_protect, service))
    shop.add_url_rule("/settings.json", "settings", lambda: jsonify(service=service))
    shop.add_url_rule("/jwks.json", "jwks", lambda: jsonify(issuer.key_set()))
    shop.add_url_rule("/orders", "order", partial(_order, service), methods=["POST"])

    @shop.get("/")
    @shop.get("/<name>")
    def page(name: str = "index.html") -> Response:
        """Return a file of the page."""
        return send_from_directory(_HERE, name) if name.endswith(_FILES) else Response(status=404)

    @shop.post("/session")
    def sign_in() -> Response:
        """Begin a session of a user, without a password."""
        user = request.get_json()["user"]
        if user not in _USERS:
            return Response(status=422)
        response = Response(status=204)
        response.set_cookie(_COOKIE, user, httponly=True, samesite="Strict")
        return response

    @shop.delete("/session")
    def sign_out() -> Response:
        """End the session."""
        response = Response(status=204)
        response.delete_cookie(_COOKIE, httponly=True, samesite="Strict")
        return response

    @shop.get("/cart-token")
    def cart_token() -> Response:
        """Return the user of the session with a token for the cart service; null without a session."""
        user = request.cookies.get(_COOKIE)
        return jsonify({"user_id": user, "token": issuer.token(user)} if user in _USERS else None)

    return shop


def _order(service: str) -> Response:
    """Take the cart that the shopper saw; return the response of the cart service.

    The token is the shopper's own, so the toy need not check whose cart it is. A real back end has a token of its own,
    and re-prices the cart first (docs/storefront.md, "Checkout").
    """
    wanted = request.get_json()
    headers = {name: request.headers[name] for name in ("Authorization", "Idempotency-Key")}
    with closing(HTTPConnection(urlsplit(service).netloc, timeout=_STOP_SECONDS)) as connection:
        path = f"/cart/{quote(wanted['user_id'], safe='')}"
        connection.request("DELETE", path, headers=headers | {"If-Match": wanted["etag"]})
        taken = connection.getresponse()
        return Response(taken.read(), taken.status, content_type=taken.headers["Content-Type"])


def _protect(service: str, response: Response) -> Response:
    """Allow the page its own files and the cart service, and nothing else."""
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' {service}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response


def service_settings(host: str, port: int, page_port: int) -> dict[str, str]:
    """Return the environment of a cart service on ``port`` that accepts the tokens of the shop on ``page_port``."""
    return {
        "HOST": host,
        "PORT": str(port),
        "CARTSVC_AUTH": "jwt",
        "CARTSVC_JWT_JWKS_URL": f"http://127.0.0.1:{page_port}/jwks.json",
        "CARTSVC_JWT_ISSUER": _ISSUER,
        "CARTSVC_JWT_AUDIENCE": _AUDIENCE,
        "CARTSVC_GUEST_KEY": secrets.token_urlsafe(32),
        "CARTSVC_CORS_ORIGINS": f"http://127.0.0.1:{page_port},http://localhost:{page_port}",
        "CARTSVC_MAX_QUANTITY": "9",
        "CARTSVC_MAX_METADATA_VALUE": "120",
    }


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """Log nothing."""


def _start_service(settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a cart service with these settings; those of the shell do not count."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CARTSVC_")}
    command = [str(Path(sys.executable).with_name("gunicorn")), "wsgi:app"]
    # In a group of its own, because Ctrl-C would stop it at once, and with a traceback of each worker.
    return subprocess.Popen(command, cwd=_ROOT, env=kept | settings, process_group=0)  # noqa: S603 - our own


def _becomes_live(service: subprocess.Popen[bytes], port: int) -> bool:
    """Return True once the service responds, or False once it has ended."""
    while service.poll() is None:
        try:
            with closing(HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", "/healthz")
                connection.getresponse()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def _stop_after(service: subprocess.Popen[bytes], server: BaseServer) -> None:
    service.wait()
    server.shutdown()


def _stop(*_: object) -> None:
    raise SystemExit(0)


def main() -> None:
    """Serve the page and run the cart service, until Ctrl-C or until the service ends."""
    arguments = argparse.ArgumentParser(description="A toy shop, which signs in anyone without a password.")
    arguments.add_argument("--host", default="127.0.0.1", help="address of both (default: %(default)s)")
    arguments.add_argument("--port", type=int, default=8090, help="port of the page (default: %(default)s)")
    arguments.add_argument("--service-port", type=int, default=8091, help="port of the service (default: %(default)s)")
    given = arguments.parse_args()
    shop = create_shop(f"http://127.0.0.1:{given.service_port}")
    server = make_server(given.host, given.port, shop, threaded=True, request_handler=_Quiet)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    service = _start_service(service_settings(given.host, given.service_port, given.port))
    try:
        if _becomes_live(service, given.service_port):
            Thread(target=_stop_after, args=(service, server), daemon=True).start()
            sys.stdout.write(
                f"\nA toy shop, which signs in anyone without a password: http://localhost:{given.port}\n\n"
            )
            sys.stdout.flush()
            server.serve_forever()
    finally:
        service.terminate()
        service.wait(_STOP_SECONDS)
    sys.exit("The cart service has ended.")


if __name__ == "__main__":
    main()
