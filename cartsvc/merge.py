"""Merging one cart into another in three single-record steps, and settling what a crash left between them.

A store changes one record at a time, so a merge is made of steps that can each be repeated:

1. Seal the source: it takes no other writes, and its items stand still.
2. Add its items to the target and leave a *done* mark there, in one write. A refusal leaves an *aborted* mark instead.
3. Remove the source's cart (after *done*) or its seal (after *aborted*).

The target's mark decides what became of a merge, and whoever finds an old seal asks it: *done* there means step 3 is
missing; otherwise an *aborted* mark is left, which stops a late step 2, and the seal comes off. An aborted mark lives
60 seconds, so a step 2 or an unsealing that began more than 10 seconds ago starts again from the beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, structs

from cartsvc.cart import Cart, check_user_id, combine
from cartsvc.errors import (
    CartSealed,
    CartsvcError,
    Fault,
    InvalidRequest,
    MergeAborted,
    OutcomeUnknown,
    StoreError,
    StoreFull,
    TooManyMerges,
)
from cartsvc.record import MARK_LIFE, Mark, Seal, following, live_cart, live_marks
from cartsvc.terms import OldSeal, Outcome, check_conditions, check_seal, key_for, replay

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Never

    from cartsvc.cart import Stamp, Strategy
    from cartsvc.record import Key, Policy, Record
    from cartsvc.stores.base import CartStore
    from cartsvc.terms import Terms

MAX_MARKS = 64
_PATIENCE = 10.0  # seconds, by the monotonic clock; much less than an aborted mark's life
_ATTEMPTS = 8


class Sealed(Struct, frozen=True):
    """A source that stands still: its seal, and the cart under it."""

    seal: Seal
    cart: Cart


class Verdict(Struct, frozen=True):
    """What step 2 came to: the mark that stands in the target now, and what to tell the client."""

    done: bool
    outcome: Outcome | None = None
    error: CartsvcError | None = None


class _Again(Exception):
    """No error: the merge starts again from its beginning."""


class Merger:
    """Merges carts, and settles merges that nobody finished.

    ``clock`` tells milliseconds since the epoch, ``monotonic`` seconds; ``new_tag`` makes tokens never seen before.
    """

    def __init__(
        self,
        store: CartStore,
        *,
        policy: Policy,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        new_tag: Callable[[], str],
    ) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._monotonic = monotonic
        self._new_tag = new_tag

    def merge(self, target: str, source: str, strategy: Strategy, *, terms: Terms) -> Outcome:
        """Move the source's items into the target's cart; the source's cart is gone afterwards.

        A refusal changes neither cart. Raises InvalidRequest, KeyReused, CartSealed, MergeAborted, PreconditionFailed,
        LimitExceeded, CurrencyMismatch, TooManyMerges.
        """
        check_user_id(source, place="/from_user_id")
        if source == target:
            raise InvalidRequest([Fault("/from_user_id", "A cart cannot be merged into itself.")])
        for _ in range(_ATTEMPTS):
            try:
                return self._attempt(target, source, strategy, terms)
            except _Again:
                continue
        raise CartSealed

    def settle(self, source: str, seal: Seal) -> None:
        """Bring the merge that left this seal on the source to its end: finished or called off, as the target says."""
        for _ in range(_ATTEMPTS):
            began = self._monotonic()
            done = self._store.update(seal.target, self._decision(source, seal))
            try:
                self._finish(source, seal, done=done, began=began)
            except _Again:
                continue
            return
        raise CartSealed

    def _attempt(self, target: str, source: str, strategy: Strategy, terms: Terms) -> Outcome:
        known = self._store.get(target)
        repeated = replay(known, terms, now=self._clock(), policy=self._policy)
        if repeated is not None:
            self._finish_repeated(target, known, source)
            return repeated
        self._make_room(target, known, source)
        began = self._monotonic()
        try:
            sealed = self._seal(source, target, strategy)
        except OldSeal as old:
            self._again_after(source, old)
        try:
            verdict = self._add(target, source, sealed, terms, began)
        except OldSeal as old:
            self._again_after(target, old)
        except StoreFull:
            if sealed is not None:
                self.settle(source, sealed.seal)
            raise
        if sealed is not None:
            self._finish_after(verdict, source, sealed.seal, began)
        if verdict.error is not None:
            raise verdict.error
        if verdict.outcome is None:
            raise MergeAborted
        return verdict.outcome

    def _again_after(self, user_id: str, old: OldSeal) -> Never:
        self.settle(user_id, old.seal)
        raise _Again from None

    # ---- step 1 ----

    def _seal(self, source: str, target: str, strategy: Strategy) -> Sealed | None:
        """Seal the source, or take up the seal it bears for this target; None when there is no cart."""
        tag = self._new_tag()

        def change(record: Record | None) -> tuple[Record | None, Sealed | None]:
            stamp = self._stamp(source, tag)
            cart = live_cart(record, now=stamp.at)
            if record is None or cart is None:
                return record, None
            if record.seal is not None and record.seal.target == target:
                return record, Sealed(record.seal, cart)
            check_seal(record, now=stamp.at)
            seal = Seal(stamp.etag, target, strategy, stamp.at)
            return following(record, cart, stamp=stamp, policy=self._policy, seal=seal), Sealed(seal, cart)

        return self._store.update(source, change)

    # ---- step 2 ----

    def _add(self, target: str, source: str, sealed: Sealed | None, terms: Terms, began: float) -> Verdict:
        """Put the sealed items into the target and leave a mark; without a source, only remember the request."""
        tag = self._new_tag()

        def change(record: Record | None) -> tuple[Record | None, Verdict]:
            if self._late(began):
                raise _Again
            stamp = self._stamp(target, tag)
            if sealed is None:
                return self._without_source(record, terms, stamp)
            return self._with_mark(record, source, sealed, terms, stamp)

        return self._store.update(target, change)

    def _without_source(self, record: Record | None, terms: Terms, stamp: Stamp) -> tuple[Record | None, Verdict]:
        repeated = replay(record, terms, now=stamp.at, policy=self._policy)
        if repeated is not None:
            return record, Verdict(done=False, outcome=repeated)
        check_seal(record, now=stamp.at)
        cart = live_cart(record, now=stamp.at)
        check_conditions(terms, cart)
        key = key_for(terms, status=200, now=stamp.at)
        after = following(record, cart, stamp=stamp, policy=self._policy, key=key)
        return after, Verdict(done=False, outcome=Outcome(cart, 200))

    def _with_mark(
        self, record: Record | None, source: str, sealed: Sealed, terms: Terms, stamp: Stamp
    ) -> tuple[Record | None, Verdict]:
        marks = live_marks(record, now=stamp.at)
        known = marks.get(sealed.seal.merge_id)
        if known is not None:
            return self._marked_before(record, known, terms, stamp)
        mark = Mark(sealed.seal.merge_id, source, done=True, at=stamp.at, source_expires_at=sealed.cart.expires_at)
        cart = live_cart(record, now=stamp.at)
        try:
            repeated = replay(record, terms, now=stamp.at, policy=self._policy)
            if repeated is not None:
                return self._aborted(record, mark, stamp), Verdict(done=False, outcome=repeated)
            check_seal(record, now=stamp.at)
            check_conditions(terms, cart)
            if len(marks) >= MAX_MARKS:
                raise TooManyMerges
            limits = self._policy.limits
            combined = combine(cart, sealed.cart, sealed.seal.strategy, limits=limits, stamp=stamp)
        except CartsvcError as error:
            return self._aborted(record, mark, stamp), Verdict(done=False, error=error)
        key = key_for(terms, status=200, now=stamp.at)
        after = following(record, combined, stamp=stamp, policy=self._policy, key=key, mark=mark)
        return after, Verdict(done=True, outcome=Outcome(combined, 200))

    def _marked_before(
        self, record: Record | None, known: Mark, terms: Terms, stamp: Stamp
    ) -> tuple[Record | None, Verdict]:
        """Step 2 of this merge is over: tell how it went, and remember the key of this request."""
        try:
            repeated = replay(record, terms, now=stamp.at, policy=self._policy)
        except CartsvcError as error:
            return record, Verdict(done=known.done, error=error)
        if repeated is not None or not known.done:
            return record, Verdict(done=known.done, outcome=repeated)
        outcome = Outcome(live_cart(record, now=stamp.at), 200)
        key = key_for(terms, status=200, now=stamp.at)
        return self._kept(record, stamp, key=key), Verdict(done=True, outcome=outcome)

    def _aborted(self, record: Record | None, mark: Mark, stamp: Stamp) -> Record | None:
        return self._kept(record, stamp, mark=structs.replace(mark, done=False))

    def _kept(
        self,
        record: Record | None,
        stamp: Stamp,
        *,
        key: Key | None = None,
        mark: Mark | None = None,
        forget: Container[str] = (),
    ) -> Record | None:
        """The record with its cart and seal as they are; a key or a mark added, or marks forgotten."""
        cart, seal = (record.cart, record.seal) if record is not None else (None, None)
        policy = self._policy
        return following(record, cart, stamp=stamp, policy=policy, seal=seal, key=key, mark=mark, forget=forget)

    def _decision(self, source: str, seal: Seal) -> Callable[[Record | None], tuple[Record | None, bool]]:
        """What became of the merge of this seal, says its target; from now on it is called off if nobody knew."""
        tag = self._new_tag()

        def change(record: Record | None) -> tuple[Record | None, bool]:
            stamp = self._stamp(seal.target, tag)
            known = live_marks(record, now=stamp.at).get(seal.merge_id)
            if known is not None:
                return record, known.done
            mark = Mark(seal.merge_id, source, done=False, at=stamp.at, source_expires_at=stamp.at)
            return self._kept(record, stamp, mark=mark), False

        return change

    def _make_room(self, target: str, record: Record | None, source: str) -> None:
        """Forget done marks that nobody can ask for any more, when marks pile up. Raises TooManyMerges."""
        now, tag = self._clock(), self._new_tag()
        marks = live_marks(record, now=now)
        if len(marks) < MAX_MARKS or self._seal_on(source) in marks:
            return  # there is room, or this merge has its mark already
        forget = {
            mark.merge_id
            for mark in marks.values()
            if mark.done and now - mark.at >= MARK_LIFE and self._seal_on(mark.source) != mark.merge_id
        }
        if len(marks) - len(forget) >= MAX_MARKS:
            raise TooManyMerges

        def change(record: Record | None) -> tuple[Record | None, None]:
            return self._kept(record, self._stamp(target, tag), forget=forget), None

        self._store.update(target, change)

    def _seal_on(self, user_id: str) -> str | None:
        """The id of the merge that this user's cart is sealed for."""
        record = self._store.get(user_id)
        return record.seal.merge_id if record is not None and record.seal is not None else None

    # ---- step 3 ----

    def _finish(self, source: str, seal: Seal, *, done: bool, began: float) -> None:
        """Remove the source's cart, or only its seal, if it still bears this one. Raises _Again when that is late."""
        tag = self._new_tag()

        def change(record: Record | None) -> tuple[Record | None, None]:
            if record is None or record.seal is None or record.seal.merge_id != seal.merge_id:
                return record, None
            if not done and self._late(began):
                raise _Again
            cart = None if done else record.cart
            return following(record, cart, stamp=self._stamp(source, tag), policy=self._policy), None

        self._store.update(source, change)

    def _finish_after(self, verdict: Verdict, source: str, seal: Seal, began: float) -> None:
        """Step 3 after this step 2. Once the items are in the target, nobody may be told that nothing was done."""
        try:
            self._finish(source, seal, done=verdict.done, began=began)
        except StoreError as error:
            if verdict.done:
                raise OutcomeUnknown from error
            raise

    def _finish_repeated(self, target: str, record: Record | None, source: str) -> None:
        """A repetition of a merge whose step 3 was lost does it, if the target has the mark of the seal."""
        sealed = self._store.get(source)
        if sealed is None or sealed.seal is None or sealed.seal.target != target:
            return
        known = live_marks(record, now=self._clock()).get(sealed.seal.merge_id)
        if known is not None and known.done:
            self._finish(source, sealed.seal, done=True, began=self._monotonic())

    def _late(self, began: float) -> bool:
        return self._monotonic() - began > _PATIENCE

    def _stamp(self, user_id: str, tag: str) -> Stamp:
        """Made inside of a change: what waited for its turn must not take what came meanwhile for the future."""
        return self._policy.stamp(user_id, now=self._clock(), tag=tag)
