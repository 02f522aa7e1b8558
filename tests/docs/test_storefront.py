"""Run the examples of docs/storefront.md in Node against the real gunicorn, over a network that loses messages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from cartsvc import errors
from cartsvc.api.problems import PROBLEM_BY_ERROR, Problem
from tests.support.node import NODE
from tests.support.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.server

_PAGE = (Path(__file__).parents[2] / "docs" / "storefront.md").read_text()
_EXAMPLES = "\n".join(re.findall(r"^```js\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL))

# Node 18 has its crypto in a module only; browsers and later versions have it as a global.
_PRELUDE = 'import { webcrypto } from "node:crypto";\nglobalThis.crypto ??= webcrypto;\nconst base = process.argv[2];\n'

_SECONDS = 60


@pytest.fixture(scope="module")
def node() -> str:
    """Return the path of Node, which a package of the development requirements contains."""
    return NODE


@pytest.fixture(scope="module")
def service() -> Iterator[httpx.Client]:
    """Return a client that reaches the real server without the lossy network."""
    with serve() as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


# ---- a network that loses things ----


class Seen(NamedTuple):
    """One request in the network, with the status of the server (None if the request did not reach it)."""

    method: str
    path: str
    key: str | None
    status: int | None
    replayed: bool


class Network:
    """Passes requests on to a server. ``trouble`` lists what happens to the next requests, in order:

    ``fingerprint`` and ``answer`` lose the request or the response, ``half`` the second half of the response;
    ``silence`` delays the response until the client gives up; "" does nothing; a Problem is returned instead of the
    server's.
    """

    def __init__(self, url: str, upstream: str) -> None:
        self.url = url
        self.upstream = upstream
        self.trouble: list[str | Problem] = []
        self.seen: list[Seen] = []
        self.lock = threading.Lock()

    def next_trouble(self) -> str | Problem:
        """Return what happens to the current request."""
        with self.lock:
            return self.trouble.pop(0) if self.trouble else ""


@pytest.fixture
def network(service: httpx.Client) -> Iterator[Network]:
    """Return the lossy network in front of the service."""
    with _network(str(service.base_url).removeprefix("http://").rstrip("/")) as network:
        yield network
    assert network.trouble == []  # a test whose trouble never came has shown nothing


@contextmanager
def _network(upstream: str) -> Iterator[Network]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Passing)
    server.network = network = Network(f"http://127.0.0.1:{server.server_port}", upstream)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield network
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Passing(BaseHTTPRequestHandler):
    """Passes one request on. The connection ends with each response, so that a lost response is noticed at once."""

    def _pass(self) -> None:
        network: Network = self.server.network  # type: ignore[attr-defined]
        trouble = network.next_trouble()
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = self.headers.get("Idempotency-Key")
        if trouble == "request" or isinstance(trouble, Problem):
            network.seen.append(Seen(self.command, self.path, key, None, replayed=False))
            if isinstance(trouble, Problem):
                self._refuse(trouble)
            return
        upstream = HTTPConnection(network.upstream, timeout=_SECONDS)
        upstream.request(self.command, self.path, body or None, dict(self.headers))
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        replayed = answer.headers.get("Idempotency-Replayed") == "true"
        network.seen.append(Seen(self.command, self.path, key, answer.status, replayed))
        if trouble == "silence":
            self.rfile.read(1)  # until the client gives up and closes
        if trouble in ("answer", "silence"):
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name != "Connection":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if trouble == "half" else data)

    def _refuse(self, kind: Problem) -> None:
        self.send_response_only(kind.status)
        self.send_header("Retry-After", "0")  # the service sends seconds; a test need not wait
        self.end_headers()
        self.wfile.write(json.dumps({"type": f"urn:cartsvc:problem:{kind.slug}", "status": kind.status}).encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def run(node: str, network: Network, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Run the page's examples and then a script of the test, which passes its result to ``tell``."""
    assert _EXAMPLES.count("timeout(5000)") == 1
    examples = _EXAMPLES.replace(
        "timeout(5000)", "timeout(1000)" if "silence" in request.node.name else "timeout(30000)"
    )

    def run(script: str) -> Any:
        tell = "const tell = (value) => console.log(JSON.stringify(value));\n"
        file = tmp_path / "page.mjs"
        file.write_text(_PRELUDE + examples + tell + script)
        # Without the developer's proxy and options of Node.
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        ended = subprocess.run(
            [node, str(file), network.url],
            capture_output=True,
            env=environment,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout) if ended.stdout else None

    return run


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
    assert len(names) >= 10
    called = _EXAMPLES + Path(__file__).read_text().partition("# ---- the page")[2]
    assert [
        name for name in names if len(re.findall(rf"\b{name}\(", called)) < 1 + (f"function {name}(" in called)
    ] == []


