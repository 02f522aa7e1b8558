"""What a cart service is to do, in plain Python: dicts and lists, no records, no stores. The state machine compares.

It knows the protocol of merges, for a crash between two of its steps shows: each operation is a generator that stops
before and after each write of a record, and whoever drives it can stop there for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Steps = Generator[str, None, "Told"]

HOUR = 3_600_000
DAY = 24 * HOUR


class Refused(Exception):
    """The operation is refused; ``kind`` is the name of the error's class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(kind)


class Told(NamedTuple):
    """What the client is told; ``cart`` None stands for an absent one."""

    status: int
    replayed: bool
    cart: Cart | None


@dataclass(frozen=True)
class Item:
    """Quantity and price; both carts of a merge see the same time of adding."""

    quantity: int
    price: int | None
    added_at: int


@dataclass(frozen=True)
class Cart:
    """``state`` is another number for another ETag."""

    state: int
    version: int
    items: dict[str, Item]
    currency: str | None
    created_at: int
    updated_at: int
    expires_at: int


@dataclass(frozen=True)
class Key:
    """One request that was accepted."""

    key: str
    request: object
    status: int
    at: int


@dataclass(frozen=True)
class Seal:
    """One merge that has begun."""

    merge: int
    target: str
    strategy: str
    at: int


@dataclass(frozen=True)
class Mark:
    """What became of a merge, and until when that is known."""

    done: bool
    until: int


@dataclass
class User:
    """All that is known of one user."""

    cart: Cart | None = None
    keys: list[Key] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    seal: Seal | None = None


class Request(NamedTuple):
    """What a client sends. ``what`` holds the operation and its arguments; ``key`` None means without a key.

    ``wants`` is the state that If-Match names (None: no If-Match; -1: a tag of no state), ``create`` If-None-Match: *.
    """

    user: str
    what: tuple[object, ...]
    key: str | None = None
    wants: int | None = None
    create: bool = False


