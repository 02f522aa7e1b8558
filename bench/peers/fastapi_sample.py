"""The sample that people begin with: FastAPI and a dict, so it runs in one process and forgets all carts on a stop."""

from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

app = FastAPI(title="cart")


class Item(BaseModel):
    """A product in a cart."""

    product_id: str = Field(min_length=1)
    quantity: int = Field(gt=0)
    unit_price: int | None = Field(default=None, ge=0)
    currency: str | None = None


class Quantity(BaseModel):
    """A new quantity of an item."""

    quantity: int = Field(gt=0)


carts: dict[str, dict[str, Item]] = {}


def _cart(user_id: str) -> dict[str, Any]:
    items = list(carts.get(user_id, {}).values())
    return {"user_id": user_id, "items": items, "total_quantity": sum(item.quantity for item in items)}


@app.get("/cart/{user_id}")
async def get_cart(user_id: str):
    """Return the cart."""
    return _cart(user_id)


@app.post("/cart/{user_id}", status_code=201)
async def add_item(user_id: str, item: Item):
    """Add an item, or increase its quantity."""
    cart = carts.setdefault(user_id, {})
    if item.product_id in cart:
        cart[item.product_id].quantity += item.quantity
    else:
        cart[item.product_id] = item
    return _cart(user_id)


@app.patch("/cart/{user_id}/items/{product_id}")
async def set_quantity(user_id: str, product_id: str, change: Quantity):
    """Set the quantity of an item."""
    cart = carts.get(user_id, {})
    if product_id not in cart:
        raise HTTPException(404, "no such item")
    cart[product_id].quantity = change.quantity
    return _cart(user_id)


@app.delete("/cart/{user_id}", status_code=204)
async def delete_cart(user_id: str) -> None:
    """Delete the cart."""
    carts.pop(user_id, None)
