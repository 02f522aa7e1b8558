"""Uses the client that openapi-python-client generates: python_program.py URL [TOKEN]. Prints the last status."""

import sys
from http import HTTPStatus

from cartsvc_client import AuthenticatedClient, Client
from cartsvc_client.api.carts import add_item, create_guest, delete_cart, delete_item, get_cart, merge_cart
from cartsvc_client.models import (
    Cart,
    Guest,
    ItemInput,
    ItemInputMetadataType0,
    LimitExceededProblem,
    MergedCart,
    MergeInput,
    OnLimit,
)

url, *tokens = sys.argv[1:]
client = AuthenticatedClient(url, token=tokens[0]) if tokens else Client(url)

title = ItemInputMetadataType0.from_dict({"title": "Mug"})
mug = ItemInput(product_id="mug", quantity=2, unit_price=10_000_000_000, currency="EUR", metadata=title)
added = add_item.sync_detailed("alice", client=client, body=mug, idempotency_key="k1")
assert added.status_code is HTTPStatus.OK
again = add_item.sync_detailed("alice", client=client, body=mug, idempotency_key="k1")
assert again.headers["Idempotency-Replayed"] == "true"

cart = get_cart.sync("alice", client=client)
assert isinstance(cart, Cart)
assert (cart.total_quantity, cart.subtotal) == (2, 20_000_000_000)
assert cart.items[0].metadata["title"] == "Mug"
etag = added.headers["ETag"]
assert get_cart.sync_detailed("alice", client=client, if_none_match=etag).status_code is HTTPStatus.NOT_MODIFIED

refused = add_item.sync("alice", client=client, body=ItemInput(product_id="mug", quantity=999))
assert isinstance(refused, LimitExceededProblem)
assert [(fault.code, fault.limit) for fault in refused.errors] == [("max_quantity", 999)]

guest = create_guest.sync(client=Client(url))
assert isinstance(guest, Guest)
theirs = AuthenticatedClient(url, token=guest.token) if guest.token else Client(url)
add_item.sync(guest.user_id, client=theirs, body=ItemInput(product_id="hat", quantity=1))
merge = MergeInput(from_user_id=guest.user_id, on_limit=OnLimit.CLAMP, from_token=guest.token)
merged = merge_cart.sync("alice", client=client, body=merge)
assert isinstance(merged, MergedCart)
assert merged.item_count == 2

removed = delete_item.sync("alice", "hat", client=client)
assert isinstance(removed, Cart)
assert removed.item_count == 1
deleted = delete_cart.sync_detailed("alice", client=client)
sys.stdout.write(f"{int(deleted.status_code)}\n")
