"""The shapes of requests: what marshmallow reads, and what /openapi.json publishes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from marshmallow import RAISE, Schema, ValidationError, fields, post_load
from marshmallow.validate import OneOf
from msgspec import structs

from cartsvc.api.schemas import integer_field, text_field
from cartsvc.carts.combine import ON_LIMITS, STRATEGIES
from cartsvc.carts.strings import CURRENCY, PRODUCT_ID, USER_ID
from cartsvc.carts.validation import (
    MAX_LINES,
    ItemChange,
    NewItem,
    change_faults,
    metadata_faults,
    new_item_faults,
    user_id_faults,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.cart import Limits
    from cartsvc.carts.combine import OnLimit, Strategy
    from cartsvc.errors import Fault

ITEM_INPUT_EXAMPLE = {
    "product_id": "sku-1",
    "quantity": 2,
    "unit_price": 1999,
    "currency": "EUR",
    "metadata": {"title": "Mug"},
}
UNKNOWN_CHOICE = "Not a documented choice."  # the message of a fault


class _StringMap(fields.Dict):
    """A mapping of names to texts, whose faults have the pointer of the name; marshmallow's Dict adds a step."""

    def __init__(self, description: str, *, required: bool = False) -> None:
        super().__init__(
            keys=fields.String(),
            values=fields.String(),
            required=required,
            allow_none=not required,
            metadata={"description": description},
        )

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - marshmallow's own
        try:
            return super()._deserialize(value, attr, data, **kwargs)  # type: ignore[no-untyped-call] # it has no types
        except ValidationError as error:
            if not isinstance(error.messages, dict):
                raise
            by_name = {name: texts for name, of in error.messages.items() for texts in of.values()}
            raise ValidationError(by_name) from error


_LINES = {"minItems": 1, "maxItems": MAX_LINES}
_METADATA = "Replaces the earlier metadata; null keeps it. Not part of what the item is."


class _Strict(Schema):
    class Meta:
        unknown = RAISE


