"""Run examples/storefront/cart.js in Node against the real gunicorn, over a network that loses messages.

Two tabs are two instances of the module with one storage.
"""

from __future__ import annotations

import json
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

import pytest

from cartsvc import errors
from cartsvc.api.problems import PROBLEM_BY_ERROR, PROBLEM_BY_STATUS
from tests.support.lossy_http import Foreign, Network, lossy_network
from tests.support.node import run_module
from tests.support.servers import serve
from tests.support.tokens import guest_token, user_token

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    Run = Callable[..., Any]

pytestmark = pytest.mark.server

_MODULE = (Path(__file__).parents[2] / "examples" / "storefront" / "cart.js").as_uri()
_PRELUDE = f"""
import {{ ShopCart, Problem, send, isNewer, waitTime, formatMoney, messages, MESSAGES }} from "{_MODULE}";
const [base, direct, timeout] = process.argv.slice(2);
const tell = (value) => console.log(JSON.stringify(value));
const values = new Map();
const storage = {{
  getItem: (key) => values.get(key) ?? null,
  setItem: (key, value) => void values.set(key, value),
  removeItem: (key) => void values.delete(key),
}};
const opened = [];
const open = (options, Class = ShopCart) => {{
  const cart = new Class({{ base, storage, pause: 5, timeout: Number(timeout), ...options }});
  opened.push(cart);
  return cart;
}};
const anotherTab = async (options) => open(options, (await import("{_MODULE}?tab=2")).ShopCart);
const guest = () => JSON.parse(values.get("cartsvc.guest") ?? "null");
const quantities = (state) => Object.fromEntries(state.cart.items.map((item) => [item.item_id, item.quantity]));
const slug = (error) => error.slug ?? String(error);
const shows = (cart, matches) => new Promise((done) => {{
  if (matches(cart.state)) return done(cart.state);
  const stop = cart.subscribe((state) => matches(state) && (stop(), done(state)));
}});
const mug = {{ product_id: "mug", quantity: 1 }};
"""
_EPILOGUE = "\nfor (const cart of opened) cart.close();\n"


@pytest.fixture
def run(network: Network, service: httpx.Client, tmp_path: Path) -> Run:
    """Run a script of the test with the module, and return the value that it passes to ``tell``."""

    def run(script: str, *, url: str = network.url, timeout_ms: int = 30_000) -> Any:
        file = tmp_path / "page.mjs"
        file.write_text(_PRELUDE + script + _EPILOGUE)
        return run_module(file, url, str(service.base_url).rstrip("/"), str(timeout_ms))

    return run


def _as_user(user_id: str) -> str:
    """Return the options of a page whose session has this user."""
    return f"{{ user: async () => ({_session(user_id)}) }}"


def _session(user_id: str) -> str:
    return json.dumps({"user_id": user_id, "token": user_token(user_id)})


def _quantities(service: httpx.Client, user_id: str) -> dict[str, int]:
    return {item["item_id"]: item["quantity"] for item in service.get(f"/cart/{user_id}").json()["items"]}


# ---- retries ----


def test_a_click_counts_once(run: Run, network: Network) -> None:
    """Whether the request, the response or half of it is lost, one click adds one."""
    network.trouble = ["", "request", "", "answer", "", "half"]
    told = run("const cart = open(); for (let i = 0; i < 3; i += 1) await cart.add(mug); tell(quantities(cart.state));")
    assert told == {"mug": 3}
    adds = network.seen[1:]
    assert [(seen.status, seen.replayed) for seen in adds] == [
        *((None, False), (200, False)),
        *((200, False), (200, True)) * 2,
    ]
    assert [len({seen.key for seen in adds[at : at + 2]}) for at in (0, 2, 4)] == [1, 1, 1]
    assert len({seen.key for seen in adds}) == 3