# ---- sending until it is answered ----


@pytest.mark.parametrize("lost", ["request", "answer", "half", "silence"])
def test_an_add_whose_answer_was_lost_counts_once(lost: str, run: Any, network: Network, service: httpx.Client) -> None:
    """Whatever is lost on the way, one click adds one."""
    network.trouble = [lost]
    answer = run(f'tell(await add("lost-{lost}", "mug"));')
    assert answer["status"] == 200
    assert answer["body"]["total_quantity"] == 1
    assert _quantities(service, f"lost-{lost}") == {"mug": 1}
    first, second = network.seen
    assert (first.status, second.status) == (None if lost == "request" else 200, 200)
    assert first.key == second.key is not None
    assert second.replayed == (lost != "request")


def test_without_a_key_a_repetition_adds_twice(run: Any, network: Network, service: httpx.Client) -> None:
    """The warning in docs/concepts.md is true; this also shows that the network loses responses after the write."""
    network.trouble = ["answer"]
    run("""
        const request = { method: "POST", headers: { "Content-Type": "application/json" },
                          body: JSON.stringify({ product_id: "mug", quantity: 1 }) };
        await fetch(base + cartPath("unkeyed"), request).catch(() => fetch(base + cartPath("unkeyed"), request));
    """)
    assert _quantities(service, "unkeyed") == {"mug": 2}


def test_two_clicks_add_two(run: Any, network: Network, service: httpx.Client) -> None:
    """Each click has its own key, also if both are in progress together and both responses are lost."""
    network.trouble = ["answer", "answer"]
    run('await Promise.all([add("clicks", "mug"), add("clicks", "mug")]);')
    assert _quantities(service, "clicks") == {"mug": 2}
    assert len({seen.key for seen in network.seen}) == 2
    assert len(network.seen) == 4


@pytest.mark.parametrize("error", [errors.StoreError, errors.CartSealed, errors.MergeAborted])
def test_a_refusal_that_passes_is_waited_for(
    error: type[errors.CartsvcError], run: Any, network: Network, service: httpx.Client
) -> None:
    """503 and the conflicts of a merge are retried, with the key."""
    kind = PROBLEM_BY_ERROR[error]
    network.trouble = [kind, kind]
    answer = run(f'tell(await add("{kind.slug}", "mug"));')
    assert answer["status"] == 200
    assert _quantities(service, kind.slug) == {"mug": 1}
    assert len({seen.key for seen in network.seen}) == 1
    assert len(network.seen) == 3


def test_a_refusal_that_stays_is_not_repeated(run: Any, network: Network) -> None:
    """A 422 is returned at once, without a retry."""
    answer = run('tell(await send("POST", cartPath("wrong"), { body: { product_id: "mug", quantity: 0 } }));')
    assert answer["status"] == 422
    assert answer["body"]["type"] == "urn:cartsvc:problem:invalid-request"
    assert len(network.seen) == 1


def test_it_gives_up_and_the_cart_tells(run: Any, network: Network) -> None:
    """After four lost responses send() throws, and load() shows that the add was applied once."""
    network.trouble = ["answer"] * 4
    told = run("""
        let thrown = false;
        await add("hopeless", "mug").catch(() => { thrown = true; });
        tell({ thrown, ...(await load("hopeless")) });
    """)
    assert told["thrown"] is True
    assert told["cart"]["total_quantity"] == 1
    assert told["etag"] is not None
    assert [seen.replayed for seen in network.seen[:4]] == [False, True, True, True]


