"""Run the examples of docs/storefront.md in Node against the real gunicorn, over a network that loses messages.

tests/examples has the tests of the module that they use.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.lossy_http import Network, network_before, service_with_tokens
from tests.support.node import run_module
from tests.support.tokens import user_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    Run = Callable[..., Any]

pytestmark = pytest.mark.server

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "storefront.md").read_text()
_MODULE = _ROOT / "examples" / "storefront" / "cart.js"
_EXAMPLES = "\n".join(re.findall(r"^```js\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL))
_SERVICE = user_token("checkout", scope="carts:all", seconds=3600)

# The page's function ``show``, and the shop's call for the token of a session.
_PRELUDE = f"""
const [base, session] = process.argv.slice(2);
globalThis.session = session === undefined ? null : JSON.parse(session);
const plain = globalThis.fetch;
globalThis.fetch = (url, ...rest) => url === "/cart-token"
  ? (globalThis.session === null ? new Response("", {{ status: 404 }}) : Response.json(globalThis.session))
  : plain(url, ...rest);
const shown = [];
const show = (state) => shown.push(state);
const token = "{_SERVICE}";
const tell = (value) => console.log(JSON.stringify(value));
"""


@pytest.fixture(scope="module")
def service() -> Iterator[httpx.Client]:
    """Return a client that reaches the real server without the lossy network, and may use every cart."""
    with service_with_tokens() as client:
        yield client


@pytest.fixture
def network(service: httpx.Client) -> Iterator[Network]:
    """Return the lossy network in front of the service."""
    with network_before(service) as network:
        yield network


@pytest.fixture
def run(network: Network, tmp_path: Path) -> Run:
    """Run the page's examples and then a script of the test, which passes its result to ``tell``."""
    assert _EXAMPLES.count('"https://carts.example"') == 1
    examples = _EXAMPLES.replace("https://carts.example", network.url).replace('"./cart.js"', f'"{_MODULE.as_uri()}"')

    def run(script: str, user_id: str | None = None) -> Any:
        file = tmp_path / "page.mjs"
        file.write_text(_PRELUDE + examples + script + "\ncart.close();\n")
        return run_module(file, network.url, *([] if user_id is None else [_session(user_id)]))

    return run


def _session(user_id: str) -> str:
    return json.dumps({"user_id": user_id, "token": user_token(user_id)})


def _quantities(service: httpx.Client, user_id: str) -> dict[str, int]:
    cart = service.get(f"/cart/{user_id}").json()
    return {item["item_id"]: item["quantity"] for item in cart["items"]}


def _put(service: httpx.Client, user_id: str, **quantities: int) -> str:
    """Give this user a cart, and return its ETag."""
    items = [{"product_id": name, "quantity": quantity} for name, quantity in quantities.items()]
    answer = service.put(f"/cart/{user_id}", json={"items": items})
    assert answer.is_success
    return answer.headers["ETag"]


# ---- the page ----


def test_every_function_of_the_page_is_called_here() -> None:
    """Every example is called by a test, not only parsed."""
    names = re.findall(r"^(?:async )?(?:function|const) (\w+)", _EXAMPLES, re.MULTILINE)
    assert len(names) >= 9
    called = _EXAMPLES + Path(__file__).read_text().partition("# ---- the page")[2]
    assert [name for name in names if len(re.findall(rf"\b{name}\b", called)) < 2] == []


def test_the_page_names_what_the_module_has() -> None:
    """Every export is mentioned on the page, with the bounds of its retries."""
    source = _MODULE.read_text()
    exports = re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", source, re.MULTILINE)
    assert [name for name in exports if name not in _PAGE and name != "waitTime"] == []
    assert "const ATTEMPTS = 4;" in source
    assert "const LONGEST_WAIT = 10_000;" in source
    assert "const RENEW_AFTER = 86_400_000;" in source
    assert "attempt === 5" in source


# ---- a page ----


def test_a_guest_shops_and_signs_in(run: Run, network: Network, service: httpx.Client) -> None:
    """Shown with names and prices, with a lost response on the way; then the user's cart has everything once."""
    _put(service, "carol", cap=1)
    network.trouble = ["", "answer"]
    told = run(f"""
        const metadata = {{ title: "Becher" }};
        const mug = {{ product_id: "mug", quantity: 2, unit_price: 1999, currency: "EUR", metadata }};
        const failed = [await add(mug), await step("mug", 3), await remove("tee")];
        await add({{ product_id: "pin", quantity: 1 }});
        await keepOnly("mug");
        const last = shown.at(-1);
        globalThis.session = {_session("carol")};
        tell([failed, shown[0], last, await signedIn(), shown.at(-1).lines.length]);
    """)
    assert told == [
        [None, None, {"texts": ["Dieser Artikel ist nicht mehr im Warenkorb."]}],
        {"lines": [], "total": ""},
        {"lines": [{"name": "Becher", "quantity": 3, "price": "59,97\xa0€"}], "total": "59,97\xa0€"},
        [],
        2,
    ]
    assert _quantities(service, "carol") == {"cap": 1, "mug": 3}