def test_a_click_without_an_answer_counts_once(run: Run, network: Network) -> None:
    """A response that does not arrive in time is retried."""
    network.trouble = ["", "silence"]
    assert run("tell(quantities(await open().add(mug)));", timeout_ms=700) == {"mug": 1}
    assert [seen.replayed for seen in network.seen[1:]] == [False, True]


def test_what_passes_is_repeated(run: Run, network: Network) -> None:
    """Every status after which a retry is likely to succeed is retried, with the key, also a proxy's page."""
    troubles = [
        PROBLEM_BY_ERROR[errors.StoreError],
        PROBLEM_BY_ERROR[errors.OutcomeUnknown],
        PROBLEM_BY_ERROR[errors.CartSealed],
        PROBLEM_BY_ERROR[errors.MergeAborted],
        PROBLEM_BY_STATUS[408],
        PROBLEM_BY_STATUS[429],
        Foreign(502, "<html>Bad gateway</html>"),
        Foreign(503, "", "Thu, 01 Jan 1970 00:00:00 GMT"),
        Foreign(504, "{}", "soon"),
        Foreign(200, "<html>Sign in to this network</html>"),
    ]
    network.trouble = ["", *(each for trouble in troubles for each in (trouble, trouble, ""))]
    told = run("""
        const cart = open();
        for (let i = 0; i < 10; i += 1) await cart.add(mug);
        tell(quantities(cart.state));
    """)
    assert told == {"mug": 10}
    assert [seen.status for seen in network.seen[1:]] == [None, None, 200] * 10
    assert len({seen.key for seen in network.seen[1:]}) == 10


def test_retry_after_is_waited_for(run: Run, network: Network) -> None:
    """Seconds and dates are both read; a wait that is too long is left to the shopper."""
    network.trouble = ["", Foreign(429, "{}", "1")]
    waited = run("const cart = open(), then = Date.now(); await cart.add(mug); tell(Date.now() - then);")
    assert waited >= 1000
    network.trouble = [Foreign(429, "{}", formatdate(time() + 60, usegmt=True))]
    assert 55_000 < run("tell((await open().add(mug).catch((error) => error)).retryAfter);") <= 60_000
    assert run("""tell(["7", "0", "x", null, "Thu, 01 Jan 1970 00:00:09 GMT"].map((at) => waitTime(at, 4000)))""") == [
        *(7000, 0, 0, 0, 5000)
    ]


def test_a_refusal_that_stays_is_not_repeated(run: Run, network: Network) -> None:
    """A 422 is thrown at once, with its faults."""
    told = run("""
        const error = await open().add({ product_id: "mug", quantity: -1 }).catch((error) => error);
        tell([error instanceof Problem, error.slug, error.faults[0].pointer, error.outcomeUnknown]);
    """)
    assert told == [True, "invalid-request", "/quantity", False]
    assert len(network.seen) == 2


def test_it_gives_up_and_can_be_repeated(run: Run, network: Network) -> None:
    """After four lost responses the outcome is unknown: the page loads the cart, and the key repeats the click."""
    network.trouble = ["", *["answer"] * 4]
    told = run("""
        const cart = open();
        const loaded = shows(cart, ({ cart }) => cart.total_quantity === 1);
        const error = await cart.add(mug).catch((error) => error);
        await loaded;
        tell([error.slug, error.outcomeUnknown, quantities(await cart.add(mug, error.key))]);
    """)
    assert told == ["no-response", True, {"mug": 1}]


# ---- guests ----


def test_two_quick_first_clicks_make_one_guest(run: Run, network: Network) -> None:
    """Both items are in one cart, also if the response to the first POST /cart is lost."""
    network.trouble = ["answer"]
    told = run("""
        const cart = open();
        await Promise.all([cart.add(mug), cart.add({ product_id: "tee", quantity: 2 })]);
        tell(quantities(cart.state));
    """)
    assert told == {"mug": 1, "tee": 2}
    assert [seen.path for seen in network.seen].count("/cart") == 2  # the lost one, and its retry


