"""Define the loads: which requests are sent, in which order, over how many connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bench.processes import Server, fill, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CARTS = 97  # of five items: /cart/user-0 and so on; a prime, so that each kind of request reaches each cart
CONNECTIONS = 16  # unless a load is about their number
ITEMS, MANY_ITEMS = 5, 500
_ADD = '{"product_id":"sku-1","quantity":1}'
_SET = '{"quantity":2}'

_STOREFRONT = "GGAGGGSGAGGA" * 8 + "LD"  # 8 views, 3 adds and 1 new quantity; few deletes
_ABSENT = CARTS // 2  # deleted carts that are not yet created again: responses in flight do not reach that far


class Request(NamedTuple):
    """One request of a load; a body is JSON."""

    method: str
    path: str
    body: str = ""


class Load(NamedTuple):
    """A sequence of requests that is sent repeatedly. ``requests`` takes the id of an item that each cart has.

    With ``count_adds`` each response acknowledges one more item in /cart/hot, and the bench checks that it is there.
    """

    name: str
    what: str
    requests: Callable[[str], Iterator[Request]]
    connections: int = CONNECTIONS
    count_adds: bool = False
    prepare: Callable[[Server], None] = lambda _: None  # called before each round


def _get(_: str) -> Iterator[Request]:
    return (Request("GET", f"/cart/user-{n}") for n in range(CARTS))


def _post(_: str) -> Iterator[Request]:
    return (Request("POST", f"/cart/user-{n}", _ADD) for n in range(CARTS))


def _storefront(item_id: str) -> Iterator[Request]:
    for n in range(CARTS * len(_STOREFRONT)):
        user, (block, place) = n % CARTS, divmod(n, len(_STOREFRONT))
        kinds = {
            "G": Request("GET", f"/cart/user-{user}"),
            "A": Request("POST", f"/cart/user-{user}", _ADD),
            "S": Request("PATCH", f"/cart/user-{user}/items/{item_id}", _SET),
            # Deleted are other carts, because a quantity cannot be set in a deleted cart.
            "D": Request("DELETE", f"/cart/leaving-{block}"),
            "L": Request("POST", f"/cart/leaving-{(block - _ABSENT) % CARTS}", _ADD),
        }
        yield kinds[_STOREFRONT[place]]


def _put_leaving(server: Server) -> None:
    """Put all carts that the storefront deletes, because the run before may have ended after any of its requests."""
    for n in range(CARTS):
        fill(server.port, f"leaving-{n}", 1)


def _many_items(_: str) -> Iterator[Request]:
    return iter([Request("GET", "/cart/big")])


def _hot(_: str) -> Iterator[Request]:
    return iter([Request("POST", "/cart/hot", _ADD)])


GET = Load("GET", "GET of a cart of 5 items", _get)
POST = Load("POST", "POST of one more of an item, into a cart of 5 items", _post)
STOREFRONT = Load(
    "storefront", "storefront: 65 % GET, 26 % POST, 8 % PATCH, 1 % DELETE", _storefront, prepare=_put_leaving
)
GET_500 = Load("GET 500", "GET of a cart of 500 items", _many_items)
HOT = Load("hot cart", "POST into one and the same cart", _hot, count_adds=True)
LOADS = (GET, POST, STOREFRONT, GET_500, HOT)
SWEEP = tuple(STOREFRONT._replace(connections=n) for n in (1, 4, 64, 256))


def put_carts(server: Server) -> str:
    """Put the carts of all loads into a server, and return the id of an item that each of them has."""
    for n in range(CARTS):
        fill(server.port, f"user-{n}", ITEMS)
    fill(server.port, "big", MANY_ITEMS)
    item = fill(server.port, "hot", ITEMS)["items"][0]
    item_id: str = item.get("item_id", item["product_id"])
    return item_id


def count_hot(server: Server) -> int:
    """Return how many items /cart/hot has in all."""
    total: int = request(server.port, "GET", "/cart/hot")["total_quantity"]
    return total
