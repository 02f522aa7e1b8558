"""Everything that can be refused or go wrong, as one tree of exceptions. No HTTP in it.

::

    CartsvcError
    ├── SettingsError          the environment holds wrong settings; names them all
    ├── StoreUnusable          no server can start on this store; says why
    ├── Unauthorized           nobody knows who is asking
    ├── Forbidden              the token does not open this cart
    ├── KeysUnavailable               the keys that tokens are checked with cannot be had
    ├── InvalidRequest         the request alone is wrong
    ├── IdempotencyKeyReused              an Idempotency-Key that stood on another request before
    ├── NotFound
    │   ├── CartNotFound       there is no such cart
    │   └── ItemNotFound       the cart has no such item
    ├── CartConflict           right by itself, wrong together with the cart as it is
    │   ├── LimitExceeded      one of the limits would be passed
    │   ├── CurrencyMismatch   a second currency in one cart
    │   ├── CartSealed         the cart is being merged into another one just now
    │   └── MergeAborted       other requests have aborted this merge again and again
    ├── PreconditionFailed     the cart is not in the state that If-Match or If-None-Match asks for
    ├── TooManyMerges          more merges into one cart at once than it can remember
    ├── StoreError             the store is away
    │   ├── OutcomeUnknown     a write was sent, and its answer was lost
    │   └── StoreFull          no room for a larger record; what is there stays
    └── RecordUnreadable       stored bytes that are damaged or from a newer version
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cartsvc.carts.cart import Cart


_WORDS = 300  # characters of a driver's message that are kept
_ARGUMENTS = re.compile(r"[, ]*with args beginning with.*", re.DOTALL)
_UNPRINTABLE = re.compile(r"[^ -~]+")


class Fault(NamedTuple):
    """One thing that is wrong, and its place.

    ``pointer`` is a JSON Pointer (RFC 6901) into the request body, such as ``/items/3/quantity``.
    """

    pointer: str
    detail: str


def pointer_segment(name: str) -> str:
    """One step of a JSON Pointer: a name with its slash before it, escaped (RFC 6901, section 3)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


class CartsvcError(Exception):
    """Whatever this service raises on purpose; ``str()`` of it is fit for the caller's eyes."""


class SettingsError(CartsvcError):
    """The environment holds wrong settings. ``faults`` has one line for each of them."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("cartsvc cannot start:\n" + "\n".join(f"  - {fault}" for fault in self.faults))


class _WithFaults(CartsvcError):
    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.pointer}: {fault.detail}" for fault in self.faults))


class Unauthorized(CartsvcError):
    """Nobody knows who is asking. ``error`` is RFC 6750's code (section 3.1); None when no token was sent."""

    def __init__(self, detail: str, *, error: Literal["invalid_request", "invalid_token"] | None) -> None:
        self.error = error
        super().__init__(detail)


class Forbidden(CartsvcError):
    """The token is good, but not for this cart; whether there is such a cart is not looked at."""

    error = "insufficient_scope"

    def __init__(self) -> None:
        super().__init__("This token does not open this cart.")


class KeysUnavailable(CartsvcError):
    """No token can be checked: the issuer's keys were never got yet."""

    def __init__(self) -> None:
        super().__init__("The token verification keys are temporarily unavailable. Nothing was changed.")


class InvalidRequest(_WithFaults):
    """The request is well-formed, and wrong whatever the cart holds. ``faults`` says where."""


class IdempotencyKeyReused(CartsvcError):
    """The Idempotency-Key was accepted with another request before; nothing was done."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was already used for a different request. Use a new key.")


class NotFound(CartsvcError):
    """What was asked for is not there."""


class CartNotFound(NotFound):
    """There is no such cart: never made, removed, or expired."""

    def __init__(self) -> None:
        super().__init__("There is no such cart.")


class ItemNotFound(NotFound):
    """The cart is there; it has no item of that id."""

    def __init__(self) -> None:
        super().__init__("The cart has no such item.")


class CartConflict(_WithFaults):
    """The request would be right by itself; the cart as it is forbids it. ``faults`` says where."""


class LimitExceeded(CartConflict):
    """The change would take the cart past one of its limits."""


class CurrencyMismatch(CartConflict):
    """The change would bring a second currency into the cart."""


class CartSealed(CartConflict):
    """The cart is being merged into another one just now; a few seconds later the next write resolves that merge."""

    def __init__(self) -> None:
        super().__init__([Fault("", "This cart is being merged into another one just now. Try again shortly.")])


class MergeAborted(CartConflict):
    """Other requests found this merge unfinished and aborted it, again and again; neither cart has changed."""

    def __init__(self) -> None:
        super().__init__([Fault("", "This merge was aborted, and neither cart has changed. Send it again.")])


class PreconditionFailed(CartsvcError):
    """The cart is not in the state the request asks for. ``cart`` is the current one; None when there is none."""

    def __init__(self, cart: Cart | None) -> None:
        self.cart = cart
        super().__init__("The cart is not in the state that the request asks for; its current state is in this answer.")


class TooManyMerges(CartsvcError):
    """So many merges into this cart have begun just now that it can remember no more of them."""

    def __init__(self) -> None:
        super().__init__("Too many merges into this cart have begun within the last minute. Try again in a minute.")


class StoreUnusable(CartsvcError):
    """No server can start on this store: its message says why, and is for whoever runs it."""


class StoreError(CartsvcError):
    """The store cannot do what was asked; the record is as it was, unless a subclass says otherwise."""

    def __init__(self, detail: str = "The store does not answer just now. Nothing was changed.") -> None:
        super().__init__(detail)


class OutcomeUnknown(StoreError):
    """A write was sent to the store, and its answer was lost: it was applied, or it was not."""

    def __init__(self) -> None:
        super().__init__(
            "The store's answer was lost, so this request may have been done or not. "
            "Send it again with its Idempotency-Key; without one, look at the cart first.",
        )


class StoreFull(StoreError):
    """There is no room for a larger record. Reading, shrinking and removing still work."""

    def __init__(self) -> None:
        super().__init__("The store is full: carts can be read, made smaller and removed, but not grow.")


class RecordUnreadable(CartsvcError):
    """What is stored under a cart's key is no record of a format that this version reads."""

    def __init__(self) -> None:
        super().__init__("What is stored for this cart cannot be read by this version.")


def driver_words(error: StoreError | RecordUnreadable) -> str:
    """Return what the store's driver says of the cause of this error, as one line; "" when there is no cause.

    The line is for logs and for the command line. It begins with the server's code where there is one, such as NOPERM.
    The arguments of a command are cut off, because a server repeats them for a command that it does not know, and a
    user id or a password may be among them.
    """
    cause = error.__cause__
    if cause is None:
        return ""
    words, code = str(cause), error_code(cause)
    if code and not words.startswith(code):  # redis-py cuts off the codes that have a class of their own
        words = f"{code} {words}"
    words = _UNPRINTABLE.sub(" ", _ARGUMENTS.sub("", words)).strip()
    return (words or type(cause).__name__)[:_WORDS]


def error_code(cause: BaseException) -> str:
    """Return the code with which a server begins its error, such as READONLY; "" when the error has none."""
    stated = getattr(cause, "status_code", None)
    found = re.match(r"[A-Z]{3,32}(?= )", str(cause))
    return stated if isinstance(stated, str) else found[0] if found else ""