@pytest.mark.parametrize("locks", ["Web Locks", "no locks"])
def test_two_tabs_fill_one_cart(locks: str, run: Run, network: Network, service: httpx.Client) -> None:
    """Both tabs' first clicks are in one guest's cart; without Web Locks, the first stored guest wins."""
    without = 'Object.defineProperty(navigator, "locks", { value: undefined });' if locks == "no locks" else ""
    told = run(f"""
        {without}
        const [one, two] = [open(), await anotherTab()];
        await Promise.all([one.add(mug), two.add({{ product_id: "tee", quantity: 1 }})]);
        tell([one.state.cart.user_id, two.state.cart.user_id]);
    """)
    assert told[0] == told[1]
    assert _quantities(service, told[0]) == {"mug": 1, "tee": 1}
    assert [seen.path for seen in network.seen].count("/cart") == (1 if locks == "Web Locks" else 2)


def test_without_storage_the_page_has_its_own_guest(run: Run) -> None:
    """A private window without storage: two clicks of the page fill one cart."""
    told = run("""
        Object.defineProperty(globalThis, "localStorage", { get() { throw new Error("denied"); } });
        const cart = open({ storage: undefined });
        await Promise.all([cart.add(mug), cart.add(mug)]);
        tell(quantities(cart.state));
    """)
    assert told == {"mug": 2}


def test_a_failed_guest_is_no_guest(run: Run, network: Network) -> None:
    """If POST /cart is rejected, nothing is stored and nothing is added."""
    network.trouble = [Foreign(429, '{"type": "urn:cartsvc:problem:too-many-requests"}', "60")]
    told = run("const cart = open(); tell([await cart.add(mug).catch(slug), guest()]);")
    assert told == ["too-many-requests", None]
    assert len(network.seen) == 1


def test_a_visitor_costs_nothing(run: Run, network: Network) -> None:
    """Showing the cart before the first add sends no request."""
    assert run("tell((await open().load()).cart.items);") == []
    assert network.seen == []


# ---- tokens ----


def test_an_expired_user_token_is_renewed(run: Run, network: Network) -> None:
    """A 401 leads to a fresh token from the shop, and to one retry."""
    old, new = (user_token("amy", seconds=seconds) for seconds in (-60, 300))
    told = run(f"""
        const tokens = ["{old}", "{new}"];
        const cart = open({{ user: async () => ({{ user_id: "amy", token: tokens.shift() }}) }});
        tell([quantities(await cart.add(mug)), tokens.length]);
    """)
    assert told == [{"mug": 1}, 0]
    assert [seen.status for seen in network.seen] == [401, 200]


def test_a_user_token_that_stays_invalid_is_a_problem(run: Run, network: Network) -> None:
    """The module gives up after three tokens."""
    old = user_token("amy", seconds=-60)
    told = run(f"""
        const cart = open({{ user: async () => ({{ user_id: "amy", token: "{old}" }}) }});
        tell([await cart.add(mug).catch(slug), await cart.load().catch(slug)]);
    """)
    assert told == ["unauthorized", "unauthorized"]
    assert [seen.status for seen in network.seen] == [401] * 5


def test_a_guest_token_is_renewed_once_a_day(run: Run, network: Network) -> None:
    """The same guest, a new token; within a day there is no request for it."""
    token = guest_token("guest-old", seconds=60)
    told = run(f"""
        const day = 86_400_000;
        const store = (renewed) => storage.setItem("cartsvc.guest",
          JSON.stringify({{ user_id: "guest-old", token: "{token}", renewed }}));
        store(Date.now() - day + 60_000);
        await open().add(mug);
        const early = guest();
        store(Date.now() - day);
        await open().add(mug);
        const isKept = (stored) => stored.token === "{token}";
        tell([isKept(early), guest().user_id, isKept(guest()), Date.now() - guest().renewed < day]);
    """)
    assert told == [True, "guest-old", False, True]
    assert [seen.path for seen in network.seen] == ["/cart/guest-old", "/cart", "/cart/guest-old"]