def test_a_key_belongs_to_one_request(run: Any) -> None:
    """The same key with another body is rejected, with the slug on the page."""
    answers = run("""
        const key = "one-thing";
        const body = (quantity) => ({ product_id: "mug", quantity });
        tell([await send("POST", cartPath("keys"), { body: body(1), key }),
              await send("POST", cartPath("keys"), { body: body(2), key })]);
    """)
    assert [answer["status"] for answer in answers] == [200, 422]
    assert answers[1]["body"]["type"] == "urn:cartsvc:problem:idempotency-key-reused"


# ---- show, set, edit ----


def test_a_cart_that_is_not_there_is_shown(run: Any) -> None:
    """load() returns no items, and null as the ETag."""
    told = run('tell(await load("nobody"));')
    assert told["cart"]["items"] == []
    assert told["etag"] is None


def test_what_cannot_be_shown_throws(run: Any) -> None:
    """load() throws when the response is not a cart."""
    assert run('tell(await load("no body").catch((error) => error.message));') == "The cart cannot be shown: 422"


def test_the_stepper_ends_at_the_last_number(run: Any, network: Network, service: httpx.Client) -> None:
    """While a step is in progress, all further steps but the last are skipped, also if a response is lost."""
    _put(service, "steps", mug=1)
    network.trouble = ["answer"]
    answer = run('const set = stepper("steps", "mug"); set(2); set(3); set(4); tell(await set(5));')
    assert answer["status"] == 200
    assert _quantities(service, "steps") == {"mug": 5}
    assert [(seen.method, seen.replayed) for seen in network.seen] == [
        ("PATCH", False),
        ("PATCH", True),
        ("PATCH", False),
    ]


def test_the_stepper_works_again_after_a_failure(run: Any, network: Network, service: httpx.Client) -> None:
    """A step that failed does not stop the next step; 0 removes the item, so another step gets a 404."""
    _put(service, "steps-again", mug=1)
    network.trouble = ["request"] * 4
    statuses = run("""
        const set = stepper("steps-again", "mug");
        const failed = await set(7).catch(() => "lost");
        tell([failed, (await set(3)).status, (await set(0)).status, (await set(1)).status]);
    """)
    assert statuses == ["lost", 200, 200, 404]
    assert _quantities(service, "steps-again") == {}


def test_two_tabs_both_have_their_way(run: Any, network: Network, service: httpx.Client) -> None:
    """The second tab's change is applied to the cart of the 412, without another GET, and reverts nothing."""
    _put(service, "tabs", mug=1, cap=2)
    priced = service.post("/cart/tabs", json={"product_id": "tee", "quantity": 1, "unit_price": 900, "currency": "EUR"})
    assert priced.status_code == 200
    statuses = run("""
        const [one, other] = [await load("tabs"), await load("tabs")];
        const more = (items) => [...items, { product_id: "pin", quantity: 1 }];
        tell([(await edit("tabs", one, more)).status, (await edit("tabs", other, without("mug"))).status]);
    """)
    assert statuses == [200, 200]
    assert _quantities(service, "tabs") == {"cap": 2, "tee": 1, "pin": 1}
    told = [(seen.method, seen.status) for seen in network.seen]
    assert told == [("GET", 200), ("GET", 200), ("PUT", 200), ("PUT", 412), ("PUT", 200)]
    assert service.get("/cart/tabs").json()["currency"] == "EUR"


def test_two_tabs_make_one_cart(run: Any, network: Network, service: httpx.Client) -> None:
    """If there was no cart, the second tab finds the cart of the first tab."""
    run("""
        const [one, other] = [await load("fresh"), await load("fresh")];
        const and = (id) => (items) => [...items, { product_id: id, quantity: 1 }];
        await edit("fresh", one, and("mug"));
        await edit("fresh", other, and("cap"));
    """)
    assert _quantities(service, "fresh") == {"mug": 1, "cap": 1}
    assert [seen.status for seen in network.seen if seen.method == "PUT"] == [201, 412, 200]


def test_a_weakened_tag_is_taken(run: Any, service: httpx.Client) -> None:
    """An ETag that a compressing proxy has changed still matches."""
    etag = _put(service, "weak", mug=1)
    answer = run(f"tell(await handOff('weak', 'W/{etag}', 'order-1'));")
    assert answer["status"] == 204


# ---- checkout ----