class Model:
    """The service, as it is to be."""

    def __init__(self, *, max_quantity: int, max_items: int, max_keys: int, now: int) -> None:
        self.max_quantity = max_quantity
        self.max_items = max_items
        self.max_keys = max_keys
        self.now = now
        self.users: dict[str, User] = {}
        self._numbers = count(1)

    # ---- what one can see ----

    def cart(self, name: str) -> Cart | None:
        """The cart as a GET shows it."""
        cart = self._user(name).cart
        return cart if cart is not None and cart.expires_at > self.now else None

    # ---- what one can do ----

    def run(self, request: Request) -> Steps:
        """Do it, stopping before and after each write. Raises Refused."""
        if request.what[0] == "merge":
            _, source, strategy = request.what
            return (yield from self._merge(request, str(source), str(strategy)))
        while True:
            yield "before"
            user = self._user(request.user)
            known = self._replayed(request)
            if known is not None:
                yield "after"
                return Told(known.status, replayed=True, cart=self.cart(request.user))
            if self._is_sealed(user):
                yield from self._settle(request.user)
                continue
            before = self.cart(request.user)
            told = self._change(request, before)
            self._remember(request, told.status)
            yield "after"
            return told

    def _change(self, request: Request, before: Cart | None) -> Told:
        operation, *arguments = request.what
        if operation in {"remove", "set", "remove_item"} and before is None:
            raise Refused("CartNotFound")
        if operation in {"set", "remove_item"} and before is not None and arguments[0] not in before.items:
            raise Refused("ItemNotFound")
        self._conditions(request, before)
        if operation == "remove":
            self._user(request.user).cart = None
            return Told(204, replayed=False, cart=None)
        status = 201 if operation == "replace" and before is None else 200
        items = dict(before.items) if before is not None else {}
        currency = before.currency if before is not None else None
        rules: dict[object, Callable[..., str | None]] = {
            "add": self._add,
            "replace": self._replace,
            "set": self._set,
            "remove_item": self._remove_item,
        }
        currency = rules[operation](items, currency, *arguments)
        return Told(status, replayed=False, cart=self._put(request.user, before, items, currency))

    def _add(
        self, items: dict[str, Item], currency: str | None, lines: tuple[tuple[str, int, int | None, str], ...]
    ) -> str | None:
        stated = next((money for _, _, price, money in lines if price is not None), None)
        if stated is not None and currency not in {None, stated}:
            raise Refused("CurrencyMismatch")
        for product, quantity, price, _ in lines:
            old = items.get(product, Item(0, None, self.now))
            items[product] = replace(old, quantity=old.quantity + quantity, price=old.price if price is None else price)
        self._limits(items)
        return currency or stated

    def _replace(
        self, items: dict[str, Item], _: str | None, lines: tuple[tuple[str, int, int | None, str], ...]
    ) -> str | None:
        old = dict(items)
        items.clear()
        currency = self._add(items, None, lines)
        for product, item in items.items():
            items[product] = replace(item, added_at=old.get(product, item).added_at)
        return currency

    def _set(  # noqa: PLR0917 - as the operation is written
        self,
        items: dict[str, Item],
        currency: str | None,
        product: str,
        quantity: int | None,
        price: int | None,
        money: str,
    ) -> str | None:
        if quantity == 0:
            del items[product]
            return currency
        if price is not None and currency not in {None, money}:
            raise Refused("CurrencyMismatch")
        if quantity is not None:
            items[product] = replace(items[product], quantity=quantity)
        if price is not None:
            items[product] = replace(items[product], price=price)
            currency = money
        return currency

    @staticmethod
    def _remove_item(items: dict[str, Item], currency: str | None, product: str) -> str | None:
        del items[product]
        return currency

    def _limits(self, items: dict[str, Item]) -> None:
        if len(items) > self.max_items or any(item.quantity > self.max_quantity for item in items.values()):
            raise Refused("LimitExceeded")

    def _put(self, name: str, before: Cart | None, items: dict[str, Item], currency: str | None) -> Cart:
        if not any(item.price is not None for item in items.values()):
            currency = None
        if before is not None and list(items.items()) == list(before.items.items()) and currency == before.currency:
            return before
        version, created = (before.version, before.created_at) if before is not None else (0, self.now)
        ttl = 7 * DAY if name.startswith("guest-") else 30 * DAY
        cart = Cart(next(self._numbers), version + 1, items, currency, created, self.now, self.now + ttl)
        self._user(name).cart = cart
        return cart

    # ---- terms ----

    def _replayed(self, request: Request) -> Key | None:
        for key in self._user(request.user).keys:
            if request.key == key.key and key.at + DAY > self.now:
                if key.request != (request.what,):
                    raise Refused("KeyReused")
                return key
        return None

    def _remember(self, request: Request, status: int) -> None:
        if request.key is None:
            return
        user = self._user(request.user)
        living = [key for key in user.keys if key.at + DAY > self.now]
        user.keys = [*living, Key(request.key, (request.what,), status, self.now)][-self.max_keys :]

    @staticmethod
    def _conditions(request: Request, cart: Cart | None) -> None:
        if request.wants is not None and (cart is None or cart.state != request.wants):
            raise Refused("PreconditionFailed")
        if request.create and cart is not None:
            raise Refused("PreconditionFailed")

    # ---- merges ----

    def _merge(self, request: Request, source: str, strategy: str) -> Steps:  # noqa: C901 - the protocol in one piece
        target = request.user
        while True:
            known = self._replayed(request)
            if known is not None:
                seal = self._user(source).seal
                mark = self._mark(target, seal.merge) if seal is not None and seal.target == target else None
                if seal is not None and mark is not None and mark.done:
                    yield from self._finish(source, seal, done=True)
                return Told(known.status, replayed=True, cart=self.cart(target))
            yield "before"
            giver = self._user(source)
            cart = self.cart(source)
            if cart is not None and (giver.seal is None or giver.seal.target != target):
                if self._is_sealed(giver):
                    yield from self._settle(source)
                    continue
                giver.seal = Seal(next(self._numbers), target, strategy, self.now)
            seal = giver.seal if cart is not None else None
            yield "after"
            yield "before"
            if seal is None or cart is None:
                if self._is_sealed(self._user(target)):
                    yield from self._settle(target)
                    continue
                self._conditions(request, self.cart(target))
                self._remember(request, 200)
                yield "after"
                return Told(200, replayed=False, cart=self.cart(target))
            mark = self._mark(target, seal.merge)
            refusal = "MergeAborted" if mark is not None and not mark.done else None
            if mark is None:
                if self._seal_is_old(self._user(target)):
                    yield from self._settle(target)
                    continue
                try:
                    self._take_over(request, cart, seal)
                except Refused as refused:
                    refusal = refused.kind
                    self._user(target).marks[seal.merge] = Mark(done=False, until=self.now + 60_000)
            elif mark.done:
                self._remember(request, 200)
            yield "after"
            yield from self._finish(source, seal, done=refusal is None)
            if refusal is not None:
                raise Refused(refusal)
            return Told(200, replayed=False, cart=self.cart(target))

    def _take_over(self, request: Request, source: Cart, seal: Seal) -> None:
        """Step 2: the items go into the target, under a mark. Raises Refused."""
        target = self._user(request.user)
        self._is_sealed(target)
        before = self.cart(request.user)
        self._conditions(request, before)
        ours = dict(before.items) if before is not None and seal.strategy != "replace" else {}
        money = before.currency if before is not None and seal.strategy != "replace" else None
        brought = False
        items = dict(ours)
        for product, item in source.items.items():
            own = ours.get(product)
            if own is None:
                items[product] = item
                brought = brought or item.price is not None
            elif seal.strategy != "keep":
                together = own.quantity + item.quantity if seal.strategy == "sum" else max(own.quantity, item.quantity)
                brought = brought or (own.price is None and item.price is not None)
                items[product] = replace(own, quantity=together, price=item.price if own.price is None else own.price)
        if brought and money not in {None, source.currency}:
            raise Refused("CurrencyMismatch")
        self._limits(items)
        self._put(request.user, before, items, money or source.currency)
        target.marks[seal.merge] = Mark(done=True, until=max(source.expires_at, self.now + 60_000))
        self._remember(request, 200)

    def _settle(self, name: str) -> Generator[str, None, None]:
        """Ask the target what became of the merge, call it off if nobody knows, and take the seal off."""
        seal = self._user(name).seal
        assert seal is not None
        yield "before"
        mark = self._mark(seal.target, seal.merge)
        if mark is None:
            mark = Mark(done=False, until=self.now + 60_000)
            self._user(seal.target).marks[seal.merge] = mark
        yield "after"
        yield from self._finish(name, seal, done=mark.done)

    def _finish(self, name: str, seal: Seal, *, done: bool) -> Generator[str, None, None]:
        yield "before"
        user = self._user(name)
        if user.seal is not None and user.seal.merge == seal.merge:
            user.seal = None
            if done:
                user.cart = None
        yield "after"

    def _mark(self, name: str, merge: int) -> Mark | None:
        mark = self._user(name).marks.get(merge)
        return mark if mark is not None and mark.until > self.now else None

    def _seal_is_old(self, user: User) -> bool:
        return user.seal is not None and self.now - user.seal.at > 5_000

    def _is_sealed(self, user: User) -> bool:
        """Whether there is a seal to settle. Raises Refused while it is young."""
        if user.seal is not None and not self._seal_is_old(user):
            raise Refused("CartSealed")
        return user.seal is not None

    def _user(self, name: str) -> User:
        """What is known of this user; nothing, once all of it has expired."""
        user = self.users.setdefault(name, User())
        ends = [key.at + DAY for key in user.keys] + [mark.until for mark in user.marks.values()]
        if user.cart is not None:
            ends.append(user.cart.expires_at)
        if max(ends, default=0) <= self.now:
            user.cart, user.keys, user.marks, user.seal = None, [], {}, None
        return user
