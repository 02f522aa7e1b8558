"""The shapes of requests and responses: what marshmallow reads, and what /openapi.json publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from marshmallow import RAISE, Schema, ValidationError, fields, post_load
from marshmallow.validate import Length, OneOf
from msgspec import structs

from cartsvc.carts.cart import MAX_SUBTOTAL
from cartsvc.carts.combine import STRATEGIES
from cartsvc.carts.strings import CURRENCY, PRODUCT_ID, STORED_PRODUCT_ID, USER_ID
from cartsvc.carts.validation import MAX_LINES, ItemChange, NewItem
from cartsvc.errors import FAULT_CODES

if TYPE_CHECKING:
    from cartsvc.carts.combine import Strategy

_TIME = "2026-01-02T03:04:05Z"
ITEM_EXAMPLE = {
    "item_id": "sku-1",
    "product_id": "sku-1",
    "options": {},
    "quantity": 2,
    "unit_price": 1999,
    "line_total": 3998,
    "added_at": _TIME,
}
ITEM_INPUT_EXAMPLE = {"product_id": "sku-1", "quantity": 2, "unit_price": 1999, "currency": "EUR"}
CART_EXAMPLE = {
    "user_id": "alice",
    "version": 1,
    "items": [ITEM_EXAMPLE],
    "item_count": 1,
    "total_quantity": 2,
    "currency": "EUR",
    "subtotal": 3998,
    "created_at": _TIME,
    "updated_at": _TIME,
    "expires_at": "2026-02-01T03:04:05Z",
}


class _Strict(Schema):
    class Meta:
        unknown = RAISE


def _string(**metadata: Any) -> fields.String:  # noqa: ANN401 - JSON Schema keywords
    return fields.String(required=True, metadata=metadata)


def _integer(*, required: bool = True, allow_none: bool = False, **metadata: Any) -> fields.Integer:  # noqa: ANN401 - JSON Schema keywords
    """Return a field for JSON integers, which rejects "3", 3.0 and true."""
    return fields.Integer(strict=True, required=required, allow_none=allow_none, metadata=metadata)


def _time(**metadata: Any) -> fields.DateTime:  # noqa: ANN401 - JSON Schema keywords
    return fields.DateTime(required=True, allow_none=True, metadata=metadata)


def _read_only() -> fields.Raw:
    return fields.Raw(dump_only=True, metadata={"description": "Accepted and ignored."})


# ---- responses ----


class ItemSchema(_Strict):
    """One line of a cart."""

    item_id = _string(description="Identifies the item in URLs. Opaque: do not parse it.", examples=["sku-1"])
    product_id = _string(**STORED_PRODUCT_ID.json_schema(), description="In Unicode NFC.")
    options = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={"description": "Names and values in Unicode NFC."},
    )
    quantity = _integer(minimum=1)
    unit_price = _integer(
        allow_none=True,
        minimum=0,
        description="Minor units. Not verified: for display only.",
    )
    line_total = _integer(allow_none=True, minimum=0, description="`quantity` times `unit_price`, or null.")
    added_at = fields.DateTime(required=True)


class CartSchema(_Strict):
    """One user's cart. An absent cart has version 0, no items and null times."""

    user_id = _string()
    version = _integer(minimum=0, description="Number of changes. For preconditions, use the ETag.")
    items = fields.List(fields.Nested(ItemSchema), required=True)
    item_count = _integer(minimum=0)
    total_quantity = _integer(minimum=0)
    currency = fields.String(required=True, allow_none=True, metadata=dict(CURRENCY.json_schema()))
    subtotal = _integer(
        allow_none=True, minimum=0, maximum=MAX_SUBTOTAL, description="Minor units; null unless every item has a price."
    )
    created_at = _time()
    updated_at = _time()
    expires_at = _time(description="When the cart expires. Each change extends it.")


class FaultSchema(Schema):
    """One fault of a request. Members that do not apply are absent."""

    pointer = _string(
        description="A JSON Pointer (RFC 6901) into the request body; with `in`, `/` and the name of a parameter.",
        examples=["/quantity"],
    )
    detail = _string(description="A sentence in English. It may change.")
    code = _string(enum=list(FAULT_CODES), description="Decide by this code, and word messages after it.")
    limit = fields.Integer(metadata={"description": "The limit that was exceeded.", "examples": [999]})
    value = fields.Integer(metadata={"description": "The value that is wrong.", "examples": [1004]})
    item_id = fields.String(metadata={"description": "The item at fault."})
    currency = fields.String(metadata={"description": "The currency that was expected."})
    location = fields.String(
        data_key="in",
        metadata={
            "enum": ["path"],
            "description": "`path`: the pointer names a parameter of the path, not of the body.",
        },
    )


class HealthSchema(_Strict):
    """The state of the process."""

    status = _string(enum=["ok"])


class ReadinessSchema(HealthSchema):
    """The state of the service and its store."""

    writes = _string(
        enum=["ok", "full"], description="`full`: carts can be read, reduced and deleted, but they cannot grow."
    )


# ---- requests ----


