"""Reads the conditional headers: Idempotency-Key, If-Match, If-None-Match."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
from werkzeug.exceptions import BadRequest

from cartsvc.api.flask_app import current_request
from cartsvc.carts.conditions import ANY_TAG, WriteConditions
from cartsvc.carts.record import DIGEST_BYTES

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
# RFC 9110, 8.8.3: an opaque tag in quotes, which may be weak. Section 5.6.1: a list may have empty members.
_TAG = r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
# Compressing proxies add these to a tag, so that it identifies the compressed representation.
_SUFFIXES = ("-gzip", "--gzip", ";gzip", "-br", "-zstd")
# Possessive (*+), because white space that can be split in many ways would take exponential time.
_TAGS = re.compile(rf"[ \t,]*+{_TAG}(?:[ \t]*+,[ \t]*+(?:{_TAG})?)*+[ \t]*+")


def write_conditions(body: Any = None) -> WriteConditions:  # noqa: ANN401 - whatever the schema made of the body
    """Return the conditions of this write. Raises BadRequest for a malformed header.

    ``body`` is what the schema read, so a retry may format the same JSON differently.
    """
    request = current_request()
    key = request.environ.get("HTTP_IDEMPOTENCY_KEY")
    if_match, if_none_match = entity_tags("If-Match"), entity_tags("If-None-Match")
    if key is None:
        return WriteConditions(if_match=if_match, if_none_match=if_none_match)
    if not _KEY.fullmatch(key):
        raise BadRequest("The Idempotency-Key must be 1 to 255 visible ASCII characters.")
    fingerprint = msgspec.json.encode([request.method, request.path, body], order="deterministic")
    return WriteConditions(_digest(key.encode()), _digest(fingerprint), if_match, if_none_match)


def entity_tags(header: str) -> frozenset[str] | None:
    """Return the entity tags of this header without quotes, ANY_TAG for ``*``, or None if the header is absent.

    Raises BadRequest if it is malformed. A weak tag counts as the strong one, and a tag with the suffix of a content
    coding also counts as the tag without it, because compressing proxies change tags in these ways.
    """
    # From the WSGI environment, because werkzeug's lookups of the three headers take 4 % of a POST.
    text = current_request().environ.get(f"HTTP_{header.upper().replace('-', '_')}")
    if text is None:
        return None
    if text.strip(" \t") == "*":
        return ANY_TAG
    if not _TAGS.fullmatch(text):
        raise BadRequest(f'{header} must be * or a list of quoted entity tags such as "abc".')
    found = re.findall(_TAG, text)
    # The whole tag counts too, because one tag in 260,000 ends in "-br" by chance. All suffixes are tried, because one
    # tag in 64 ends in "-", and "-gzip" after it looks like "--gzip".
    return frozenset([*found, *[tag.removesuffix(suffix) for tag in found for suffix in _SUFFIXES]])


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]