@pytest.mark.parametrize("renewed", ["Date.now()", "0"], ids=["fresh", "old"])
def test_an_expired_guest_starts_again(renewed: str, run: Run) -> None:
    """An expired guest token cannot be renewed: the click makes a new guest."""
    token = guest_token("guest-gone", seconds=-60)
    told = run(f"""
        const expired = {{ user_id: "guest-gone", token: "{token}", renewed: {renewed} }};
        storage.setItem("cartsvc.guest", JSON.stringify(expired));
        const cart = open();
        const shown = await cart.load();
        await cart.add(mug);
        tell([shown.cart.items, quantities(cart.state), guest().user_id]);
    """)
    assert told[:2] == [[], {"mug": 1}]
    assert told[2].startswith("guest-")
    assert told[2] != "guest-gone"


def test_without_authentication_it_works_too(run: Run) -> None:
    """A service without authentication gives no tokens, and its rate limit is waited for."""
    limited = {"CARTSVC_RATE_LIMIT": "2/second", "WEB_CONCURRENCY": "1"}
    with serve(**limited) as server, lossy_network(server.url.removeprefix("http://")) as network:
        told = run(
            "const cart = open(); for (let i = 0; i < 3; i += 1) await cart.add(mug); tell(quantities(cart.state));",
            url=network.url,
        )
    assert told == {"mug": 3}
    assert [seen.status for seen in network.seen if seen.status == 429] != []


# ---- signing in ----


def test_a_guest_signs_in(run: Run, network: Network, service: httpx.Client) -> None:
    """The guest's items are in the user's cart once, although the response was lost; the guest is forgotten."""
    service.post("/cart/carol", json={"product_id": "cap", "quantity": 1})
    network.trouble = ["", "", "answer"]
    told = run(f"""
        let user = null;
        const cart = open({{ user: async () => user }});
        await cart.add(mug);
        user = {{ user_id: "carol", token: "{user_token("carol")}" }};
        const merged = await cart.signIn();
        tell([quantities(merged), guest(), quantities(await cart.signIn())]);
    """)
    assert told == [{"cap": 1, "mug": 1}, None, {"cap": 1, "mug": 1}]


def test_a_refused_merge_keeps_the_guest(run: Run, service: httpx.Client) -> None:
    """A limit rejects the sum, and the guest stays; with clamp, the rest is in adjustments."""
    service.post("/cart/dave", json={"product_id": "mug", "quantity": 999})
    told = run(f"""
        let user = null;
        const cart = open({{ user: async () => user }});
        await cart.add(mug);
        user = {{ user_id: "dave", token: "{user_token("dave")}" }};
        const refused = await cart.signIn().catch((error) => messages(error, MESSAGES.de));
        const kept = guest() !== null && cart.state.cart.user_id === "dave" && cart.state.cart.total_quantity === 999;
        const {{ adjustments }} = (await cart.signIn({{ on_limit: "clamp" }})).cart;
        tell([refused, kept, adjustments, adjustments.map((each) => messages(each)), guest()]);
    """)
    assert told == [
        ["Höchstens 999 Stück je Artikel."],
        True,
        [{"item_id": "mug", "code": "max_quantity", "requested": 1000, "applied": 999}],
        [["At most 999 of one item."]],
        None,
    ]