def test_a_changed_cart_is_not_handed_off(run: Any, service: httpx.Client) -> None:
    """412 contains the current cart, which stays; with the new ETag the same order takes it."""
    seen = _put(service, "changed", mug=1)
    _put(service, "changed", mug=1, cap=1)
    answers = run(f"""
        const refused = await handOff("changed", '{seen}', "order-2");
        tell([refused, await handOff("changed", refused.etag, "order-2")]);
    """)
    assert [answer["status"] for answer in answers] == [412, 204]
    assert [item["item_id"] for item in answers[0]["body"]["cart"]["items"]] == ["mug", "cap"]
    assert _quantities(service, "changed") == {}


def test_a_changed_cart_stays_when_it_was_refused(run: Any, service: httpx.Client) -> None:
    """A rejected hand-off deletes nothing."""
    seen = _put(service, "stays", mug=1)
    _put(service, "stays", mug=2)
    assert run(f"tell((await handOff('stays', '{seen}', 'order-3')).status);") == 412
    assert _quantities(service, "stays") == {"mug": 2}


def test_a_hand_off_repeated_later_spares_the_new_cart(run: Any, service: httpx.Client) -> None:
    """After a restart the back end retries with the order id: 204 again, and the cart started since stays."""
    etag = _put(service, "restart", mug=1)
    ask = f"tell((await handOff('restart', '{etag}', 'order-4')).status);"
    assert run(ask) == 204
    _put(service, "restart", cap=1)
    assert run(ask) == 204
    assert _quantities(service, "restart") == {"cap": 1}
    assert run(ask.replace("order-4", "order-5")) == 412
    assert _quantities(service, "restart") == {"cap": 1}


def test_of_two_checkouts_one_gets_the_cart(run: Any, network: Network, service: httpx.Client) -> None:
    """Both see the same cart, and the first response is lost: one 204, one 404."""
    etag = _put(service, "race", mug=1)
    network.trouble = ["answer"]
    orders = f"""[handOff("race", '{etag}', "order-6"), handOff("race", '{etag}', "order-7")]"""
    assert sorted(run(f"tell((await Promise.all({orders})).map((answer) => answer.status));")) == [204, 404]
    assert _quantities(service, "race") == {}


# ---- guests ----


def test_a_guest_signs_in(run: Any, network: Network, service: httpx.Client) -> None:
    """The guest's items are in the user's cart once, although a response was lost and the merge was retried."""
    _put(service, "carol", mug=1)
    network.trouble = ["", "", "answer"]
    told = run("""
        const guest = await newGuest();
        await add(guest, "mug");
        tell([guest, await signIn("carol", guest), await signIn("carol", guest), await load(guest)]);
    """)
    guest, first, second, left = told
    assert re.fullmatch(r"guest-[\w-]{22}", guest)
    assert [first["status"], second["status"]] == [200, 200]
    assert first["body"] == second["body"]
    assert left["cart"]["items"] == []
    assert left["etag"] is None
    assert _quantities(service, "carol") == {"mug": 2}
    assert [seen.replayed for seen in network.seen if seen.path.endswith("/merge")] == [False, True, False]


def test_a_lost_guest_is_made_again(run: Any, network: Network) -> None:
    """If the response to the first visit is lost, the retry creates another guest."""
    network.trouble = ["answer"]
    assert run("tell(await newGuest());").startswith("guest-")
    assert [seen.status for seen in network.seen] == [201, 201]


def test_a_refused_merge_leaves_both_carts(run: Any, service: httpx.Client) -> None:
    """A limit rejects the sum; both carts stay, and another strategy succeeds."""
    _put(service, "dave", mug=999)
    _put(service, "guest-of-dave", mug=2)
    answers = run("""
        tell([await signIn("dave", "guest-of-dave"),
              (await load("dave")).cart.total_quantity, (await load("guest-of-dave")).cart.total_quantity,
              await signIn("dave", "guest-of-dave", "replace")]);
    """)
    assert answers[0]["status"] == 409
    assert answers[0]["body"]["type"] == "urn:cartsvc:problem:limit-exceeded"
    assert answers[1:3] == [999, 2]
    assert answers[3]["status"] == 200
    assert _quantities(service, "dave") == {"mug": 2}
    assert _quantities(service, "guest-of-dave") == {}
