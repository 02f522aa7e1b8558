"""Run examples/python/carts.py and docs/python.md against the real gunicorn, over a network that loses messages."""

from __future__ import annotations

import importlib
import re
from email.utils import formatdate
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from cartsvc import errors
from cartsvc.api.problems import PROBLEM_BY_ERROR, PROBLEM_BY_STATUS
from tests.support.lossy_http import Foreign, Network
from tests.support.tokens import user_token

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.server

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "python.md").read_text()
_EXAMPLES = "\n".join(re.findall(r"^```python\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL))
_MUG = {"product_id": "mug", "quantity": 1}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module of the example."""
    monkeypatch.syspath_prepend(_ROOT / "examples" / "python")
    return importlib.import_module("carts")


@pytest.fixture
def carts(module: Any, network: Network) -> Iterator[Any]:
    """Return a caller behind the network, which hardly waits between attempts."""
    with httpx.Client(base_url=network.url, timeout=30, trust_env=False) as client:
        yield module.Carts(client, token=lambda: user_token("shop", scope="carts:all"), pause=0.005)


@pytest.fixture
def page(module: Any, network: Network, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the examples of the page, and return what they have defined."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert module.ATTEMPTS == 4
    assert module.LONGEST_WAIT_S == 10
    defined: dict[str, Any] = {"service_token": lambda: user_token("shop", scope="carts:all")}
    exec(_EXAMPLES.replace("http://localhost:8080", network.url), defined)  # noqa: S102 - our own page
    return defined


def test_an_add_counts_once(carts: Any, network: Network) -> None:
    """Whether the request, the response or half of it is lost: one call adds one."""
    network.trouble = ["request", "", "answer", "", "half"]
    for expected in (1, 2, 3):
        assert carts.add("ann", _MUG)["total_quantity"] == expected
    assert [seen.replayed for seen in network.seen] == [False, False, False, True, False, True]
    assert len({seen.key for seen in network.seen}) == 3


def test_a_response_in_time_is_required(module: Any, network: Network) -> None:
    """The time-out of the client is that of one attempt."""
    network.trouble = ["silence"]
    with httpx.Client(base_url=network.url, timeout=0.7, trust_env=False) as client:
        carts = module.Carts(client, token=lambda: user_token("ben"), pause=0.005)
        assert carts.add("ben", _MUG)["total_quantity"] == 1
    assert [seen.replayed for seen in network.seen] == [False, True]


def test_what_passes_is_repeated(carts: Any, network: Network) -> None:
    """Every status after which a retry is likely to succeed is retried, with the key, also a proxy's page."""
    troubles = [
        PROBLEM_BY_ERROR[errors.OutcomeUnknown],
        PROBLEM_BY_ERROR[errors.CartSealed],
        PROBLEM_BY_ERROR[errors.MergeAborted],
        PROBLEM_BY_STATUS[408],
        PROBLEM_BY_STATUS[429],
        Foreign(502, "<html>Bad gateway</html>"),
        Foreign(503, "[]", "Thu, 01 Jan 1970 00:00:00 GMT"),
        Foreign(504, "", "soon"),
    ]
    for count, trouble in enumerate(troubles, 1):
        network.trouble = [trouble, trouble]
        assert carts.add("cid", _MUG)["total_quantity"] == count
    assert len({seen.key for seen in network.seen}) == len(troubles)


def test_retry_after_is_waited_for(carts: Any, module: Any, network: Network) -> None:
    """Seconds and dates are both read; a wait that is too long is left to the caller."""
    network.trouble = [Foreign(503, "{}", "1")]
    began = monotonic()
    carts.add("dan", _MUG)
    assert monotonic() - began >= 1
    network.trouble = [Foreign(429, "{}", formatdate(time() + 60, usegmt=True))]
    with pytest.raises(module.Problem) as raised:
        carts.add("dan", _MUG)
    assert 55 < raised.value.retry_after <= 60


def test_a_refusal_is_raised_at_once(carts: Any, module: Any, network: Network) -> None:
    """With its slug and its faults; the outcome is known."""
    with pytest.raises(module.Problem, match="999") as raised:
        carts.add("eve", {"product_id": "mug", "quantity": 1000})
    problem = raised.value
    assert (problem.status, problem.slug, problem.outcome_unknown) == (422, "invalid-request", False)
    assert [(fault["code"], fault["limit"]) for fault in problem.faults] == [("max_quantity", 999)]
    assert len(network.seen) == 1


def test_a_cart_is_handed_off_once(carts: Any, network: Network) -> None:
    """A lost response and a later retry with the order id are both True; another order gets False."""
    carts.add("fay", _MUG)
    _, etag = carts.get("fay")
    network.trouble = ["answer"]
    assert carts.hand_off("fay", etag, "order-1") is True
    carts.add("fay", _MUG)
    assert [carts.hand_off("fay", etag, order) for order in ("order-1", "order-2")] == [True, False]
    assert carts.get("fay")[0]["total_quantity"] == 1


def test_a_guest_is_merged(carts: Any) -> None:
    """With a service's token, a merge needs no token of the guest."""
    carts.add("guest-gus", _MUG)
    assert carts.merge("gus", "guest-gus", strategy="max")["total_quantity"] == 1
    assert carts.get("guest-gus") == ({**carts.get("guest-gus")[0], "items": []}, None)


# ---- the page ----


def test_the_page_adds_and_updates(page: dict[str, Any]) -> None:
    """The examples at its beginning have filled a cart."""
    assert {item["item_id"]: item["quantity"] for item in page["cart"]["items"]} == {"mug": 2, "tee": 3}
    assert page["etag"] is not None


def test_a_queue_repeats_what_is_unknown(page: dict[str, Any], network: Network) -> None:
    """After four lost responses the job has the key, so the add counts once; other problems are raised."""
    page["carts"].pause = 0.005
    network.trouble = ["answer"] * 4
    job = page["add_or_queue"]("hal", _MUG)
    assert page["repeat"](job)["total_quantity"] == 1
    assert page["add_or_queue"]("hal", _MUG) is None
    with pytest.raises(page["Problem"]):
        page["add_or_queue"]("hal", {"product_id": "mug", "quantity": 0})


def test_gifts_are_removed_from_the_current_cart(page: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client adds between the read and the write: its item stays, and the gift is removed."""
    carts = page["carts"]
    carts.add("ida", {**_MUG, "options": {"gift": "yes"}})
    stale = carts.get("ida")
    carts.add("ida", {"product_id": "tee", "quantity": 1})
    monkeypatch.setattr(carts, "get", lambda _: stale)
    assert [item["item_id"] for item in page["without_gifts"]("ida")["items"]] == ["tee"]


def test_a_stale_cart_is_not_checked_out(page: dict[str, Any]) -> None:
    """The order has what the shopper saw, or there is none."""
    carts = page["carts"]
    carts.add("jon", _MUG)
    etag = carts.get("jon")[1]
    carts.add("jon", _MUG)
    assert page["check_out"]("jon", etag, "order-3") is None
    items = page["check_out"]("jon", carts.get("jon")[1], "order-3")
    assert [item["quantity"] for item in items] == [2]
    for _ in range(2):
        assert carts.add("jon", *items, key="order-3-back")["total_quantity"] == 2
