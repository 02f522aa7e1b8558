"""The expected behaviour of a cart service in plain Python: dicts and lists, no records, no stores.

It knows the protocol of merges, for a crash between two of its steps shows: each operation is a generator that stops
before and after each write of a record, and its driver can stop there for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Steps = Generator[str, None, "Expected"]

HOUR = 3_600_000
DAY = 24 * HOUR


class Rejected(Exception):
    """The operation is rejected; ``kind`` is the name of the error's class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(kind)


class Stale(Exception):
    """The cart of this user has an old seal, which must be resolved."""

    def __init__(self, user: str) -> None:
        self.user = user
        super().__init__(user)


Members = tuple[tuple[str, str], ...]  # metadata: sorted


class Line(NamedTuple):
    """One item of a request. ``name`` is a product, or a product and its size such as "a/M"; None keeps metadata."""

    name: str
    quantity: int
    price: int | None = None
    money: str = ""
    metadata: Members | None = None


class Change(NamedTuple):
    """One change of an item; None leaves a value as it is. A ``size`` of "" is no size."""

    name: str
    quantity: int | None = None
    price: int | None = None
    money: str = ""
    metadata: Members | None = None
    size: str | None = None

    @property
    def next_name(self) -> str:
        """Return the name of the item after the change."""
        if self.size is None:
            return self.name
        product = self.name.partition("/")[0]
        return f"{product}/{self.size}" if self.size else product


class Cut(NamedTuple):
    """One item that a merge has cut."""

    name: str
    code: str
    requested: int
    applied: int


class Expected(NamedTuple):
    """The expected response; ``cart`` is None for an absent cart."""

    status: int
    replayed: bool
    cart: Cart | None
    cuts: tuple[Cut, ...] = ()


@dataclass(frozen=True)
class Item:
    """Quantity, price and metadata of an item."""

    quantity: int
    price: int | None
    added_at: int
    metadata: Members = ()


@dataclass(frozen=True)
class Cart:
    """``state`` changes with the ETag."""

    state: int
    version: int
    items: dict[str, Item]
    currency: str | None
    created_at: int
    updated_at: int
    expires_at: int
    metadata: Members


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
    """One merge into a cart: pending or done, and the time from which on a write may drop it."""

    done: bool
    until: int