class Request(_Strict):
    """A body that may be an edited response. Members that only responses have are ignored, whatever their values."""

    ignored: ClassVar[frozenset[str]] = frozenset()

    def load(self, data: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - marshmallow's own
        """Return what the schema makes of the body. Raises ValidationError."""
        if isinstance(data, dict) and not self.ignored.isdisjoint(data):
            data = {name: value for name, value in data.items() if name not in self.ignored}
        return super().load(data, **kwargs)

    def readable(self, data: object) -> dict[str, Any]:
        """Return the members that have the right types, as :meth:`load` reads them."""
        found: dict[str, Any] = {}
        for name, value in data.items() if isinstance(data, dict) else ():
            field = self.load_fields.get(name)
            if isinstance(field, _StringMap) and isinstance(value, dict):
                found[name] = {each: text for each, text in value.items() if isinstance(text, str)}
            elif field is not None:
                with suppress(ValidationError):
                    found[name] = field.deserialize(value)
        return found

    def value_faults(self, data: object, limits: Limits) -> list[Fault]:
        """Return the faults of the values in a body of which some members have wrong types."""
        raise NotImplementedError


class _PriceSchema(Request):
    """The members that items and changes of items share."""

    ignored = frozenset({"item_id", "line_total", "added_at"})

    unit_price = integer_field(
        required=False, allow_none=True, minimum=0, description="Minor units. Requires `currency`."
    )
    currency = fields.String(
        allow_none=True, metadata={**CURRENCY.json_schema(), "description": "ISO 4217.", "examples": ["EUR"]}
    )
    metadata = _StringMap(_METADATA)


class ItemInputSchema(_PriceSchema):
    """An item to add to a cart. An item of a response can be sent back."""

    product_id = text_field(
        **PRODUCT_ID.json_schema(),
        description="No control characters. Stored in Unicode NFC, which makes a few characters longer.",
        examples=["sku-1"],
    )
    quantity = integer_field(minimum=1, examples=[2])
    options = _StringMap(
        "Size, colour and so on. The same product with different options is a different item. "
        "Names and values are compared and stored in Unicode NFC; each name is unique."
    )

    @post_load
    def _new_item(self, data: dict[str, Any], **_: object) -> NewItem:
        return NewItem(
            product_id=data["product_id"],
            quantity=data["quantity"],
            options=data.get("options") or {},
            unit_price=data.get("unit_price"),
            currency=data.get("currency"),
            metadata=data.get("metadata"),
        )

    def new_item(self, data: object, pointer: str = "") -> NewItem:
        """Return what can be read of an item; what cannot be read has values without a fault."""
        made: NewItem = self._new_item({"product_id": "?", "quantity": 1, **self.readable(data)})
        return structs.replace(made, pointer=pointer)

    def value_faults(self, data: object, limits: Limits) -> list[Fault]:
        """Return the faults of the values that can be read."""
        return new_item_faults([self.new_item(data)], limits=limits)


class ItemUpdateSchema(_PriceSchema):
    """New values of an item. A null member leaves the value unchanged. An item of a response can be sent back."""

    quantity = integer_field(
        required=False, allow_none=True, minimum=0, description="0 removes the item.", examples=[3]
    )
    product_id = fields.String(allow_none=True, metadata={"description": "The item's own: it cannot be changed."})
    options = _StringMap(
        "Other options turn the item into that variant, in its place. If the cart has that variant, the two are added "
        "up."
    )

    @post_load
    def _change(self, data: dict[str, Any], **_: object) -> ItemChange:
        return ItemChange(**data)

    def change(self, data: object, pointer: str = "") -> ItemChange:
        """Return what can be read of a change."""
        made: ItemChange = self._change(self.readable(data))
        return structs.replace(made, pointer=pointer)

    def value_faults(self, data: object, limits: Limits) -> list[Fault]:
        """Return the faults of the values that can be read."""
        return change_faults([self.change(data)], limits=limits)


class ItemsUpdateItemSchema(ItemUpdateSchema):
    """New values of the item with this `item_id`. A null member leaves the value unchanged."""

    ignored = _PriceSchema.ignored - {"item_id"}

    item_id = text_field(description="The `item_id` of an item in the cart.", examples=["sku-1"])


class ItemsUpdateSchema(Request):
    """Changes of items, all or none."""

    items = fields.List(fields.Nested(ItemsUpdateItemSchema), required=True, metadata=_LINES)

    @post_load
    def _changes(self, data: dict[str, Any], **_: object) -> list[ItemChange]:
        return _with_pointers(data["items"])

    def value_faults(self, data: object, limits: Limits) -> list[Fault]:
        """Return the faults of the values that can be read."""
        return change_faults(_read_lines(data, _ITEMS_UPDATE_ITEM.change), limits=limits)


class ItemsInputSchema(Request):
    """Items to add to a cart, all or none."""

    max_lines: ClassVar[int | None] = MAX_LINES

    items = fields.List(fields.Nested(ItemInputSchema), required=True, metadata=_LINES)
    currency = fields.String(
        allow_none=True,
        metadata={**CURRENCY.json_schema(), "description": "The currency of items that specify none."},
    )

    @post_load
    def _contents(self, data: dict[str, Any], **_: object) -> CartContents:
        return CartContents(_with_pointers(data["items"]), data.get("currency"), data.get("metadata"))

    def value_faults(self, data: object, limits: Limits) -> list[Fault]:
        """Return the faults of the values that can be read."""
        members, lines = self.readable(data), _read_lines(data, ITEM_INPUT_SCHEMA.new_item)
        found = new_item_faults(lines, limits=limits, currency=members.get("currency"), max_lines=self.max_lines)
        return [*found, *metadata_faults(members.get("metadata") or {}, "", limits)]


class CartInputSchema(ItemsInputSchema):
    """The complete new contents of a cart. A cart of a response can be sent back."""

    ignored = frozenset(
        {
            *("user_id", "version", "item_count", "total_quantity", "subtotal", "adjustments"),
            *("created_at", "updated_at", "expires_at"),
        }
    )
    max_lines = None

    items = fields.List(fields.Nested(ItemInputSchema), required=True)
    metadata = _StringMap("Replaces the earlier metadata of the cart; null keeps it.")


class CartUpdateSchema(Request):
    """New metadata of a cart."""

    metadata = _StringMap("Replaces the earlier metadata of the cart.", required=True)

    @post_load
    def _metadata(self, data: dict[str, Any], **_: object) -> dict[str, str]:
        metadata: dict[str, str] = data["metadata"]
        return metadata

    def value_faults(self, data: object, limits: Limits) -> list[Fault]:
        """Return the faults of the values that can be read."""
        return list(metadata_faults(self.readable(data).get("metadata") or {}, "", limits))


class MergeInputSchema(Request):
    """The cart to merge into this cart, and the strategy for items that are in both."""

    from_user_id = text_field(
        **USER_ID.json_schema(),
        description="The user whose cart is merged and then deleted.",
        examples=["guest-3xKq2v0PzT9cW1bYd7Rf4A"],
    )
    strategy = fields.String(
        allow_none=True,
        validate=OneOf(STRATEGIES, error=UNKNOWN_CHOICE),
        metadata={
            "description": "For items in both carts, `sum` (when left out) adds the quantities, `max` takes the larger "
            "quantity, and `keep` leaves the target's item unchanged. `replace` discards the target's items.",
        },
    )
    on_limit = fields.String(
        allow_none=True,
        validate=OneOf(ON_LIMITS, error=UNKNOWN_CHOICE),
        metadata={
            "description": "If not all fits within the limits, `refuse` (when left out) rejects the merge. `clamp` "
            "cuts quantities to the limit, leaves out what does not fit, and lists it in `adjustments`.",
        },
    )
    from_token = fields.String(
        allow_none=True, metadata={"description": "The guest's token, which proves access to that cart."}
    )

    @post_load
    def _merge(self, data: dict[str, Any], **_: object) -> Merge:
        return Merge(
            data["from_user_id"],
            data.get("strategy") or "sum",
            data.get("on_limit") or "refuse",
            data.get("from_token"),
        )

    def value_faults(self, data: object, limits: Limits) -> list[Fault]:  # noqa: ARG002 - as of all requests
        """Return the faults of the values that can be read."""
        source = self.readable(data).get("from_user_id")
        return [] if source is None else user_id_faults(source, "/from_user_id")


class Merge(NamedTuple):
    """The body of a merge."""

    from_user_id: str
    strategy: Strategy
    on_limit: OnLimit
    from_token: str | None


class CartContents(NamedTuple):
    """The body of a PUT, and of a POST of several items."""

    new_items: list[NewItem]
    currency: str | None
    metadata: dict[str, str] | None


def _read_lines(data: object, read: Callable[[object, str], Any]) -> list[Any]:
    """Return what can be read of each item of a body."""
    lines = data.get("items") if isinstance(data, dict) else None
    return [read(line, f"/items/{index}") for index, line in enumerate(lines if isinstance(lines, list) else ())]


def _with_pointers(lines: list[Any]) -> list[Any]:
    return [structs.replace(line, pointer=f"/items/{index}") for index, line in enumerate(lines)]


_ITEMS_UPDATE_ITEM = ItemsUpdateItemSchema()
MERGE_INPUT_SCHEMA, CART_UPDATE_SCHEMA = MergeInputSchema(), CartUpdateSchema()
ITEM_INPUT_SCHEMA, ITEMS_INPUT_SCHEMA, CART_INPUT_SCHEMA, ITEM_UPDATE_SCHEMA, ITEMS_UPDATE_SCHEMA = (
    ItemInputSchema(),
    ItemsInputSchema(),
    CartInputSchema(),
    ItemUpdateSchema(),
    ItemsUpdateSchema(),
)
