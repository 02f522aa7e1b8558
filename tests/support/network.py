"""A store behind a network, run step by step: requests pause, servers die, responses are lost, writes arrive late.

Each request runs in a greenlet and pauses before every read and every write. The test decides what happens next, so
one thread plays any number of servers, and each run can be repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from greenlet import GreenletExit, getcurrent, greenlet

from cartsvc.carts.record import DAY_MS
from cartsvc.carts.store import CartStore, T
from cartsvc.errors import CartsvcError, OutcomeUnknown, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.record import Record

DEADLINE_MS = 60_000  # the greatest CARTSVC_STORE_TIMEOUT

# What happens next to a request that is paused.
GO = "go"  # the read or the write is carried out
FAIL = "fail"  # the store is unavailable: nothing was sent
LOSE = "lose"  # the write was sent and never arrives
DELAY = "delay"  # the write was sent and arrives when the test decides


class Flight(NamedTuple):
    """A compare-and-set on its way: it is applied if the record still has this tag (None: if there is no record)."""

    user_id: str
    expected: str | None
    record: Record | None
    destroys: bool
    sent_at: int


class Server:
    """The only copy of all records; each record is dropped a day after it expires, by the true time."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.records: dict[str, Record] = {}
        self.destroyed: set[str] = set()  # the products that were in a cart when a request removed it

    def read(self, user_id: str) -> Record | None:
        """Return the record, expired or not."""
        record = self.records.get(user_id)
        if record is not None and record.expires_at + DAY_MS <= self.now:
            del self.records[user_id]
            return None
        return record

    def apply(self, flight: Flight) -> bool:
        """Compare and set; return whether the tag was right."""
        there = self.read(flight.user_id)
        if (None if there is None else there.tag) != flight.expected:
            return False
        removes = flight.record is None or flight.record.cart is None
        if flight.destroys and removes and there is not None and there.cart is not None and there.seal is None:
            self.destroyed |= {item.item_id for item in there.cart.items}
        if flight.record is None:
            self.records.pop(flight.user_id, None)
        else:
            self.records[flight.user_id] = flight.record
        return True


class NetworkStore(CartStore):
    """The store of one service: with a clock of its own, over a network that the test controls."""

    def __init__(self, server: Server, flights: list[Flight], clock: Callable[[], int]) -> None:
        self._server = server
        self._flights = flights
        self._clock = clock

    def get(self, user_id: str) -> Record | None:
        """Read once."""
        return self._live(self._read(user_id))

    def update(self, user_id: str, change: Callable[[Record | None], tuple[Record | None, T]]) -> T:
        """Read, change, compare and set, until the compare succeeds or a response is lost."""
        while True:
            stored = self._read(user_id)
            old = self._live(stored)
            new, answer = change(old)
            if new is old or (new is None and stored is None):
                return answer
            request = getcurrent()
            destroys = isinstance(request, Request) and request.destroys
            flight = Flight(user_id, stored.tag if stored else None, new, destroys, self._server.now)
            decision = _pause("write")
            # A store sends nothing after its deadline, so a write belongs to a recent read.
            if decision == FAIL or self._server.now - flight.sent_at > DEADLINE_MS:
                raise StoreError
            if decision == DELAY:
                self._flights.append(flight)
            if decision != GO:
                raise OutcomeUnknown
            if self._server.apply(flight):
                return answer

    def scan(self) -> Iterator[tuple[str, Record]]:
        """Yield all records."""
        yield from self._server.records.items()

    def delete(self, user_id: str) -> None:
        """Remove the record."""
        self._server.records.pop(user_id, None)

    def purge_expired(self) -> int:
        """Remove nothing."""
        return 0

    def ping(self) -> None:
        """Return."""

    def close(self) -> None:
        """Close nothing."""

    def _read(self, user_id: str) -> Record | None:
        if _pause("read") != GO:
            raise StoreError
        return self._server.read(user_id)

    def _live(self, record: Record | None) -> Record | None:
        return record if record is not None and record.expires_at > self._clock() else None


class Request(greenlet):
    """One request to one service. ``waits_for`` is "read" or "write" while it is paused, None once it has ended."""

    def __init__(self, call: Callable[[], object], *, destroys: bool = False) -> None:
        super().__init__(self._work, parent=getcurrent())
        self._call = call
        self.destroys = destroys
        self.error: CartsvcError | None = None
        self.waits_for: str | None = "start"
        self.resume()

    def _work(self, _first: str) -> None:
        try:
            self._call()
        except CartsvcError as error:
            self.error = error

    def resume(self, decision: str = GO) -> None:
        """Continue to its next pause, or to its end."""
        assert self.waits_for is not None
        self.waits_for = None  # stays None when the request ends with an unexpected error, so finish() cannot loop
        self.waits_for = self.switch(decision)

    def finish(self) -> None:
        """Let it run to its end, with everything going well."""
        while self.waits_for is not None:
            self.resume()

    def kill(self) -> None:
        """End the request here; what it has written is kept."""
        self.throw(GreenletExit)
        self.waits_for = None


def _pause(before: str) -> str:
    request = getcurrent()
    if not isinstance(request, Request):
        return GO
    decision: str = request.parent.switch(before)
    return decision
