"""Secrets, key pairs and settings of authentication for the tests of tokens."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from cartsvc.auth.config import GUEST_AUDIENCE, GUEST_ISSUER, AuthConfig, load_auth_config

SECRET = "shop-" + "s" * 40
GUEST_SECRET = "guest-" + "g" * 40
OTHER_SECRET = "other-" + "o" * 40
ISSUER = "https://issuer.example/"
AUDIENCE = "https://carts.example"

# A service with authentication, for serve().
ENVIRONMENT = {"CARTSVC_AUTH": "jwt", "CARTSVC_JWT_KEY": SECRET, "CARTSVC_GUEST_KEY": GUEST_SECRET}


def user_token(user_id: str, *, scope: str = "", seconds: int = 300) -> str:
    """Return a token of the shop for this user, which expires in ``seconds``."""
    return jwt.encode({"sub": user_id, "exp": int(time.time()) + seconds, "scope": scope}, SECRET, "HS256")


def guest_token(user_id: str, *, seconds: int = 300) -> str:
    """Return a token of the service for this guest, which expires in ``seconds``."""
    claims = {"sub": user_id, "exp": int(time.time()) + seconds, "iss": GUEST_ISSUER, "aud": GUEST_AUDIENCE}
    return jwt.encode(claims, GUEST_SECRET, "HS256", headers={"typ": "cartsvc-guest+jwt"})


def settings(**changes: str | None) -> AuthConfig:
    """Return the settings of a shop that signs with a secret, with these changes."""
    defaults: dict[str, str | None] = {
        "key": SECRET,
        "jwks_url": None,
        "algorithms": None,
        "issuer": None,
        "audience": None,
        "guest_key": GUEST_SECRET,
    }
    return load_auth_config(**(defaults | changes))  # type: ignore[arg-type]


@cache
def pair(kind: str) -> Any:
    """Return a private key of this kind."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "weak rsa":
        return rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is to be rejected
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(
        {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1(), "k1": ec.SECP256K1()}[kind]
    )


def public_pem(kind: str) -> str:
    public = pair(kind).public_key()
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def private_pem(kind: str, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return str(pair(kind).private_bytes(Encoding.PEM, form, NoEncryption()).decode())


KIND_OF = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "rsa"),
    "ES256": "p256",
    "ES384": "p384",
    "ES512": "p521",
    "ES256K": "k1",
    "EdDSA": "ed25519",
}
