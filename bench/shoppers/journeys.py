"""Define what shoppers do: browse, add, change, sign in, check out, leave. Each knows what its carts must hold."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from gevent.event import Event
from locust import FastHttpUser, task
from locust.exception import StopUser

from bench.shoppers.caller import Answer, Caller, Tokens, Unresolved
from bench.shoppers.verdict import label, quantities

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.env import Environment

    from bench.shoppers.verdict import Verdict

_CREATED, _OK, _NO_CONTENT = 201, 200, 204
_PRODUCTS = 30
_CHECK_OUT = 0.5  # the share of journeys that end with an order
_SIGN_IN = 0.6
_CHANCE = random.Random()  # noqa: S311 - not for secrets


@dataclass
class Trip:
    """What all shoppers of a run share. They end their journeys early once ``ended`` is set.

    With ``journeys``, each shopper makes this number of them, and the last one to finish sets ``ended``.
    """

    base: str
    verdict: Verdict
    tokens: Tokens
    cut: float
    think_s: float
    shoppers: int
    journeys: int | None = None
    ended: Event = field(default_factory=Event)

    def leave(self) -> None:
        """Note that a shopper has made all journeys."""
        self.shoppers -= 1
        if self.shoppers == 0:
            self.ended.set()


@dataclass
class Basket:
    """A cart: what it must hold, and the last response that showed it."""

    user_id: str
    token: Callable[[bool], str | None]
    expected: Counter[str] = field(default_factory=Counter)
    seen: dict[str, Any] = field(default_factory=lambda: {"items": []})
    etag: str | None = None

    @property
    def path(self) -> str:
        """The path of the cart."""
        return f"/cart/{self.user_id}"


class Shopper(FastHttpUser):
    """A shopper, who makes one journey after another: a guest each time, and always the same user after sign-in."""

    trip: ClassVar[Trip]
    insecure = False
    connection_timeout = network_timeout = 10.0

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._caller = Caller(self.client, self.trip.base, self.trip.verdict, cut=self.trip.cut)
        self._user = self._new_user()
        self._journeys = 0

    def on_stop(self) -> None:
        """Look at the user's cart once more, after everything."""
        if self._user.etag is not None:
            self._attempt(self._user, lambda: self._look(self._user))

    @task
    def journey(self) -> None:
        """Visit the shop once."""
        guest = self._new_guest()
        if guest is not None and self._attempt(guest, lambda: self._shop(guest, _CHANCE.randint(3, 8))):
            self._leave(guest)
        self._journeys += 1
        if self._journeys == self.trip.journeys:
            self.trip.leave()
            raise StopUser

    def _leave(self, guest: Basket) -> None:
        """End a visit as a user, as a guest, or with a cart that is abandoned."""
        may_sign_in = self.trip.tokens or guest.token(False) is None  # noqa: FBT003 - a token, not renewed
        if may_sign_in and _CHANCE.random() < _SIGN_IN:
            if not self._attempt(self._user, lambda: self._sign_in(guest)):
                return
            self._attempt(self._user, lambda: self._shop(self._user, _CHANCE.randint(1, 3)))
            guest = self._user
        if _CHANCE.random() < _CHECK_OUT:
            self._attempt(guest, lambda: self._check_out(guest))

    def _attempt(self, basket: Basket, act: Callable[[], object]) -> bool:
        """Act; forget a cart whose contents cannot be known."""
        try:
            act()
        except Unresolved:
            if basket is self._user:
                self._user = self._new_user()
            return False
        return True

    # ---- carts ----

    def _new_user(self) -> Basket:
        user_id = f"load-{uuid.uuid4().hex}"
        return Basket(user_id, lambda renew: self.trip.tokens.of(user_id, renew=renew))

    def _new_guest(self) -> Basket | None:
        try:
            answer = self._caller.send("POST", "/cart", kind="new guest", token=lambda _: None)
        except Unresolved:
            return None
        if answer.status != _CREATED:
            return None
        token: str | None = answer.body["token"]
        return Basket(answer.body["user_id"], lambda _: token)

    def _saw(self, basket: Basket, answer: Answer) -> None:
        """Compare the cart in a response with what it must hold."""
        self.trip.verdict.compare(basket.user_id, basket.expected, answer.body)
        basket.expected = quantities(answer.body)  # so that a difference is counted once
        basket.seen, basket.etag = answer.body, answer.etag

    # ---- steps ----

    def _shop(self, basket: Basket, steps: int) -> None:
        """Look, add and change; each response must show what the cart must hold."""
        for _ in range(steps):
            if self.trip.ended.is_set():
                break
            step = _CHANCE.choices(
                (self._look, self._add, self._add_in_two_tabs, self._add_several, self._change),
                (30, 35, 5, 10, 20),
            )[0]
            step(basket)
            gevent.sleep(self.trip.think_s * _CHANCE.uniform(0.5, 1.5))
        self._look(basket)

    def _look(self, basket: Basket) -> None:
        answer = self._send(basket, "GET", kind="view cart")
        if answer.status == _OK:
            self._saw(basket, answer)
        else:
            self.trip.verdict.errors += 1  # a cart that cannot be compared

    def _add(self, basket: Basket) -> None:
        answer = self._put_in(basket, _an_item())
        if answer.status == _OK:
            self._saw(basket, answer)

    def _add_in_two_tabs(self, basket: Basket) -> None:
        """Send two adds at the same time. Their responses may arrive in any order, so neither is compared."""
        tabs = [gevent.spawn(self._put_in, basket, _an_item()) for _ in range(2)]
        gevent.joinall(tabs)
        for tab in tabs:
            tab.get()
        self._look(basket)

    def _add_several(self, basket: Basket) -> None:
        answer = self._put_in(basket, *(_an_item() for _ in range(3)))
        if answer.status == _OK:
            self._saw(basket, answer)

    def _put_in(self, basket: Basket, *items: dict[str, Any]) -> Answer:
        if len(items) == 1:
            answer = self._send(basket, "POST", kind="add item", body=items[0])
        else:
            answer = self._send(basket, "POST", "/items", kind="add items", body={"items": items})
        if answer.status == _OK:
            for item in items:
                basket.expected[label(item)] += item["quantity"]
        return answer

    def _change(self, basket: Basket) -> None:
        """Set a quantity, half of the time only if the cart is as last seen; 0 removes the item."""
        if not basket.seen["items"]:
            return
        item, quantity = _CHANCE.choice(basket.seen["items"]), _CHANCE.randint(0, 3)
        conditions = {"If_Match": basket.etag} if basket.etag and _CHANCE.random() < 1 / 2 else {}
        path = f"/items/{item['item_id']}"
        answer = self._send(basket, "PATCH", path, kind="change item", body={"quantity": quantity}, **conditions)
        if answer.status == _OK:
            basket.expected[label(item)] = quantity
            self._saw(basket, answer)

    def _sign_in(self, guest: Basket) -> None:
        """Merge the guest's cart into the user's; then the guest's must be empty."""
        token = guest.token(False)  # noqa: FBT003 - not renewed
        body = {"from_user_id": guest.user_id} | ({"from_token": token} if token else {})
        answer = self._send(self._user, "POST", "/merge", kind="sign in", body=body)
        if answer.status == _OK:
            self._user.expected.update(guest.expected)
            guest.expected.clear()
            self._saw(self._user, answer)
        self._look(guest)

    def _check_out(self, basket: Basket) -> None:
        """Take the cart for an order, if it is as it was last seen; then it must be empty."""
        self._look(basket)
        if basket.etag is None or not basket.expected:
            return
        answer = self._send(
            basket, "DELETE", kind="check out", If_Match=basket.etag, Idempotency_Key=f"order-{uuid.uuid4()}"
        )
        if answer.status == _NO_CONTENT:
            basket.expected.clear()
        self._look(basket)

    def _send(
        self, basket: Basket, method: str, path: str = "", *, kind: str, body: object = None, **headers: str
    ) -> Answer:
        return self._caller.send(method, basket.path + path, kind=kind, token=basket.token, body=body, **headers)


def _an_item() -> dict[str, Any]:
    number = _CHANCE.randrange(_PRODUCTS)
    item = {
        "product_id": f"sku-{number}",
        "quantity": _CHANCE.randint(1, 3),
        "unit_price": 1999 + number,
        "currency": "EUR",
    }
    return item | ({"options": {"size": _CHANCE.choice("SML")}} if number % 2 else {})
