"""Hypothesis strategies for the records that import accepts, up to the bounds of what it accepts.

They state the rules of record_check a second time and from the other side: here as ranges to draw from.
"""

from __future__ import annotations

import string
from typing import NamedTuple

from hypothesis import strategies as st

from cartsvc.carts.cart import MAX_LIMITS, MAX_SUBTOTAL, MAX_VERSION, Cart, Item, derive_item_id
from cartsvc.carts.combine import STRATEGIES
from cartsvc.carts.record import (
    CART_TTL_RANGE_MS,
    CLOCK_MARGIN_MS,
    DIGEST_BYTES,
    IDEMPOTENCY_TTL_RANGE_MS,
    IdempotencyKey,
    MergeMark,
    Record,
    Seal,
    is_guest,
)
from cartsvc.carts.record_check import CLOCK_TOLERANCE_MS, STATUSES
from tests.support import strategies

_TOKENS = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=64)
_DIGESTS = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)
# As earlier builds stored them too: not in NFC, and two names that are the same in NFC.
_LINE = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
_LINES = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\t\n\r"), max_size=8)
_LONG = st.sampled_from(["x" * 384, "\u0915\u093c" * 192, "\u05e9\u05bc\u05c1" * 128])


_METADATA = st.dictionaries(_LINE, _LINES, max_size=2).map(lambda each: tuple(sorted(each.items())))


class Stored(NamedTuple):
    """A record, its user, and the time at which it is imported."""

    user_id: str
    record: Record
    now: int


def between(least: int, most: int) -> st.SearchStrategy[int]:
    """Integers of this range, and its two ends often."""
    return st.one_of(st.just(least), st.just(most), st.integers(least, most))


@st.composite
def items(draw: st.DrawFn, latest: int) -> tuple[Item, ...]:
    """Items of one cart that was last changed by then: no two alike, of any quantity and price that they may have."""
    found: dict[str, Item] = {}
    left = MAX_SUBTOTAL
    for _ in range(draw(st.integers(0, 3))):
        product = draw(st.one_of(strategies.product_ids, _LINE, _LONG))
        options = tuple(sorted(draw(st.dictionaries(_LINE, _LINES, max_size=2)).items()))
        quantity = draw(between(1, MAX_LIMITS.max_quantity))
        price = draw(st.none() | between(0, min(MAX_LIMITS.max_unit_price, left // quantity)))
        left -= quantity * (price or 0)
        its_id = derive_item_id(product, options)
        found[its_id] = Item(its_id, product, options, quantity, price, draw(between(0, latest)), draw(_METADATA))
    return tuple(found.values())


@st.composite
def _carts(draw: st.DrawFn, latest: int, now: int) -> Cart:
    updated = draw(between(0, latest))
    version = draw(between(1, MAX_VERSION))
    created = updated if version == 1 else draw(between(0, min(latest, updated + CLOCK_TOLERANCE_MS)))
    content = draw(items(min(updated, now) + CLOCK_TOLERANCE_MS))
    priced = any(item.unit_price is not None for item in content)
    currency = draw(st.sampled_from(["EUR", "XXX"])) if priced else None
    expires = updated + draw(between(*CART_TTL_RANGE_MS))
    return Cart(draw(_TOKENS), version, content, currency, created, updated, expires, draw(_METADATA))


@st.composite
def _keys(draw: st.DrawFn, latest: int) -> tuple[IdempotencyKey, ...]:
    found: list[IdempotencyKey] = []
    highest = 0
    for digest in draw(st.lists(_DIGESTS, max_size=3, unique=True)):
        at = draw(between(max(0, latest - IDEMPOTENCY_TTL_RANGE_MS[1] + 1, highest - CLOCK_TOLERANCE_MS), latest))
        highest = max(highest, at)
        found.append(IdempotencyKey(digest, draw(_DIGESTS), draw(st.sampled_from(STATUSES)), at))
    return tuple(found)


@st.composite
def _marks(
    draw: st.DrawFn, latest: int, sources: st.SearchStrategy[str], merge_ids: list[str]
) -> tuple[MergeMark, ...]:
    found: list[MergeMark] = []
    highest = 0
    kept = latest - CLOCK_MARGIN_MS + 1  # a write drops older marks: pending by their time, done by their source's
    for merge_id in merge_ids:
        done = draw(st.booleans())
        least = kept - CLOCK_TOLERANCE_MS - CART_TTL_RANGE_MS[1] if done else kept
        at = draw(between(max(0, least, highest - CLOCK_TOLERANCE_MS), latest))
        soonest = at - CLOCK_TOLERANCE_MS - CLOCK_MARGIN_MS
        if done:
            soonest = max(soonest, kept)
        expires = draw(between(max(0, soonest), at + CLOCK_TOLERANCE_MS + CART_TTL_RANGE_MS[1]))
        highest = max(highest, at)
        found.append(MergeMark(merge_id, draw(sources), done, at, expires))
    return tuple(found)


@st.composite
def stored(draw: st.DrawFn, *, now: int | None = None, user_id: str | None = None, whole: bool = False) -> Stored:
    """A record that import accepts at ``now``; ``whole``: with a cart, an item, a seal, a key and a mark."""
    if now is None:
        now = draw(between(10 * CLOCK_TOLERANCE_MS, 6_000_000_000_000))
    if user_id is None:
        user_id = draw(strategies.user_ids | strategies.user_ids.map(lambda each: f"guest-{each}"[:255]))
    others = strategies.user_ids.filter(lambda each: each != user_id)
    latest = draw(between(0 if not whole else now, now + CLOCK_TOLERANCE_MS))
    merge_ids = draw(st.lists(_TOKENS, min_size=1 + whole, max_size=4, unique=True))
    cart = draw(_carts(latest, now) if whole else st.none() | _carts(latest, now))
    keys, marks = draw(_keys(latest)), draw(_marks(latest, others, merge_ids[1:]))
    seal = None
    if cart is not None and (whole or draw(st.booleans())):
        at = draw(between(max(0, cart.updated_at - CLOCK_TOLERANCE_MS), min(latest, cart.expires_at - 1)))
        seal = Seal(merge_ids[0], draw(others), draw(st.sampled_from(STRATEGIES)), at)
    closed = 0
    if cart is None and is_guest(user_id):
        closed = draw(between(1, now + CLOCK_TOLERANCE_MS + CART_TTL_RANGE_MS[1]) | st.just(0))
    if cart is None and not marks and not keys and not closed:
        keys = (IdempotencyKey(draw(_DIGESTS), draw(_DIGESTS), 204, latest),)
    ends = [closed] if cart is None else [cart.expires_at]
    ends += [each.expires_at for each in marks]
    least = max(ends + [each.at + IDEMPOTENCY_TTL_RANGE_MS[0] for each in keys])
    most = max(ends + [each.at + IDEMPOTENCY_TTL_RANGE_MS[1] for each in keys])
    return Stored(user_id, Record("the-tag", cart, keys, marks, seal, draw(between(least, most)), closed), now)