def test_a_tab_with_a_closed_guest_finds_the_user(run: Run, service: httpx.Client) -> None:
    """A click in a tab that has missed the sign-in is added to the user's cart; a step is not applied, but shown."""
    told = run(f"""
        let user = null;
        const [one, two] = [open({{ user: async () => user }}), await anotherTab({{ user: async () => user }})];
        await one.add(mug);
        await two.load();
        two.channel.onmessage = null; // as in a tab that the browser has frozen
        const old = values.get("cartsvc.guest");
        user = {{ user_id: "erin", token: "{user_token("erin")}" }};
        await one.signIn();
        values.set("cartsvc.guest", old); // the storage as the frozen tab may see it
        const step = await two.setQuantity("mug", 5).catch(slug);
        const seen = two.state.cart.user_id;
        await two.add(mug);
        tell([step, seen, quantities(two.state), guest()]);
    """)
    assert told == ["cart-merged", "erin", {"mug": 2}, None]
    assert _quantities(service, "erin") == {"mug": 2}


def test_a_late_response_for_the_guest_is_not_shown(run: Run, network: Network) -> None:
    """The response of a click arrives after the sign-in: the page goes on to show the user's cart."""
    network.trouble = ["", "", "late"]
    told = run(f"""
        let user = null;
        const cart = open({{ user: async () => user }});
        const first = await cart.add(mug);
        const late = cart.add(mug);
        const {{ user_id, token }} = guest();
        while ((await send(`${{direct}}/cart/${{user_id}}`, {{ token }})).body.version < 2); // until it is applied
        user = {{ user_id: "otto", token: "{user_token("otto")}" }};
        await cart.signIn();
        await late;
        tell([cart.state.cart.user_id, quantities(cart.state)]);
    """)
    assert told == ["otto", {"mug": 2}]


def test_a_page_that_opens_does_not_disturb_the_others(run: Run, network: Network) -> None:
    """Its signIn() reports the same user to the other tabs, so they load nothing."""
    told = run(f"""
        let asked = 0;
        const user = async () => {{ asked += 1; return {_session("pia")}; }};
        const [one, two] = [open({{ user }}), await anotherTab({{ user }})];
        await one.load();
        await two.signIn();
        const marked = shows(one, ({{ cart }}) => cart.total_quantity === 1);
        await two.add(mug);
        await marked; // so one has received all messages before it
        tell(asked);
    """)
    assert told == 2
    assert [seen.method for seen in network.seen] == ["GET", "GET", "POST"]


def test_a_closed_guest_without_a_user_is_replaced(run: Run, service: httpx.Client) -> None:
    """After the sign-out, a tab with the merged guest's id gets a new guest."""
    told = run("""
        const cart = open();
        await cart.add(mug);
        tell(guest());
    """)
    merge = service.post("/cart/frank/merge", json={"from_user_id": told["user_id"]})
    assert merge.status_code == 200
    again = run(f"""
        storage.setItem("cartsvc.guest", JSON.stringify({json.dumps(told)}));
        tell([quantities(await open().add(mug)), guest().user_id]);
    """)
    assert again[0] == {"mug": 1}
    assert again[1] != told["user_id"]


# ---- states ----


def test_a_late_response_does_not_replace_a_newer_one(run: Run, network: Network, service: httpx.Client) -> None:
    """The response of the first add arrives last, and the newer cart stays on the page."""
    service.post("/cart/order", json={"product_id": "mug", "quantity": 1})
    network.trouble = ["", "late"]
    told = run(f"""
        const cart = open({_as_user("order")});
        const versions = [];
        cart.subscribe(({{ cart }}) => versions.push(cart.version));
        await cart.load();
        const late = cart.add(mug);
        const {{ token }} = await cart.options.user();
        while ((await send(`${{direct}}/cart/order`, {{ token }})).body.version < 2); // until it is applied
        await Promise.all([late, cart.add(mug)]);
        tell([versions, quantities(cart.state)]);
    """)
    assert told == [[1, 3], {"mug": 3}]


