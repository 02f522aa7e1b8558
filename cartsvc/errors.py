"""The exceptions of the service, as one tree. There is no HTTP in it.

::

    CartsvcError
    ├── SettingsError          the environment contains wrong settings; lists them all
    ├── StoreUnusable          no server can start on this store; the message is the reason
    ├── Unauthorized           the caller is not identified
    ├── Forbidden              the token does not open this cart
    ├── KeysUnavailable        the keys that verify tokens are unavailable
    ├── InvalidRequest         the request is wrong whatever the cart contains
    ├── IdempotencyKeyReused   the Idempotency-Key was used for another request
    ├── NotFound
    │   ├── CartNotFound       there is no such cart
    │   └── ItemNotFound       the cart has no such item
    ├── CartConflict           the request conflicts with the current cart
    │   ├── LimitExceeded      a limit would be exceeded
    │   ├── CurrencyMismatch   a second currency in one cart
    │   ├── CartSealed         the cart is being merged into another cart
    │   ├── CartMerged         the guest's cart was merged into another cart, and takes no more writes
    │   └── MergeAborted       other requests aborted this merge repeatedly
    ├── Draining               the server is about to stop
    ├── PreconditionFailed     the cart does not meet If-Match or If-None-Match
    ├── TooManyMerges          more simultaneous merges into a cart than it can remember
    ├── StoreError             the store is unavailable
    │   ├── OutcomeUnknown     a write was sent, and its result was lost
    │   └── StoreFull          no room for a larger record; existing records stay
    └── RecordUnreadable       stored bytes that are damaged or from a newer version
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from msgspec import UNSET, Struct, UnsetType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cartsvc.carts.cart import Cart


_MAX_WORDS_LENGTH = 300  # characters of a driver's message
_ARGUMENTS = re.compile(r"[, ]*with args beginning with.*", re.DOTALL)
_UNPRINTABLE = re.compile(r"[^ -~]+")


FaultCode: TypeAlias = Literal[
    "required",
    "unknown_member",
    "wrong_type",
    "invalid_value",
    "duplicate",
    "immutable",
    "currency_required",
    "currency_without_price",
    "currency_mismatch",
    "max_quantity",
    "max_items",
    "max_lines",
    "max_cart_bytes",
    "max_options",
    "max_option_name",
    "max_option_value",
    "max_unit_price",
    "max_subtotal",
    "max_metadata",
    "max_metadata_value",
]
FAULT_CODES: tuple[FaultCode, ...] = get_args(FaultCode)


class Fault(Struct, frozen=True, rename={"location": "in"}):
    """One fault of a request: its place, a sentence, and a code with its numbers, so that a page can word its own.

    ``pointer`` is a JSON Pointer (RFC 6901) into the request body, such as ``/items/3/quantity``; with ``location``
    "path" it names a parameter of the path. ``limit`` is the limit that ``value`` exceeds, ``item_id`` the item at
    fault, and ``currency`` the currency that was expected. A member that does not apply is UNSET, and is not encoded.
    """

    pointer: str
    detail: str
    code: FaultCode = "invalid_value"
    limit: int | UnsetType = UNSET
    value: int | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    currency: str | UnsetType = UNSET
    location: Literal["path"] | UnsetType = UNSET


def pointer_segment(name: str) -> str:
    """Return one step of a JSON Pointer: a slash and the escaped name (RFC 6901, section 3)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


class CartsvcError(Exception):
    """The base of all errors of this service. Its ``str()`` is safe to show to the client."""


class SettingsError(CartsvcError):
    """The environment contains wrong settings. ``faults`` has one line for each."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("cartsvc cannot start:\n" + "\n".join(f"  - {fault}" for fault in self.faults))


class _WithFaults(CartsvcError):
    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.pointer}: {fault.detail}" for fault in self.faults))


class Unauthorized(CartsvcError):
    """The caller is not identified. ``error`` is RFC 6750's code (section 3.1), or None if no token was sent."""

    def __init__(self, detail: str, *, error: Literal["invalid_request", "invalid_token"] | None) -> None:
        self.error = error
        super().__init__(detail)


class Forbidden(CartsvcError):
    """The token is valid, but not for this cart. The cart is not read, so its existence is not revealed."""

    error = "insufficient_scope"

    def __init__(self) -> None:
        super().__init__("This token does not open this cart.")


class KeysUnavailable(CartsvcError):
    """No token can be verified, because the issuer's keys have never been fetched."""

    def __init__(self) -> None:
        super().__init__("The token verification keys are temporarily unavailable. Nothing was changed.")


class InvalidRequest(_WithFaults):
    """The request is well-formed, and wrong whatever the cart contains. ``faults`` lists the places."""