@dataclass
class User:
    """The expected record of one user."""

    cart: Cart | None = None
    keys: list[Key] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    seal: Seal | None = None
    closed_until: int = 0


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
    """The expected service."""

    def __init__(
        self, *, max_quantity: int, max_items: int, max_metadata: int, max_idempotency_keys: int, now: int
    ) -> None:
        self.max_quantity = max_quantity
        self.max_items = max_items
        self.max_metadata = max_metadata
        self.max_idempotency_keys = max_idempotency_keys
        self.now = now
        self.users: dict[str, User] = {}
        self._numbers = count(1)

    # ---- what one can see ----

    def cart(self, name: str) -> Cart | None:
        """Return the cart as a GET returns it."""
        cart = self._user(name).cart
        return cart if cart is not None and cart.expires_at > self.now else None

    # ---- what one can do ----

    def run(self, request: Request) -> Steps:
        """Run the request, pausing before and after each write. Raises Rejected."""
        if request.what[0] == "merge":
            _, source, strategy, on_limit = request.what
            return (yield from self._merge(request, str(source), str(strategy), on_limit == "clamp"))
        while True:
            yield "before"
            user = self._user(request.user)
            known = self._replayed(request)
            if known is not None:
                yield "after"
                return Expected(known.status, replayed=True, cart=self.cart(request.user))
            self._check_open(request.user)
            if self._is_sealed(user):
                yield from self._resolve(request.user)
                continue
            before = self.cart(request.user)
            expected = self._change(request, before)
            self._remember(request, expected.status)
            if request.key is not None or self.cart(request.user) is not before:
                self._written(request.user)
            yield "after"
            return expected

    def _change(self, request: Request, before: Cart | None) -> Expected:
        operation, *arguments = request.what
        if operation not in {"add", "replace"} and before is None:
            raise Rejected("CartNotFound")
        names = {"update": lambda: [each.name for each in arguments[0]], "remove_item": lambda: arguments}
        if before is not None and not set(names.get(str(operation), list)()) <= set(before.items):
            raise Rejected("ItemNotFound")
        self._conditions(request, before)
        if operation == "remove":
            self._user(request.user).cart = None
            return Expected(204, replayed=False, cart=None)
        status = 201 if operation == "replace" and before is None else 200
        items = dict(before.items) if before is not None else {}
        currency = before.currency if before is not None else None
        metadata = before.metadata if before is not None else ()
        if operation in {"replace", "describe"}:
            given = arguments.pop()
            metadata = metadata if given is None else given
        rules: dict[object, Callable[..., str | None]] = {
            "add": self._add,
            "replace": self._replace,
            "update": self._update,
            "describe": lambda _, money: money,
            "remove_item": self._remove_item,
        }
        currency = rules[operation](items, currency, *arguments)
        return Expected(status, replayed=False, cart=self._put(request.user, before, items, currency, metadata))

    def _add(self, items: dict[str, Item], currency: str | None, lines: tuple[Line, ...]) -> str | None:
        stated = next((line.money for line in lines if line.price is not None), None)
        if stated is not None and currency not in {None, stated}:
            raise Rejected("CurrencyMismatch")
        for name, quantity, price, _, metadata in lines:
            old = items.get(name, Item(0, None, self.now))
            items[name] = Item(
                old.quantity + quantity,
                old.price if price is None else price,
                old.added_at,
                old.metadata if metadata is None else metadata,
            )
        self._limits(items)
        return currency or stated

    def _replace(self, items: dict[str, Item], _: str | None, lines: tuple[Line, ...]) -> str | None:
        old = dict(items)
        items.clear()
        currency = self._add(items, None, lines)
        given = {line.name for line in lines if line.metadata is not None}
        for name, item in items.items():
            if name in old:
                metadata = item.metadata if name in given else old[name].metadata
                items[name] = replace(item, added_at=old[name].added_at, metadata=metadata)
        return currency

    def _update(self, items: dict[str, Item], currency: str | None, changes: tuple[Change, ...]) -> str | None:
        stated = next((each.money for each in changes if each.price is not None and each.quantity != 0), None)
        if stated is not None and currency not in {None, stated}:
            raise Rejected("CurrencyMismatch")
        by_name = {each.name: each for each in changes}
        arrivals: dict[str, list[tuple[Item, Change]]] = {}
        for name, item in items.items():
            change = by_name.get(name, Change(name))
            if change.quantity != 0:
                after = Item(
                    item.quantity if change.quantity is None else change.quantity,
                    item.price if change.price is None else change.price,
                    item.added_at,
                    item.metadata if change.metadata is None else change.metadata,
                )
                arrivals.setdefault(change.next_name, []).append((after, change))
        items.clear()
        for name, group in arrivals.items():
            first = next((each for each in group if each[1].name == name), group[0])
            together = first[0]
            for item, change in group:
                if change is first[1]:
                    continue
                price = item.price if change.price is not None or together.price is None else together.price
                both = dict(item.metadata) | dict(together.metadata)
                metadata = tuple(sorted(both.items())) if change.metadata is None else item.metadata
                together = Item(together.quantity + item.quantity, price, together.added_at, metadata)
            items[name] = together
        self._limits(items)
        return currency or stated

    @staticmethod
    def _remove_item(items: dict[str, Item], currency: str | None, product: str) -> str | None:
        del items[product]
        return currency

    def _limits(self, items: dict[str, Item]) -> None:
        if (
            len(items) > self.max_items
            or any(item.quantity > self.max_quantity for item in items.values())
            or any(len(item.metadata) > self.max_metadata for item in items.values())
        ):
            raise Rejected("LimitExceeded")

    def _put(
        self, name: str, before: Cart | None, items: dict[str, Item], currency: str | None, metadata: Members
    ) -> Cart:
        if not any(item.price is not None for item in items.values()):
            currency = None
        contents = (list(items.items()), currency, metadata)
        if before is not None and contents == (list(before.items.items()), before.currency, before.metadata):
            return before
        version, created = (before.version, before.created_at) if before is not None else (0, self.now)
        ttl = 7 * DAY if name.startswith("guest-") else 30 * DAY
        cart = Cart(next(self._numbers), version + 1, items, currency, created, self.now, self.now + ttl, metadata)
        self._user(name).cart = cart
        return cart

    # ---- terms ----

    def _replayed(self, request: Request) -> Key | None:
        for key in self._user(request.user).keys:
            if request.key == key.key and key.at + DAY > self.now:
                if key.request != (request.what,):
                    raise Rejected("IdempotencyKeyReused")
                return key
        return None

    def _remember(self, request: Request, status: int) -> None:
        if request.key is None:
            return
        user = self._user(request.user)
        living = [key for key in user.keys if key.at + DAY > self.now]
        user.keys = [*living, Key(request.key, (request.what,), status, self.now)][-self.max_idempotency_keys :]

    @staticmethod
    def _conditions(request: Request, cart: Cart | None) -> None:
        if request.wants is not None and (cart is None or cart.state != request.wants):
            raise Rejected("PreconditionFailed")
        if request.create and cart is not None:
            raise Rejected("PreconditionFailed")

    # ---- merges ----

    def _merge(self, request: Request, source: str, strategy: str, clamp: bool) -> Steps:  # noqa: FBT001 - passed on
        for _ in range(8):
            known = self._replayed(request)
            if known is not None:
                yield from self._finish_replay(request.user, source)
                return Expected(known.status, replayed=True, cart=self.cart(request.user))
            try:
                seal = yield from self._take_source(source, request.user, strategy)
                expected = yield from self._move(request, source, seal, clamp)
            except Stale as stale:
                yield from self._resolve(stale.user)
                continue
            if expected is not None:
                return expected
        raise Rejected("MergeAborted")

    def _take_source(self, source: str, target: str, strategy: str) -> Generator[str, None, Seal | None]:
        """Steps 1 and 2, unless the source has the seal of the same merge; None without a cart. Raises Stale."""
        giver = self._user(source)
        if self.cart(source) is None:
            return None
        if giver.seal is not None and (giver.seal.target, giver.seal.strategy) == (target, strategy):
            return giver.seal
        self._check_seal(source)
        merge = next(self._numbers)
        yield "before"
        self._check_open(target)
        self._check_seal(target)
        self._user(target).marks[merge] = Mark(done=False, until=self.now + DAY)
        self._written(target)
        yield "after"
        yield "before"
        giver.seal = Seal(merge, target, strategy, self.now)
        self._written(source)
        yield "after"
        return giver.seal

    def _move(
        self,
        request: Request,
        source: str,
        seal: Seal | None,
        clamp: bool,  # noqa: FBT001 - passed on
    ) -> Generator[str, None, Expected | None]:
        """Steps 3 and 4; None if the merge was aborted. Raises Rejected, Stale."""
        cuts: tuple[Cut, ...] = ()
        target = request.user
        cart = self.cart(source)
        yield "before"
        if seal is None or cart is None:
            self._check_open(target)
            self._check_seal(target)
            self._conditions(request, self.cart(target))
            self._remember(request, 200)
            if request.key is not None:
                self._written(target)
            yield "after"
            return Expected(200, replayed=False, cart=self.cart(target))
        marks = self._user(target).marks
        mark = marks.get(seal.merge)
        refused = None
        if mark is not None and not mark.done:
            try:
                self._check_open(target)
                self._check_seal(target)
                cuts = self._take_over(request, cart, seal, clamp)
            except Rejected as error:
                refused = error
                del marks[seal.merge]
            self._written(target)
        elif mark is not None:
            self._remember(request, 200)
            if request.key is not None:
                self._written(target)
        yield "after"
        yield from self._finish(source, seal, done=mark is not None and refused is None)
        if refused is not None:
            raise refused
        return Expected(200, replayed=False, cart=self.cart(target), cuts=cuts) if mark is not None else None

    def _finish_replay(self, target: str, source: str) -> Generator[str, None, None]:
        """Do step 4 of a merge whose response was lost."""
        seal = self._user(source).seal
        mark = self._user(target).marks.get(seal.merge) if seal is not None and seal.target == target else None
        if seal is not None and mark is not None and mark.done:
            yield from self._finish(source, seal, done=True)

    def _take_over(
        self,
        request: Request,
        source: Cart,
        seal: Seal,
        clamp: bool,  # noqa: FBT001 - passed on
    ) -> tuple[Cut, ...]:
        """The change of step 3: the items go into the target, and the mark is done. Raises Rejected."""
        before = self.cart(request.user)
        self._conditions(request, before)
        cuts: list[Cut] = []
        if seal.strategy != "replace" or source.items:
            combination, faults = self._combine(before, source, seal.strategy, cuts)
            if faults and not clamp:
                raise Rejected("CurrencyMismatch" if "currency_mismatch" in faults else "LimitExceeded")
            self._put(request.user, before, *combination)
        self._user(request.user).marks[seal.merge] = Mark(done=True, until=source.expires_at + DAY)
        self._remember(request, 200)
        return tuple(cuts)

    def _combine(
        self, before: Cart | None, source: Cart, strategy: str, cuts: list[Cut]
    ) -> tuple[tuple[dict[str, Item], str | None, Members], set[str]]:
        """Put the two carts together, within the limits; note what was cut, and return what did not fit."""
        faults = set()
        old = before.items if before is not None else {}
        items = {} if strategy == "replace" else dict(old)
        own_money = (
            before.currency if before is not None and any(each.price is not None for each in items.values()) else None
        )
        money = own_money or source.currency
        room = max(self.max_items, len(old))
        for product, item in source.items.items():
            own = items.get(product)
            if own is not None and strategy == "keep":
                continue
            wanted = item
            if own is not None:
                quantity = own.quantity + item.quantity if strategy == "sum" else max(own.quantity, item.quantity)
                price = item.price if own.price is None else own.price
                wanted = Item(quantity, price, own.added_at, self._members(own.metadata, item.metadata))
            noted = []
            if len(wanted.metadata) > self.max_metadata:
                faults.add("max_metadata")
                wanted = replace(wanted, metadata=self._fit(wanted.metadata, own.metadata if own is not None else ()))
            if item.price is not None and (own is None or own.price is None) and money != source.currency:
                noted.append(Cut(product, "currency_mismatch", wanted.quantity, wanted.quantity))
                wanted = replace(wanted, price=None)
            if wanted.quantity > self.max_quantity:
                noted.append(Cut(product, "max_quantity", wanted.quantity, self.max_quantity))
                wanted = replace(wanted, quantity=self.max_quantity)
            faults |= {cut.code for cut in noted}
            if own is None and len(items) >= room:
                faults.add("max_items")
                cuts.append(Cut(product, "max_items", item.quantity, 0))
            else:
                items[product] = wanted
                cuts += noted
        metadata = self._members(before.metadata if before is not None else (), source.metadata)
        if len(metadata) > self.max_metadata:
            faults.add("max_metadata")
            metadata = self._fit(metadata, before.metadata if before is not None else ())
        return (items, money, metadata), faults

    @staticmethod
    def _members(own: Members, other: Members) -> Members:
        return tuple(sorted((dict(other) | dict(own)).items()))

    def _fit(self, members: Members, own: Members) -> Members:
        """Leave out the last of the members that are not our own, until the rest fits."""
        names = {name for name, _ in own}
        others = [pair for pair in members if pair[0] not in names]
        return tuple(sorted([*own, *others[: self.max_metadata - len(own)]]))

    def _resolve(self, name: str) -> Generator[str, None, None]:
        """Abort the merge of an old seal, or finish it if its items have been moved."""
        seal = self._user(name).seal
        assert seal is not None
        yield "before"
        marks = self._user(seal.target).marks
        mark = marks.get(seal.merge)
        if mark is not None and not mark.done:
            del marks[seal.merge]
            self._written(seal.target)
        yield "after"
        yield from self._finish(name, seal, done=mark is not None and mark.done)

    def _finish(self, name: str, seal: Seal, *, done: bool) -> Generator[str, None, None]:
        yield "before"
        user = self._user(name)
        if user.seal is not None and user.seal.merge == seal.merge:
            user.seal = None
            if done:
                user.cart = None
                if name.startswith("guest-"):
                    user.closed_until = self.now + 7 * DAY
            self._written(name)
        yield "after"

    def _check_open(self, name: str) -> None:
        """Raise Rejected while this guest is closed, because its cart was merged into another one."""
        if self._user(name).closed_until > self.now:
            raise Rejected("CartMerged")

    def _check_seal(self, name: str) -> None:
        """Raise Rejected while the seal is young, and Stale when it is old."""
        if self._is_sealed(self._user(name)):
            raise Stale(name)

    def _is_sealed(self, user: User) -> bool:
        """Return whether there is an old seal. Raises Rejected while it is young."""
        if user.seal is not None and self.now - user.seal.at <= 5_000:
            raise Rejected("CartSealed")
        return user.seal is not None

    def _written(self, name: str) -> None:
        """Drop the marks whose time is over, as each write of the record does."""
        user = self._user(name)
        user.marks = {merge: mark for merge, mark in user.marks.items() if mark.until > self.now}

    def _user(self, name: str) -> User:
        """Return what is known of this user; nothing, once all of it has expired."""
        user = self.users.setdefault(name, User())
        ends = [key.at + DAY for key in user.keys] + [mark.until for mark in user.marks.values()]
        if user.cart is not None:
            ends.append(user.cart.expires_at)
        if max(*ends, user.closed_until, 0) <= self.now:
            user.cart, user.keys, user.marks, user.seal, user.closed_until = None, [], {}, None, 0
        return user