def test_the_order_of_carts(run: Run) -> None:
    """The later created_at wins, then the higher version; an equal cart is not newer."""
    told = run("""
        const cart = (created_at, version) => ({ created_at, version });
        const [old, next, young] = [cart("2026-01-02T03:04:05.006Z", 8), cart("2026-01-02T03:04:05.006Z", 9),
                                    cart("2026-01-02T03:04:05.007Z", 1)];
        tell([isNewer(next, old), isNewer(old, next), isNewer(young, next), isNewer(next, young), isNewer(old, old),
              isNewer(old, cart(null, 0))]);
    """)
    assert told == [True, False, True, False, False, True]


def test_an_absent_cart_is_shown(run: Run, service: httpx.Client) -> None:
    """After the checkout took the cart it is shown empty, and the next cart is shown although its version is lower."""
    service.post("/cart/gina", json={"product_id": "mug", "quantity": 1})
    told = run(f"""
        const cart = open({_as_user("gina")});
        await cart.add(mug);
        const {{ etag }} = cart.state;
        const {{ token }} = await cart.options.user();
        await send(`${{base}}/cart/gina`, {{ method: "DELETE", token, headers: {{ "If-Match": etag }} }});
        await cart.load();
        const empty = quantities(cart.state);
        const step = await cart.setQuantity("mug", 3).catch(slug);
        await cart.add(mug);
        tell([empty, cart.state.cart.version, step, quantities(cart.state)]);
    """)
    assert told == [{}, 1, "cart-not-found", {"mug": 1}]


def test_a_late_absent_cart_is_not_shown(run: Run, network: Network) -> None:
    """The page loads an absent cart, and the response arrives after that of a click."""
    network.trouble = ["late"]
    told = run(f"""
        const cart = open({_as_user("quin")});
        await Promise.all([cart.load(), cart.add(mug)]);
        tell(quantities(cart.state));
    """)
    assert told == {"mug": 1}


def test_the_last_step_wins(run: Run, network: Network, service: httpx.Client) -> None:
    """While a step is in progress, all further steps but the last are skipped; a failure does not stop the next one."""
    service.post("/cart/hans", json={"product_id": "mug", "quantity": 1})
    network.trouble = ["answer"]
    told = run(f"""
        const cart = open({_as_user("hans")});
        await Promise.all([2, 3, 4, 5].map((quantity) => cart.setQuantity("mug", quantity)));
        const five = quantities(cart.state);
        const wrong = await cart.setQuantity("mug", -1).catch(slug);
        tell([five, wrong, quantities(await cart.setQuantity("mug", 0)), await cart.remove("mug").catch(slug)]);
    """)
    assert told == [{"mug": 5}, "invalid-request", {}, "item-not-found"]
    # 2 and its retry, 5, -1, 0; and after the 404 the page shows the cart as it is.
    assert [seen.method for seen in network.seen] == [*["PATCH"] * 5, "DELETE", "GET"]


def test_an_edit_is_rebased(run: Run, network: Network, service: httpx.Client) -> None:
    """Another client writes before each of two attempts: the edit is applied to the cart of the 412."""
    service.put(
        "/cart/ines", json={"items": [{"product_id": "mug", "quantity": 1, "unit_price": 900, "currency": "EUR"}]}
    )
    told = run(f"""
        const cart = open({_as_user("ines")});
        await cart.load();
        let attempts = 0;
        const write = () => send(`${{direct}}/cart/ines`, {{ method: "POST", token: "{user_token("ines")}", body:
          {{ product_id: `cap-${{attempts}}`, quantity: 1, unit_price: 100, currency: "EUR" }} }});
        const plain = globalThis.fetch;
        globalThis.fetch = async (url, request) => {{
          if (request.method === "PUT" && ++attempts <= 2) {{
            globalThis.fetch = plain;
            await write();
            globalThis.fetch = busy;
          }}
          return plain(url, request);
        }};
        const busy = globalThis.fetch;
        const state = await cart.edit((items) => items.filter((item) => item.item_id !== "mug"));
        tell([quantities(state), state.cart.currency, attempts]);
    """)
    assert told == [{"cap-1": 1, "cap-2": 1}, "EUR", 3]
    assert [seen.status for seen in network.seen] == [200, 412, 412, 200]