class _StringMap(fields.Dict):
    """A mapping of names to texts, whose faults have the pointer of the name; marshmallow's Dict adds a step."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - marshmallow's own
        super().__init__(keys=fields.String(), values=fields.String(), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - marshmallow's own
        try:
            return super()._deserialize(value, attr, data, **kwargs)  # type: ignore[no-untyped-call] # it has no types
        except ValidationError as error:
            if not isinstance(error.messages, dict):
                raise
            by_name = {name: texts for name, of in error.messages.items() for texts in of.values()}
            raise ValidationError(by_name) from error


class _Request(_Strict):
    """A body that may be an edited response. Its read-only members are accepted and ignored, whatever their values."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - marshmallow's own
        super().__init__(**kwargs)
        self._ignored = self.dump_fields.keys() - self.load_fields.keys()

    def load(self, data: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - marshmallow's own
        if isinstance(data, dict) and not self._ignored.isdisjoint(data):
            data = {name: value for name, value in data.items() if name not in self._ignored}
        return super().load(data, **kwargs)


class PriceSchema(_Request):
    """The members that ItemInput and ItemUpdate share."""

    unit_price = _integer(required=False, allow_none=True, minimum=0, description="Minor units. Requires `currency`.")
    currency = fields.String(
        allow_none=True, metadata={**CURRENCY.json_schema(), "description": "ISO 4217.", "examples": ["EUR"]}
    )
    item_id = _read_only()
    line_total = _read_only()
    added_at = _read_only()


class ItemInputSchema(PriceSchema):
    """An item to add to a cart."""

    product_id = _string(
        **PRODUCT_ID.json_schema(),
        description="No control characters. Stored in Unicode NFC, which makes a few characters longer.",
        examples=["sku-1"],
    )
    quantity = _integer(minimum=1, examples=[2])
    options = _StringMap(
        allow_none=True,
        metadata={
            "description": "Size, colour and so on. The same product with different options is a different item. "
            "Names and values are compared and stored in Unicode NFC; each name is unique."
        },
    )

    @post_load
    def _new_item(self, data: dict[str, Any], **_: object) -> NewItem:
        return NewItem(
            product_id=data["product_id"],
            quantity=data["quantity"],
            options=data.get("options") or {},
            unit_price=data.get("unit_price"),
            currency=data.get("currency"),
        )


class ItemUpdateSchema(PriceSchema):
    """A new quantity, or a new price with its currency, or both. A null member leaves the value unchanged."""

    quantity = _integer(required=False, allow_none=True, minimum=0, description="0 removes the item.", examples=[3])

    @post_load
    def _change(self, data: dict[str, Any], **_: object) -> ItemChange:
        return ItemChange(
            quantity=data.get("quantity"), unit_price=data.get("unit_price"), currency=data.get("currency")
        )


class ItemsInputSchema(_Strict):
    """Items to add to a cart, all or none."""

    items = fields.List(fields.Nested(ItemInputSchema), required=True, validate=Length(1, MAX_LINES))

    @post_load
    def _new_items(self, data: dict[str, Any], **_: object) -> list[NewItem]:
        return _with_pointers(data["items"])


class CartInputSchema(_Request):
    """The complete new contents of a cart. The response to a GET can be sent back."""

    items = fields.List(fields.Nested(ItemInputSchema), required=True)
    currency = fields.String(
        allow_none=True,
        metadata={**CURRENCY.json_schema(), "description": "The currency of items that specify none."},
    )
    user_id = _read_only()
    version = _read_only()
    item_count = _read_only()
    total_quantity = _read_only()
    subtotal = _read_only()
    created_at = _read_only()
    updated_at = _read_only()
    expires_at = _read_only()

    @post_load
    def _contents(self, data: dict[str, Any], **_: object) -> CartContents:
        return CartContents(_with_pointers(data["items"]), data.get("currency"))


class MergeInputSchema(_Strict):
    """The cart to merge into this cart, and the strategy for items that are in both."""

    from_user_id = _string(
        **USER_ID.json_schema(),
        description="The user whose cart is merged and then deleted.",
        examples=["guest-3xKq2v0PzT9cW1bYd7Rf4A"],
    )
    strategy = fields.String(
        allow_none=True,
        validate=OneOf(STRATEGIES),
        metadata={
            "default": "sum",
            "description": "For items in both carts, `sum` adds the quantities, `max` takes the larger quantity, and "
            "`keep` leaves the target's item unchanged. `replace` discards the target's items.",
        },
    )
    from_token = fields.String(
        allow_none=True, metadata={"description": "The guest's token, which proves access to that cart."}
    )

    @post_load
    def _merge(self, data: dict[str, Any], **_: object) -> Merge:
        return Merge(data["from_user_id"], data.get("strategy") or "sum", data.get("from_token"))


class GuestSchema(_Strict):
    """A shopper without an account."""

    user_id = _string(description="Unguessable. Anyone who knows it can use the cart.")
    token = fields.String(required=True, allow_none=True, metadata={"description": "Null without authentication."})


class Merge(NamedTuple):
    """The body of a merge."""

    from_user_id: str
    strategy: Strategy
    from_token: str | None


class CartContents(NamedTuple):
    """The body of a PUT."""

    new_items: list[NewItem]
    currency: str | None


def _with_pointers(new_items: list[NewItem]) -> list[NewItem]:
    return [structs.replace(new_item, pointer=f"/items/{index}") for index, new_item in enumerate(new_items)]


ITEM_SCHEMA, CART_SCHEMA, GUEST_SCHEMA, HEALTH_SCHEMA, READINESS = (
    ItemSchema(),
    CartSchema(),
    GuestSchema(),
    HealthSchema(),
    ReadinessSchema(),
)
MERGE_INPUT_SCHEMA = MergeInputSchema()
ITEM_INPUT_SCHEMA, ITEMS_INPUT_SCHEMA, CART_INPUT_SCHEMA, ITEM_UPDATE_SCHEMA = (
    ItemInputSchema(),
    ItemsInputSchema(),
    CartInputSchema(),
    ItemUpdateSchema(),
)