def test_what_did_not_fit_is_shown(run: Run, service: httpx.Client) -> None:
    """With ``clamp`` a sign-in lists what was cut; after the sign-out the cart is empty."""
    _put(service, "dave", mug=999)
    told = run(f"""
        await add({{ product_id: "mug", quantity: 1 }});
        globalThis.session = {_session("dave")};
        const cut = await signedIn({{ on_limit: "clamp" }});
        globalThis.session = null;
        await signedOut();
        tell([cut, shown.at(-1).lines]);
    """)
    assert told == [["mug: Höchstens 999 Stück je Artikel."], []]


def test_a_click_is_tried_again(run: Run, network: Network, service: httpx.Client) -> None:
    """After four lost responses the page gets a message and a key, with which the same click counts once."""
    network.trouble = ["", *["answer"] * 4]
    told = run(
        """
        cart.options.pause = 5;
        const failed = await add({ product_id: "mug", quantity: 1 });
        const again = await add({ product_id: "mug", quantity: 1 }, failed.key);
        tell([failed.texts, again]);
        """,
        "erin",
    )
    assert told == [["Keine Verbindung. Bitte prüfen Sie, ob der Warenkorb stimmt."], None]
    assert _quantities(service, "erin") == {"mug": 1}


def test_grams_are_units(run: Run) -> None:
    """An item without a price per gram has no total, and the number of grams is limited by the setting."""
    told = run(
        """
        await add({ product_id: "cheese", quantity: 750 });
        const [line] = shown.at(-1).lines;
        tell([line.quantity, line.price, shown.at(-1).total, (await step("cheese", 1250)).texts]);
        """,
        "fay",
    )
    assert told == [750, "", "", ["Höchstens 999 Stück je Artikel."]]


# ---- checkout ----


def test_a_changed_cart_is_not_handed_off(run: Run, service: httpx.Client) -> None:
    """412 contains the current cart, which stays; with the new ETag, also a weakened one, the same order takes it."""
    seen = _put(service, "changed", mug=1)
    _put(service, "changed", mug=1, cap=1)
    answers = run(f"""
        const refused = await handOff("changed", '{seen}', "order-2", token);
        tell([refused, await handOff("changed", `W/${{refused.etag}}`, "order-2", token)]);
    """)
    assert [answer["status"] for answer in answers] == [412, 204]
    assert [item["item_id"] for item in answers[0]["body"]["cart"]["items"]] == ["mug", "cap"]
    assert _quantities(service, "changed") == {}


def test_a_hand_off_repeated_later_spares_the_new_cart(run: Run, service: httpx.Client) -> None:
    """After a restart the back end retries with the order id: 204 again, and the cart started since stays."""
    etag = _put(service, "restart", mug=1)
    ask = f"tell((await handOff('restart', '{etag}', 'order-4', token)).status);"
    assert run(ask) == 204
    _put(service, "restart", cap=1)
    assert run(ask) == 204
    assert run(ask.replace("order-4", "order-5")) == 412
    assert _quantities(service, "restart") == {"cap": 1}


def test_of_two_checkouts_one_gets_the_cart(run: Run, network: Network, service: httpx.Client) -> None:
    """Both see the same cart, and the first response is lost: one 204, one 404."""
    etag = _put(service, "race", mug=1)
    network.trouble = ["answer"]
    orders = f"""[handOff("race", '{etag}', "order-6", token), handOff("race", '{etag}', "order-7", token)]"""
    assert sorted(run(f"tell((await Promise.all({orders})).map((answer) => answer.status));")) == [204, 404]
    assert _quantities(service, "race") == {}


def test_a_cancelled_order_is_back_in_the_cart(run: Run, network: Network, service: httpx.Client) -> None:
    """Its 101 items are added once to the cart that was started since, also if it runs twice."""
    many = {f"p{number}": 1 for number in range(101)}
    etag = _put(service, "unpaid", **many)
    items = json.dumps(service.get("/cart/unpaid").json()["items"])
    assert run(f"tell((await handOff('unpaid', '{etag}', 'order-8', token)).status);") == 204
    _put(service, "unpaid", p0=1, new=1)
    network.trouble = ["answer"]
    again = f"await restore('unpaid', 'order-8', {items}, token);"
    assert run(f"{again} tell(({again.removesuffix(';')}).status);") == 200
    assert _quantities(service, "unpaid") == many | {"p0": 2, "new": 1}