class IdempotencyKeyReused(CartsvcError):
    """The Idempotency-Key was used for another request; nothing was changed."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was already used for a different request. Use a new key.")


class NotFound(CartsvcError):
    """The requested cart or item does not exist."""


class CartNotFound(NotFound):
    """There is no such cart: it was never created, or was deleted, or has expired."""

    def __init__(self) -> None:
        super().__init__("There is no such cart.")


class ItemNotFound(NotFound):
    """The cart exists, and has no item with that id. ``faults`` lists the places of the ids, if a body has them."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.faults = tuple(faults)
        super().__init__("The cart has no such item.")


class CartConflict(CartsvcError):
    """The request is valid, but conflicts with the current cart."""


class LimitExceeded(_WithFaults, CartConflict):
    """The change would exceed a limit of the cart. ``faults`` lists the places."""


class CurrencyMismatch(_WithFaults, CartConflict):
    """The change would add a second currency to the cart. ``faults`` lists the places."""


class CartSealed(CartConflict):
    """The cart is being merged into another cart. A few seconds later, the next write resolves that merge."""

    def __init__(self) -> None:
        super().__init__("This cart is being merged into another cart. Retry in a few seconds.")


class CartMerged(CartConflict):
    """The cart of this guest was merged into another cart. It is closed, so that no page adds items to it unseen."""

    def __init__(self) -> None:
        super().__init__("This guest's cart was merged into another cart. Use that cart, or create a new guest.")


class MergeAborted(CartConflict):
    """Other requests found this merge unfinished and aborted it repeatedly; neither cart was changed."""

    def __init__(self) -> None:
        super().__init__("The merge was aborted. Neither cart was changed. Retry the request.")


class PreconditionFailed(CartsvcError):
    """The cart does not meet If-Match or If-None-Match. ``cart`` is the current cart, or None if it is absent."""

    def __init__(self, cart: Cart | None) -> None:
        self.cart = cart
        super().__init__("The cart does not meet If-Match or If-None-Match. This response contains the current cart.")


class TooManyMerges(CartsvcError):
    """More merges into this cart began within the last minute than it can remember."""

    def __init__(self) -> None:
        super().__init__("Too many recent merges into this cart. Retry in a minute.")


class Draining(CartsvcError):
    """The server is about to stop. It serves requests, and is not ready for more clients."""

    def __init__(self) -> None:
        super().__init__("This server is about to stop. Send new requests to another one.")


class StoreUnusable(CartsvcError):
    """No server can start on this store. The message is the reason, for the operator."""


class StoreError(CartsvcError):
    """The store is unavailable. The record is unchanged, except in the subclass OutcomeUnknown."""

    def __init__(self, detail: str = "The store is temporarily unavailable. Nothing was changed.") -> None:
        super().__init__(detail)


class OutcomeUnknown(StoreError):
    """A write was sent to the store, and its result was lost: the write may or may not have been applied."""

    def __init__(self) -> None:
        super().__init__(
            "The store's response was lost, so this request may or may not have been applied. "
            "Retry it with its Idempotency-Key; without a key, read the cart first.",
        )


class StoreFull(StoreError):
    """There is no room for a larger record. Carts can still be read, reduced and deleted."""

    def __init__(self) -> None:
        super().__init__("The store is full. Carts can be read, reduced and deleted, but they cannot grow.")


class RecordUnreadable(CartsvcError):
    """The value stored under a cart's key is not a record in a format that this version reads."""

    def __init__(self) -> None:
        super().__init__("The stored record of this cart cannot be read by this version.")


def driver_words(error: StoreError | RecordUnreadable) -> str:
    """Return the driver's message for the cause of this error, as one line; "" if there is no cause.

    The line is for logs and for the command line. It begins with the server's code if there is one, such as NOPERM.
    The arguments of a command are removed, because a server repeats them for an unknown command, and a user id or a
    password may be among them.
    """
    cause = error.__cause__
    if cause is None:
        return ""
    words, code = str(cause), error_code(cause)
    if code and not words.startswith(code):  # redis-py removes the codes that have their own class
        words = f"{code} {words}"
    words = _UNPRINTABLE.sub(" ", _ARGUMENTS.sub("", words)).strip()
    return (words or type(cause).__name__)[:_MAX_WORDS_LENGTH]


def error_code(cause: BaseException) -> str:
    """Return the code at the start of a server's error, such as READONLY; "" if the error has none."""
    code = getattr(cause, "status_code", None)
    found = re.match(r"[A-Z]{3,32}(?= )", str(cause))
    return code if isinstance(code, str) else found[0] if found else ""
