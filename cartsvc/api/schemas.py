"""The shapes of responses: what /openapi.json publishes, and the fields that requests share with them."""

from __future__ import annotations

from typing import Any

from marshmallow import EXCLUDE, Schema, fields

from cartsvc.carts.cart import MAX_SUBTOTAL
from cartsvc.carts.strings import CURRENCY, STORED_PRODUCT_ID
from cartsvc.errors import FAULT_CODES

_TIME = "2026-01-02T03:04:05.678Z"
ITEM_EXAMPLE = {
    "item_id": "sku-1",
    "product_id": "sku-1",
    "options": {},
    "quantity": 2,
    "unit_price": 1999,
    "currency": "EUR",
    "line_total": 3998,
    "metadata": {"title": "Mug"},
    "added_at": _TIME,
}
CART_EXAMPLE = {
    "user_id": "alice",
    "version": 1,
    "items": [ITEM_EXAMPLE],
    "item_count": 1,
    "total_quantity": 2,
    "currency": "EUR",
    "subtotal": 3998,
    "metadata": {},
    "created_at": _TIME,
    "updated_at": _TIME,
    "expires_at": "2026-02-01T03:04:05.678Z",
}
MERGED_CART_EXAMPLE = CART_EXAMPLE | {"adjustments": []}


def text_field(**metadata: Any) -> fields.String:  # noqa: ANN401 - JSON Schema keywords
    """Return a field for a text that must be given."""
    return fields.String(required=True, metadata=metadata)


def integer_field(*, required: bool = True, allow_none: bool = False, **metadata: Any) -> fields.Integer:  # noqa: ANN401 - JSON Schema keywords
    """Return a field for JSON integers, which rejects "3", 3.0 and true."""
    return fields.Integer(
        strict=True, required=required, allow_none=allow_none, metadata={"format": "int64", **metadata}
    )


def _time(**metadata: Any) -> fields.DateTime:  # noqa: ANN401 - JSON Schema keywords
    return fields.DateTime(required=True, allow_none=True, metadata=metadata)


def _members(description: str) -> fields.Dict:
    """Return a field of a response for an object of strings."""
    return fields.Dict(
        keys=fields.String(), values=fields.String(), required=True, metadata={"description": description}
    )


def _currency(**metadata: Any) -> fields.String:  # noqa: ANN401 - JSON Schema keywords
    return fields.String(required=True, allow_none=True, metadata={**CURRENCY.json_schema(), **metadata})


class _Response(Schema):
    class Meta:
        unknown = EXCLUDE  # clients must accept members that are added later


class ItemSchema(_Response):
    """One line of a cart."""

    item_id = text_field(description="Identifies the item in URLs. Opaque: do not parse it.", examples=["sku-1"])
    product_id = text_field(**STORED_PRODUCT_ID.json_schema(), description="In Unicode NFC.")
    options = _members("Names and values in Unicode NFC.")
    quantity = integer_field(minimum=1)
    unit_price = integer_field(
        allow_none=True,
        minimum=0,
        description="Minor units. Not verified: for display only.",
    )
    currency = _currency(description="That of the cart; null without a price.")
    line_total = integer_field(allow_none=True, minimum=0, description="`quantity` times `unit_price`, or null.")
    metadata = _members("What the client has stored with the item.")
    added_at = fields.DateTime(required=True)


class CartSchema(_Response):
    """One user's cart. An absent cart has version 0, no items and null times."""

    user_id = text_field()
    version = integer_field(minimum=0, description="Number of changes. For preconditions, use the ETag.")
    items = fields.List(fields.Nested(ItemSchema), required=True)
    item_count = integer_field(minimum=0)
    total_quantity = integer_field(minimum=0)
    currency = _currency()
    subtotal = integer_field(
        allow_none=True, minimum=0, maximum=MAX_SUBTOTAL, description="Minor units; null unless every item has a price."
    )
    metadata = _members("What the client has stored with the cart.")
    created_at = _time(description="Of two responses, the one with the later time is newer, then the higher version.")
    updated_at = _time()
    expires_at = _time(description="When the cart expires. Each change extends it.")


class AdjustmentSchema(_Response):
    """What a merge has cut of one item to stay within the limits."""

    item_id = text_field()
    code = text_field(
        enum=["currency_mismatch", "max_quantity", "max_items", "max_subtotal", "max_cart_bytes"],
        description="The limit. With `currency_mismatch`, the item has lost its price.",
    )
    requested = integer_field(minimum=1, description="The quantity that the item would have.")
    applied = integer_field(minimum=0, description="The quantity in the cart; 0 if the item was left out.")


class MergedCartSchema(CartSchema):
    """A cart after a merge, and what the merge has cut."""

    adjustments = fields.List(
        fields.Nested(AdjustmentSchema), required=True, metadata={"description": "Empty in a replay."}
    )


class FaultSchema(_Response):
    """One fault of a request. Members that do not apply are absent."""

    pointer = text_field(
        description="A JSON Pointer (RFC 6901) into the request body; with `in`, `/` and the name of a parameter.",
        examples=["/quantity"],
    )
    detail = text_field(description="A sentence in English. It may change.")
    code = text_field(enum=list(FAULT_CODES), description="Decide by this code, and word messages after it.")
    limit = integer_field(required=False, description="The limit that was exceeded.", examples=[999])
    value = integer_field(required=False, description="The value that is wrong.", examples=[1004])
    item_id = fields.String(metadata={"description": "The item at fault."})
    currency = fields.String(metadata={"description": "The currency that was expected."})
    location = fields.String(
        data_key="in",
        metadata={"enum": ["path"], "description": "`path`: the pointer names a parameter of the path."},
    )


class GuestSchema(_Response):
    """A shopper without an account."""

    user_id = text_field(description="Unguessable, because it gives access to the cart.")
    token = fields.String(required=True, allow_none=True, metadata={"description": "Null without authentication."})


class _StatusSchema(_Response):
    status = text_field(enum=["ok"])


class HealthSchema(_StatusSchema):
    """The state of the process."""

    version = text_field(description="The version of the service.")


class ReadinessSchema(_StatusSchema):
    """The state of the service and its store."""

    writes = text_field(
        enum=["ok", "full"], description="`full`: carts can be read, reduced and deleted, but they cannot grow."
    )


ITEM_SCHEMA, CART_SCHEMA, MERGED_CART_SCHEMA, GUEST_SCHEMA, HEALTH_SCHEMA, READINESS = (
    ItemSchema(),
    CartSchema(),
    MergedCartSchema(),
    GuestSchema(),
    HealthSchema(),
    ReadinessSchema(),
)
