"""Rules for schemathesis that the OpenAPI document cannot express."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from unicodedata import normalize
from urllib.parse import unquote

import schemathesis
from hypothesis.strategies import integers
from schemathesis.core.parameters import ParameterLocation
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

from cartsvc.carts.strings import METADATA_NAME, METADATA_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import SearchStrategy
    from schemathesis import Case, CheckContext, HookContext, Response
    from schemathesis.core.failures import Failure

_LEAK = re.compile(r"Traceback|\.py\b|site-packages|codec can't|object at 0x|Error\b")
_PRECONDITIONS = ("If-Match", "If-None-Match")
_CHANGES = ("quantity", "unit_price", "options", "metadata")  # a PATCH of an item sets one of these
# Hypothesis lists each character of a range when it reads a pattern, which takes 0.3 s for each use of the document's
# two long patterns. These match the same texts, except that they allow surrogates, which schemathesis never generates.
SHORT_PATTERNS = {
    METADATA_NAME.pattern: r"[^\x00-\x1f\x7f-\x9f]*",
    METADATA_VALUE.pattern: r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*",
}
_MOST_BYTES = 50_000  # of a body whose items may be too much for one cart; as they are stored they take less


@schemathesis.hook
def before_load_schema(context: HookContext, raw_schema: dict[str, Any]) -> None:  # noqa: ARG001 - schemathesis' signature
    """Replace the patterns that take Hypothesis long to read."""
    text = json.dumps(raw_schema)
    for pattern, short in SHORT_PATTERNS.items():
        assert json.dumps(f"^{pattern}$") in text, f"the document has no pattern {pattern}"
        text = text.replace(json.dumps(f"^{pattern}$"), json.dumps(f"^{short}$"))
    raw_schema.update(json.loads(text))


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:  # noqa: ARG001 - schemathesis' signature
    """Accept what is documented but not in OpenAPI: rejections that name their rule, and removed carts."""
    if isinstance(failure, RejectedPositiveData):
        return not _may_be_refused(case, response)
    # A removed cart reads as an absent one, and adding makes a new one: neither is the removed cart.
    return not (isinstance(failure, UseAfterFree) and json.loads(response.content).get("version") in {0, 1})


@schemathesis.hook
def flatmap_case(context: HookContext, case: Case) -> SearchStrategy[Case]:  # noqa: ARG001 - schemathesis' signature
    """Remove what would get most requests rejected: preconditions, and a price without its currency."""

    def chosen(number: int) -> Case:
        if number and not _tries_headers(case):
            for name in _PRECONDITIONS:
                case.headers.pop(name, None)
        if number and not _tries_body(case):
            for line in _lines(case.body):
                if _has_half_a_price(line):
                    line |= {"unit_price": None, "currency": None}
        return case

    return integers(0, 3).map(chosen)


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:  # noqa: ARG001 - schemathesis' signature
    """Correct the parts of a request that would be rejected before the part that schemathesis tests.

    The only key that it knows is the document's example, and it has "0" for what is to match a pattern with quotes.
    """
    if _tries_headers(case):
        return
    for each in case.operation.headers:
        stated, schema = case.headers.get(each.name), each.definition["schema"]
        if stated is None:
            continue
        if each.name == "Idempotency-Key" and stated in schema["examples"]:
            case.headers[each.name] = f"{stated}-{case.id}"
        if each.name in _PRECONDITIONS and not re.search(schema.get("pattern", ""), stated):
            del case.headers[each.name]


@schemathesis.check
def no_leak(ctx: CheckContext, response: Response, case: Case) -> None:  # noqa: ARG001 - schemathesis' signature
    """Check that no response contains a path, a traceback or the name of an exception."""
    if response.headers.get("content-type") == ["application/problem+json"]:
        detail = json.loads(response.content)["detail"]
        assert not _LEAK.search(detail), f"leaks: {detail}"


def _tries_headers(case: Case) -> bool:
    """Return whether this request must have wrong headers."""
    meta = case.meta
    return meta is None or (
        meta.generation.mode.is_negative and meta.phase.data.parameter_location in {None, ParameterLocation.HEADER}
    )


def _tries_body(case: Case) -> bool:
    """Return whether this request must have a wrong body."""
    meta = case.meta
    return meta is None or (
        meta.generation.mode.is_negative and meta.phase.data.parameter_location in {None, ParameterLocation.BODY}
    )


def _lines(body: Any) -> list[dict[str, Any]]:
    """Return the items in a body, or the item that it is."""
    found = body.get("items", [body]) if isinstance(body, dict) else []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _has_half_a_price(line: dict[str, Any]) -> bool:
    return (line.get("unit_price") is None) != (line.get("currency") is None)


def _may_be_refused(case: Case, response: Response) -> bool:
    problem = json.loads(response.content)
    kind = response.status_code, problem["type"].removeprefix("urn:cartsvc:problem:")
    if kind == (412, "precondition-failed"):
        return any(name in case.headers for name in _PRECONDITIONS)
    if kind == (422, "idempotency-key-reused"):
        return "Idempotency-Key" in case.headers
    faults = problem.get("errors", [])
    reasons = list(_reasons(case))
    return bool(faults) and all(any(re.search(reason, fault["detail"]) for reason in reasons) for fault in faults)


def _reasons(case: Case) -> Iterator[str]:
    """Return patterns of the details with which this documented body can still be rejected."""
    body: Any = case.body
    if not isinstance(body, dict):
        return
    if body.get("from_user_id") == unquote(case.path_parameters["user_id"]):  # it is encoded there
        yield "merged into itself"
    lines = _lines(body)
    if case.method == "PATCH":
        yield from _reasons_of_changes(lines)
    if len({each.get("currency") for each in (body, *lines)} - {None}) > 1:
        yield "one currency"
    if len(json.dumps(lines)) > _MOST_BYTES:
        yield "contents of one cart take at most"
    yield from _reasons_of_lines(lines)


def _reasons_of_changes(lines: list[dict[str, Any]]) -> Iterator[str]:
    if any(all(each.get(name) is None for name in _CHANGES) for each in lines):
        yield "Nothing to change"
    if any(each.get("product_id") is not None for each in lines):
        yield "product of an item cannot be changed"
    items = [each["item_id"] for each in lines if "item_id" in each]
    if len(set(items)) < len(items):
        yield "for the same item"


def _reasons_of_lines(lines: list[dict[str, Any]]) -> Iterator[str]:
    if any(_has_half_a_price(each) for each in lines):
        yield "needs its (currency|unit_price)"
    if any(_repeats_a_name(each.get("options")) for each in lines):
        yield "same name in Unicode NFC"
    if any(isinstance(each.get(name), float) for each in lines for name in ("quantity", "unit_price")):
        yield "valid integer"  # JSON Schema counts 3.0 among the integers, we do not
    quantities: Counter[str] = Counter()
    for each in lines:
        item = json.dumps([each.get("product_id"), each.get("options") or {}], sort_keys=True, ensure_ascii=False)
        quantities[normalize("NFC", item)] += each.get("quantity") or 0
    if max(quantities.values(), default=0) > 999:
        yield "At most 999 of one item"


def _repeats_a_name(options: Any) -> bool:
    return isinstance(options, dict) and len({normalize("NFC", name) for name in options}) < len(options)
