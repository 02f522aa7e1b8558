"""Merging one cart into another in four single-record steps, and resolving merges that were interrupted.

A store changes one record at a time, so a merge is made of steps, each of which is one atomic write:

1. Announce: add a *pending* mark with a new merge id to the target.
2. Seal the source with that id: it takes no other writes, so its items do not change.
3. Move: if the mark is still pending, and less than a minute old, add the items to the target and make the mark *done*,
   in one write.
4. Remove the cart of the source if the mark is *done*, or only its seal if the mark was removed. The record of a
   guest is closed by the same write: for the life of a guest's cart it takes no new one.

The mark in the target decides. A merge id gets its pending mark once, before any seal names it, so a mark that has been
removed cannot come back: to end an interrupted merge, a request removes the pending mark first, and then no step 3 of
that merge, however late, can add the items. The clocks of servers may differ by hours: a mark expires long after the
minute in which it permits anything.
docs/decisions/0009-merging.md has the proof and a sequence diagram.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from msgspec import Struct, structs

from cartsvc.carts.cart import Cart
from cartsvc.carts.combine import combine
from cartsvc.carts.conditions import (
    Outcome,
    StaleSeal,
    check_open,
    check_preconditions,
    check_seal,
    new_idempotency_key,
    replay,
)
from cartsvc.carts.record import EMPTY, MAX_MARKS, MergeMark, Record, Seal, is_guest, next_record
from cartsvc.carts.validation import check_user_id
from cartsvc.errors import (
    CartsvcError,
    Fault,
    InvalidRequest,
    MergeAborted,
    OutcomeUnknown,
    RecordUnreadable,
    StoreError,
    TooManyMerges,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.carts.cart import Revision
    from cartsvc.carts.combine import OnLimit, Strategy
    from cartsvc.carts.conditions import WriteConditions
    from cartsvc.carts.record import Policy
    from cartsvc.carts.store import CartStore

_MAX_ATTEMPTS = 8


class SealedSource(Struct, frozen=True):
    """A source that takes no writes: its seal, and its cart."""

    seal: Seal
    cart: Cart


# The results of step 3.


class Applied(Struct, frozen=True):
    """The items are in the target: this request, or the request that it retries, has moved them."""

    outcome: Outcome
    moved: ClassVar[bool] = True


class Replayed(Struct, frozen=True):
    """A request with this Idempotency-Key was accepted in the meantime; nothing was moved with this seal."""

    outcome: Outcome
    moved: ClassVar[bool] = False


class Rejected(Struct, frozen=True):
    """The target rejects this request. ``moved``: an earlier request has moved the items with the same seal."""

    error: CartsvcError
    moved: bool = False


class Aborted(Struct, frozen=True):
    """Another request has removed the pending mark; neither cart has changed."""

    moved: ClassVar[bool] = False


Result: TypeAlias = Applied | Replayed | Rejected | Aborted


class Merger:
    """Merges carts, and resolves merges that were interrupted.

    ``clock`` returns milliseconds since the epoch; ``new_tag`` returns a token that was never returned before.
    """

    def __init__(
        self, store: CartStore, *, policy: Policy, clock: Callable[[], int], new_tag: Callable[[], str]
    ) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._new_tag = new_tag

    def merge(
        self, target: str, source: str, strategy: Strategy, on_limit: OnLimit = "refuse", *, conditions: WriteConditions
    ) -> Outcome:
        """Move the source's items into the target's cart and remove the source's cart.

        A rejected merge changes neither cart. Raises InvalidRequest, IdempotencyKeyReused, CartSealed, CartMerged,
        MergeAborted, PreconditionFailed, LimitExceeded, CurrencyMismatch, TooManyMerges, and what the store raises.
        """
        check_user_id(source, pointer="/from_user_id")
        if source == target:
            raise InvalidRequest([Fault("/from_user_id", "A cart cannot be merged into itself.")])
        for _ in range(_MAX_ATTEMPTS):
            try:
                outcome = self._attempt(target, source, strategy, on_limit, conditions)
            except StaleSeal as stale:
                self.resolve(stale.user_id, stale.seal)
            else:
                if outcome is not None:
                    return outcome
        raise MergeAborted

    def resolve(self, source: str, seal: Seal) -> bool:
        """End the merge that left this seal on the source; return whether its items are in the target.

        Unless they are, the merge is aborted for good. Resolving can be repeated, so a lost response is a StoreError.
        """
        return self._resolve(source, seal.target, seal.merge_id)

    def _attempt(
        self, target: str, source: str, strategy: Strategy, on_limit: OnLimit, conditions: WriteConditions
    ) -> Outcome | None:
        """Merge once; return None if another request has aborted this merge. Raises StaleSeal."""
        record = self._store.get(target)
        repeated = replay(record, conditions, now=self._clock(), policy=self._policy)
        if repeated is not None:
            self._finish_replay(target, record, source)
            return repeated
        sealed = self._take_source(target, source, strategy)
        if sealed is None:
            change = partial(self._without_source, target=target, conditions=conditions, tag=self._new_tag())
            return self._store.update(target, change)
        try:
            result = self._move(target, source, sealed, on_limit, conditions)
        except (StoreError, RecordUnreadable) as error:
            raise self._after_failure(source, target, sealed.seal.merge_id, error) from error
        return self._end(source, sealed.seal.merge_id, result)

    def _end(self, source: str, merge_id: str, result: Result) -> Outcome | None:
        """Finish the source after step 3 and return the outcome, or None to start again. Raises what was rejected."""
        try:
            self._finish(source, merge_id, done=result.moved)
        except (StoreError, RecordUnreadable) as error:
            # A rejection and a replay are final without step 4: the next write to the source does it.
            if isinstance(result, Applied):
                raise OutcomeUnknown from error
            if isinstance(result, Aborted):
                raise
        match result:
            case Applied(outcome) | Replayed(outcome):
                return outcome
            case Rejected(rejection):
                raise rejection
            case Aborted():
                return None

    def _after_failure(self, source: str, target: str, merge_id: str, error: CartsvcError) -> CartsvcError:
        """Abort a merge whose step 2 or 3 failed, and return the error to report."""
        try:
            done = self._resolve(source, target, merge_id)
        except (StoreError, RecordUnreadable):
            return OutcomeUnknown()
        if done:
            return OutcomeUnknown()
        return StoreError() if isinstance(error, OutcomeUnknown) else error

    def _resolve(self, source: str, target: str, merge_id: str) -> bool:
        """Abort the merge, or finish it if its items have been moved; return whether they have."""
        try:
            done = self._withdraw(target, merge_id)
            self._finish(source, merge_id, done=done)
        except OutcomeUnknown as error:
            raise StoreError from error
        return done

    # ---- steps 1 and 2 ----

    def _take_source(self, target: str, source: str, strategy: Strategy) -> SealedSource | None:
        """Announce the merge and seal the source, or resume with a seal of the same merge. None without a source."""
        found = self._find_seal(source, target, strategy, self._store.get(source))
        if found is None or isinstance(found, SealedSource):
            return found
        merge_id = self._new_tag()
        self._announce(target, MergeMark(merge_id, source, done=False, at=0, source_expires_at=found.expires_at))
        change = partial(self._sealing, source=source, target=target, strategy=strategy, merge_id=merge_id)
        try:
            sealed = self._store.update(source, change)
        except OutcomeUnknown as error:
            raise self._after_failure(source, target, merge_id, error) from error
        except (CartsvcError, StaleSeal):
            self._take_back(target, merge_id)
            raise
        if sealed is None or sealed.seal.merge_id != merge_id:
            self._take_back(target, merge_id)
        return sealed

    def _find_seal(
        self, source: str, target: str, strategy: Strategy, record: Record | None
    ) -> SealedSource | Cart | None:
        """Return the source with the seal of this merge, or its open cart. Raises CartSealed, StaleSeal."""
        now = self._clock()
        cart = record.cart_at(now) if record is not None else None
        if record is None or cart is None:
            return None
        if record.seal is not None and (record.seal.target, record.seal.strategy) == (target, strategy):
            return SealedSource(record.seal, cart)
        check_seal(source, record, now=now)
        return cart

    def _announce(self, target: str, mark: MergeMark) -> None:
        """Add the pending mark (step 1). Raises CartMerged, CartSealed, StaleSeal, TooManyMerges; nothing is sealed."""
        tag = self._new_tag()

        def change(record: Record | None) -> tuple[Record | None, bool]:
            revision = self._new_revision(target, tag)
            before = record or EMPTY
            check_open(target, record, now=revision.at)
            if len(before.merge_marks) >= MAX_MARKS:
                return record, False
            return self._next(record, before.with_mark(structs.replace(mark, at=revision.at)), revision), True

        try:
            if self._store.update(target, change):
                return
            self._drop_old_marks(target)
            if not self._store.update(target, change):
                raise TooManyMerges
        except OutcomeUnknown as error:  # a mark without a seal has no effect
            raise StoreError from error

    def _take_back(self, target: str, merge_id: str) -> None:
        """Remove the mark of a merge that sealed nothing. A mark that stays has no effect, so errors are ignored."""
        with suppress(StoreError, RecordUnreadable):
            self._withdraw(target, merge_id)

    def _drop_old_marks(self, target: str) -> None:
        """Remove the done marks that are not needed any more, and the pending marks that were abandoned."""
        record = self._store.get(target) or EMPTY
        now, tag = self._clock(), self._new_tag()
        removable = set()
        for mark in record.merge_marks:
            if mark.is_abandoned(now):
                removable.add(mark)
            elif mark.done:
                with suppress(
                    RecordUnreadable
                ):  # until step 4 is done, the mark keeps the items from being added twice
                    self._finish(mark.source, mark.merge_id, done=True)
                    removable.add(mark)

        def change(record: Record | None) -> tuple[Record | None, None]:
            revision = self._new_revision(target, tag)
            before = record or EMPTY
            # Compare whole marks, because a mark that was pending above and is done by now must stay.
            merge_ids = {mark.merge_id for mark in before.merge_marks if mark in removable}
            return self._next(record, before.without_marks(merge_ids), revision), None

        self._store.update(target, change)

    def _sealing(
        self, record: Record | None, *, source: str, target: str, strategy: Strategy, merge_id: str
    ) -> tuple[Record | None, SealedSource | None]:
        """Seal the source (step 2). Raises CartSealed, StaleSeal."""
        revision = self._new_revision(source, merge_id)
        found = self._find_seal(source, target, strategy, record)
        if record is None or not isinstance(found, Cart):  # removed, or sealed by a request for the same merge
            return record, None if isinstance(found, Cart) else found
        seal = Seal(merge_id, target, strategy, revision.at)
        return self._next(record, record.with_seal(seal), revision), SealedSource(seal, found)

    # ---- step 3 ----

    def _move(
        self, target: str, source: str, sealed: SealedSource, on_limit: OnLimit, conditions: WriteConditions
    ) -> Result:
        """Move the items (step 3). Raises StaleSeal if an interrupted merge has left the target itself sealed."""
        change = partial(
            self._moving,
            target=target,
            source=source,
            sealed=sealed,
            on_limit=on_limit,
            conditions=conditions,
            tag=self._new_tag(),
        )
        return self._store.update(target, change)

    def _moving(
        self,
        record: Record | None,
        *,
        target: str,
        source: str,
        sealed: SealedSource,
        on_limit: OnLimit,
        conditions: WriteConditions,
        tag: str,
    ) -> tuple[Record | None, Result]:
        revision = self._new_revision(target, tag)
        before = record or EMPTY
        mark = before.find_mark(sealed.seal.merge_id)
        if mark is None:
            return record, Aborted()
        if mark.done:
            return self._moved_before(record, before, conditions, revision)
        withdrawn = before.without_marks((mark.merge_id,))
        if mark.is_abandoned(revision.at):
            return self._next(record, withdrawn, revision), Aborted()
        try:
            repeated = replay(record, conditions, now=revision.at, policy=self._policy)
            if repeated is not None:
                return self._next(record, withdrawn, revision), Replayed(repeated)
            check_open(target, record, now=revision.at)
            cart = before.cart_at(revision.at)
            check_preconditions(conditions, cart)
            limits, strategy = self._policy.limits, sealed.seal.strategy
            combined, adjustments = combine(
                cart, sealed.cart, strategy, on_limit=on_limit, limits=limits, revision=revision
            )
        except CartsvcError as error:
            return self._next(record, withdrawn, revision), Rejected(error)
        done = MergeMark(mark.merge_id, source, done=True, at=revision.at, source_expires_at=sealed.cart.expires_at)
        after = (
            before.with_cart(combined)
            .with_mark(done)
            .with_key(new_idempotency_key(conditions, status=200, now=revision.at))
        )
        return self._next(record, after, revision), Applied(Outcome(combined, 200, adjustments=adjustments))

    def _moved_before(
        self, record: Record | None, before: Record, conditions: WriteConditions, revision: Revision
    ) -> tuple[Record | None, Applied | Rejected]:
        """Remember the key of a retry whose earlier request has moved the items."""
        try:
            repeated = replay(record, conditions, now=revision.at, policy=self._policy)
        except CartsvcError as error:
            return record, Rejected(error, moved=True)
        if repeated is not None:
            return record, Applied(repeated)
        after = before.with_key(new_idempotency_key(conditions, status=200, now=revision.at))
        return self._next(record, after, revision), Applied(Outcome(before.cart_at(revision.at), 200))

    def _without_source(
        self, record: Record | None, *, target: str, conditions: WriteConditions, tag: str
    ) -> tuple[Record | None, Outcome]:
        """Accept a merge of an absent cart: the target stays as it is, and the key is remembered."""
        revision = self._new_revision(target, tag)
        repeated = replay(record, conditions, now=revision.at, policy=self._policy)
        if repeated is not None:
            return record, repeated
        check_open(target, record, now=revision.at)
        before = record or EMPTY
        cart = before.cart_at(revision.at)
        check_preconditions(conditions, cart)
        after = before.with_key(new_idempotency_key(conditions, status=200, now=revision.at))
        return self._next(record, after, revision), Outcome(cart, 200)

    # ---- step 4 ----

    def _withdraw(self, target: str, merge_id: str) -> bool:
        """Remove the pending mark of this merge; return whether the merge is done instead."""
        tag = self._new_tag()

        def change(record: Record | None) -> tuple[Record | None, bool]:
            mark = record.find_mark(merge_id) if record is not None else None
            if record is None or mark is None or mark.done:
                return record, mark is not None
            return self._next(record, record.without_marks((merge_id,)), self._new_revision(target, tag)), False

        return self._store.update(target, change)

    def _finish(self, source: str, merge_id: str, *, done: bool) -> None:
        """Remove the cart of the source, or only its seal (step 4), if the seal is still that of this merge.

        A guest's record is closed with its cart, so that a page that still has the guest's id adds nothing to it.
        """
        tag = self._new_tag()

        def change(record: Record | None) -> tuple[Record | None, None]:
            if record is None or record.seal is None or record.seal.merge_id != merge_id:
                return record, None
            revision = self._new_revision(source, tag)
            closed_until = revision.expires_at if is_guest(source) else 0
            after = record.merged_away(closed_until) if done else record.without_seal()
            return self._next(record, after, revision), None

        self._store.update(source, change)

    def _finish_replay(self, target: str, record: Record | None, source: str) -> None:
        """Do step 4 of a merge that is replayed, because the first request may have been interrupted before it."""
        sealed = self._store.get(source)
        if record is None or sealed is None or sealed.seal is None or sealed.seal.target != target:
            return
        mark = record.find_mark(sealed.seal.merge_id)
        if mark is not None and mark.done:
            self._finish(source, mark.merge_id, done=True)

    def _next(self, old: Record | None, new: Record, revision: Revision) -> Record | None:
        return next_record(old, new, revision=revision, policy=self._policy)

    def _new_revision(self, user_id: str, tag: str) -> Revision:
        """Return a revision of now.

        It is called inside a change, because a time from before the wait for a lock could be earlier than that of a
        newer seal.
        """
        return self._policy.new_revision(user_id, now=self._clock(), tag=tag)