def test_an_edit_gives_up(run: Run, network: Network) -> None:
    """After five 412 the problem is thrown, with the cart."""
    conflict = Foreign(412, json.dumps({"type": "urn:cartsvc:problem:precondition-failed", "cart": {"items": []}}))
    network.trouble = [conflict] * 5
    assert run(f"tell(await open({_as_user('jan')}).edit((items) => items).catch(slug));") == "precondition-failed"


def test_an_edit_makes_a_cart(run: Run) -> None:
    """Two edits without a cart: the second finds the cart of the first."""
    told = run(f"""
        const cart = open({_as_user("kim")});
        const and = (product_id) => (items) => [...items, {{ product_id, quantity: 1 }}];
        await Promise.all([cart.edit(and("mug")), cart.edit(and("cap"))]);
        tell(quantities(cart.state));
    """)
    assert told in ({"mug": 1, "cap": 1}, {"cap": 1, "mug": 1})


def test_the_other_tab_learns(run: Run, network: Network) -> None:
    """It shows the change, the sign-in and the sign-out of the first tab, without a click."""
    told = run(f"""
        let user = null;
        const [one, two] = [open({{ user: async () => user }}), await anotherTab({{ user: async () => user }})];
        await one.add(mug);
        await shows(two, ({{ cart }}) => cart.total_quantity === 1);
        user = {{ user_id: "lena", token: "{user_token("lena")}" }};
        await one.signIn();
        await shows(two, ({{ cart }}) => cart.user_id === "lena");
        user = null;
        await one.signOut();
        tell((await shows(two, ({{ cart }}) => cart.user_id === null)).cart.items);
    """)
    assert told == []
    assert [seen.method for seen in network.seen].count("POST") == 3  # the guest, the add and the merge


# ---- texts ----


def test_money_has_the_digits_of_its_currency(run: Run) -> None:
    """Two digits for euros, none for yen, three for dinars; the largest subtotal is exact."""
    told = run("""
        tell([formatMoney(1999, "EUR", "en"), formatMoney(5, "EUR", "en"), formatMoney(1999, "JPY", "en"),
              formatMoney(1999, "KWD", "en").replace(/\\s/u, " "), formatMoney(9007199254740991, "USD", "en"),
              formatMoney(null, null)]);
    """)
    assert told == ["€19.99", "€0.05", "¥1,999", "KWD 1.999", "$90,071,992,547,409.91", ""]


def test_messages_are_found_by_code(run: Run, service: httpx.Client) -> None:
    """By the code of a fault, else by the slug; a table of the page's own is used in the same way."""
    service.post("/cart/mia", json={"product_id": "a", "quantity": 999, "unit_price": 1, "currency": "EUR"})
    told = run(f"""
        const cart = open({_as_user("mia")});
        const failed = (promise, table) => promise.then(() => "no problem", (error) => messages(error, table));
        const priced = {{ ...mug, unit_price: 1, currency: "USD" }};
        tell([await failed(cart.add({{ product_id: "a", quantity: 5 }}), MESSAGES.de),
              await failed(cart.add(priced)), await failed(cart.remove("x")),
              await failed(cart.add(priced), {{ currency_mismatch: "Seulement {{currency}}" }}),
              messages(new Error("of the page"), MESSAGES.de)]);
    """)
    assert told == [
        ["Höchstens 999 Stück je Artikel."],
        ["The cart has prices in EUR."],
        ["This item is no longer in the cart."],
        ["Seulement EUR"],
        ["Das hat nicht geklappt. Bitte versuchen Sie es noch einmal."],
    ]


def test_both_languages_have_the_same_messages(run: Run) -> None:
    """A message that one language lacks would be shown as the general one."""
    assert run("tell(Object.keys(MESSAGES.de).join() === Object.keys(MESSAGES.en).join());") is True
