"""Hypothesis strategies for the parts of carts.

Products, options and prices come from small pools mostly, so that like items meet often.
"""

from __future__ import annotations

import string
import unicodedata
from functools import partial

from hypothesis import strategies as st

from cartsvc.carts.cart import Cart, Item
from cartsvc.carts.combine import STRATEGIES
from cartsvc.carts.record import IdempotencyKey, MergeMark, Record, Seal
from cartsvc.carts.validation import NewItem

USER_ID_CHARACTERS = string.ascii_letters + string.digits + "._~@:+|-"

nfc = partial(unicodedata.normalize, "NFC")

whole = st.integers(0, 2**63 - 1)  # what MessagePack holds
text = st.text(max_size=20)  # no lone surrogates: they have no bytes

user_ids = st.text(USER_ID_CHARACTERS, min_size=1, max_size=255).filter(lambda each: each not in {".", ".."})

product_ids = st.one_of(
    st.sampled_from(["a", "b", "sku-1", ".", "..", "~a", "with space", "größe", "🛒", "x" * 128]),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=128),
)
option_texts = st.one_of(
    st.sampled_from(["size", "M", "größe", "a/b", "~"]),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20),
)
# Names and values of metadata are kept as they are sent.
_values = st.sampled_from(["", "a\nb", "e\u0301"]) | option_texts
metadata = st.none() | st.dictionaries(option_texts, _values, max_size=3)
_short = st.text(max_size=3)
_pairs = st.dictionaries(_short, _short, max_size=2).map(lambda each: tuple(sorted(each.items())))
_options = st.lists(st.tuples(option_texts, option_texts), max_size=4, unique_by=lambda option: nfc(option[0]))
options = st.one_of(st.just({}), _options.map(dict))


@st.composite
def lines(draw: st.DrawFn, *, currencies: tuple[str, ...] = ("EUR",), most: int = 20) -> NewItem:
    """Return valid lines, with a price or without."""
    price = draw(st.one_of(st.none(), st.integers(0, 10_000)))
    return NewItem(
        product_id=draw(product_ids),
        quantity=draw(st.integers(1, most)),
        options=draw(options),
        unit_price=price,
        currency=None if price is None else draw(st.sampled_from(currencies)),
        metadata=draw(metadata),
    )


items = st.builds(
    Item,
    item_id=text,
    product_id=text,
    options=st.lists(st.tuples(text, text), max_size=3).map(tuple),
    quantity=whole,
    unit_price=st.none() | whole,
    added_at=whole,
    metadata=_pairs,
)
carts = st.builds(
    Cart,
    etag=text,
    version=whole,
    items=st.lists(items, max_size=4).map(tuple),
    currency=st.none() | text,
    created_at=whole,
    updated_at=whole,
    expires_at=whole,
    metadata=_pairs,
)
records = st.builds(
    Record,
    tag=text,
    cart=st.none() | carts,
    idempotency_keys=st.lists(
        st.builds(
            IdempotencyKey,
            key_digest=st.binary(max_size=32),
            fingerprint=st.binary(max_size=32),
            status=whole,
            at=whole,
        ),
        max_size=2,
    ).map(tuple),
    merge_marks=st.lists(
        st.builds(MergeMark, merge_id=text, source=text, done=st.booleans(), at=whole, source_expires_at=whole),
        max_size=2,
    ).map(tuple),
    seal=st.none() | st.builds(Seal, merge_id=text, target=text, strategy=st.sampled_from(STRATEGIES), at=whole),
    expires_at=whole,
    closed_until=st.just(0) | whole,
)
