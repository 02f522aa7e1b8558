"""Tests of /openapi.json, and of the checker that compares every response of this suite with it."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import marshmallow
import pytest
from apispec import APISpec
from flask import Response
from jsonschema import Draft202012Validator
from werkzeug.routing import Rule

from cartsvc.api.problems import PROBLEM_BY_ERROR, PROBLEM_BY_STATUS
from cartsvc.carts.cart import Limits
from cartsvc.errors import StoreError
from tests.support.api_client import RaisingStore, make_client, problem
from tests.support.openapi import FORMATS, PROBLEM, UNDOCUMENTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.api_client import Client

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SKU = {"product_id": "sku-1", "quantity": 2}
CART = {
    "user_id": "alice",
    "version": 1,
    "items": [],
    "item_count": 0,
    "total_quantity": 0,
    "currency": None,
    "subtotal": 0,
    "metadata": {},
    "created_at": "2026-01-02T03:04:05.678Z",
    "updated_at": "2026-01-02T03:04:05.678Z",
    "expires_at": "2026-01-02T03:04:05.678Z",
}
INSTANCE = "urn:cartsvc:request:x"
HEADERS = {"ETag": '"x"', "Cache-Control": "private, no-cache"}


def _operations(client: Client) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    for path, item in client.contract.document["paths"].items():
        for method in METHODS:
            if method in item:
                yield ("paths", path, method), item[method]


def _parameters(client: Client, operation: dict[str, Any], place: str) -> list[dict[str, Any]]:
    found = [client.contract.resolve(*each["$ref"][2:].split("/"))[1] for each in operation["parameters"]]
    return [parameter for parameter in found if parameter["in"] == place]


def _headers(client: Client, operation: dict[str, Any]) -> list[dict[str, Any]]:
    return _parameters(client, operation, "header")


def _nodes(value: Any, *steps: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield steps, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _nodes(inner, *steps, name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _nodes(inner, *steps, str(number))


# ---- the document ----


def test_the_document_is_openapi_3_1(client: Client) -> None:
    """The members that OpenAPI 3.1 requires, and no others where it names them all."""
    answer = client.get("/openapi.json")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    document = client.contract.document
    assert set(document) <= {"openapi", "info", "servers", "paths", "components", "security", "tags", "externalDocs"}
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert {"title", "version", "description", "license"} <= set(document["info"])
    for path, item in document["paths"].items():
        assert path.startswith("/")
        assert set(item) <= set(METHODS)
    for _, operation in _operations(client):
        for response in operation["responses"].values():
            assert response["description"]
            assert set(response) <= {"description", "headers", "content", "links"}
    assert set(document["components"]) == {"schemas", "parameters", "examples"}


def test_every_operation_is_told(client: Client) -> None:
    """Summary, description, a tag that is described, and statuses; its code need not be read."""
    tags = {tag["name"]: tag["description"] for tag in client.contract.document["tags"]}
    assert tags.keys() == {"carts", "health"}
    for steps, operation in _operations(client):
        assert operation["summary"], steps
        assert operation["description"], steps
        assert len(operation["tags"]) == 1, steps
        assert operation["tags"][0] in tags, steps
        assert all(re.fullmatch(r"[2-5]\d\d", status) for status in operation["responses"]), steps
        assert any(status.startswith("2") for status in operation["responses"]), steps


_READ = "bad-request invalid-request record-unreadable store-unavailable internal-error"
_WRITE = f"{_READ} idempotency-key-reused cart-sealed cart-merged precondition-failed outcome-unknown"
_BODY = "request-timeout content-too-large unsupported-media-type"
_GROWS = "limit-exceeded store-full"
PROBLEMS_OF = {
    "createGuest": "internal-error",
    "getCart": _READ,
    "getItem": f"{_READ} cart-not-found item-not-found",
    "addItem": f"{_WRITE} {_BODY} {_GROWS} currency-mismatch",
    "addItems": f"{_WRITE} {_BODY} {_GROWS} currency-mismatch",
    "replaceCart": f"{_WRITE} {_BODY} {_GROWS}",
    "updateCart": f"{_WRITE} {_BODY} {_GROWS} cart-not-found",
    "updateItems": f"{_WRITE} {_BODY} {_GROWS} currency-mismatch cart-not-found item-not-found",
    "updateItem": f"{_WRITE} {_BODY} {_GROWS} currency-mismatch cart-not-found item-not-found",
    "deleteItem": f"{_WRITE} cart-not-found item-not-found",
    "deleteCart": f"{_WRITE} cart-not-found",
    "mergeCart": f"{_WRITE} {_BODY} {_GROWS} currency-mismatch merge-aborted too-many-merges",
    "getHealth": "internal-error",
    "getReadiness": "draining store-unavailable internal-error",
}
# What settings add to each operation on carts.
_TOKENS = {"CARTSVC_AUTH": "jwt", "CARTSVC_JWT_KEY": "k" * 32, "CARTSVC_GUEST_KEY": "g" * 32}
_JWKS = {"CARTSVC_AUTH": "jwt", "CARTSVC_JWT_JWKS_URL": "https://issuer.example", "CARTSVC_GUEST_KEY": "g" * 32}


@pytest.mark.parametrize(
    ("environ", "added", "of_guests"),
    [
        ({}, "", ""),
        (_TOKENS, "bad-request unauthorized forbidden", "bad-request unauthorized store-unavailable record-unreadable"),
        (
            _JWKS,
            "bad-request unauthorized forbidden keys-unavailable",
            "bad-request unauthorized store-unavailable record-unreadable keys-unavailable",
        ),
        ({"CARTSVC_RATE_LIMIT": "9/minute"}, "too-many-requests", "too-many-requests"),
    ],
    ids=["none", "tokens", "jwks", "rates"],
)
def test_operations_list_the_problems_they_can_return(environ: dict[str, str], added: str, of_guests: str) -> None:
    """Those and no others: under their statuses, with an example, and with a type that tells them apart."""
    client = make_client(environ=environ)
    for steps, operation in _operations(client):
        found = set()
        for status, response in operation["responses"].items():
            if int(status) < 400:
                continue
            (content,) = response["content"].values()
            assert list(response["content"]) == [PROBLEM]
            references = content["schema"].get("oneOf", [content["schema"]])
            kinds = [client.contract.resolve(*each["$ref"][2:].split("/"))[1]["properties"] for each in references]
            slugs = [kind["type"]["enum"][0].removeprefix("urn:cartsvc:problem:") for kind in kinds]
            assert {kind["status"]["enum"][0] for kind in kinds} == {int(status)}, steps
            assert list(content["examples"]) == slugs
            if len(slugs) > 1:
                discriminator = content["schema"]["discriminator"]
                assert discriminator["propertyName"] == "type"
                assert list(discriminator["mapping"].values()) == [each["$ref"] for each in references]
            found |= set(slugs)
        expected = PROBLEMS_OF[operation["operationId"]]
        if steps[1].startswith("/cart"):
            expected += f" {of_guests if steps[1] == '/cart' else added}"
        assert found == set(expected.split()), steps


@pytest.mark.parametrize("prefix", ["", "/shopcart", "/a/b"])
def test_the_calls_are_found_under_any_path_prefix(client: Client, prefix: str) -> None:
    """The one server is relative to the document (OpenAPI 3.1, 4.8.5), so it has the prefix that a proxy adds."""
    (server,) = client.contract.document["servers"]
    assert urljoin(f"https://x{prefix}/openapi.json", server["url"]) == f"https://x{prefix}/"


def test_every_header_is_described(client: Client) -> None:
    """Those of requests have an example too, in the schema: Swagger UI would fill in and send a parameter's own."""
    for steps, operation in _operations(client):
        for parameter in _headers(client, operation):
            assert parameter["description"], (steps, parameter["name"])
            assert parameter["schema"], (steps, parameter["name"])
            assert parameter["schema"]["examples"], (steps, parameter["name"])
            assert not {"example", "examples"} & parameter.keys(), (steps, parameter["name"])
        for status in operation["responses"]:
            _, response = client.contract.resolve(*steps, "responses", status)
            for name, header in response.get("headers", {}).items():
                assert header["schema"], (steps, status, name)
                assert header.get("description"), (steps, status, name)


def test_every_write_takes_terms(client: Client) -> None:
    """A key, two preconditions, and their responses; a read accepts one precondition, a guest none."""
    for steps, operation in _operations(client):
        taken = [parameter["name"] for parameter in _headers(client, operation)]
        is_write = steps[1].startswith("/cart/") and steps[2] != "get"
        if is_write:
            assert taken == ["Idempotency-Key", "If-Match", "If-None-Match"]
        else:
            assert taken == (["If-None-Match"] if steps[1].startswith("/cart/") else [])
        for status, response in operation["responses"].items():
            replays = "Idempotency-Replayed" in response.get("headers", {})
            assert replays == (is_write and status in {"200", "201", "204"}), (steps, status)


def test_every_response_states_the_id_of_its_request(client: Client) -> None:
    """Those of successes too."""
    for steps, operation in _operations(client):
        for status in operation["responses"]:
            _, response = client.contract.resolve(*steps, "responses", status)
            assert "X-Request-ID" in response["headers"]


def test_problems_state_their_headers() -> None:
    """What a client has to act on: when to come again, and the ETag of the cart that a 412 carries."""
    client = make_client(environ=_TOKENS)
    merge = client.contract.document["paths"]["/cart/{user_id}/merge"]["post"]["responses"]
    own = {status: set(response["headers"]) - {"X-Request-ID"} for status, response in merge.items()}
    headers = {status: sorted(names) for status, names in own.items() if int(status) >= 400}
    assert {status: found for status, found in headers.items() if found} == {
        "401": ["WWW-Authenticate"],
        "403": ["WWW-Authenticate"],
        "409": ["Retry-After"],
        "412": ["ETag"],
        "429": ["Retry-After"],
        "503": ["Retry-After"],
    }


def test_the_example_of_a_412_has_its_cart(client: Client) -> None:
    """A client is to read the cart from it, so it must be seen there."""
    examples = client.contract.document["components"]["examples"]
    assert examples["precondition-failed"]["value"]["cart"]["version"] > 0


def test_every_answer_says_more_than_its_status(client: Client) -> None:
    """The description of a response is not just the phrase of its status."""
    for steps, operation in _operations(client):
        for status in operation["responses"]:
            _, response = client.contract.resolve(*steps, "responses", status)
            assert response["description"] != HTTPStatus(int(status)).phrase, (steps, status)


def test_every_path_parameter_is_described(client: Client) -> None:
    """Those in the template, all of them and no others; each is required and has a schema. They precede the headers."""
    for steps, operation in _operations(client):
        stated = _parameters(client, operation, "path")
        assert sorted(each["name"] for each in stated) == sorted(re.findall(r"\{(\w+)\}", steps[1]))
        assert all(each["required"] is True and each["schema"] and each["description"] for each in stated)
        first = operation["parameters"][: len(stated)]
        assert [client.contract.resolve(*each["$ref"][2:].split("/"))[1] for each in first] == stated


def test_every_body_has_an_example(client: Client) -> None:
    """Requests, and the responses to accepted ones: Swagger UI fills its forms with them."""
    for steps, operation in _operations(client):
        contents = [(*steps, "requestBody", "content")] if "requestBody" in operation else []
        contents += [
            (*steps, "responses", status, "content")
            for status, response in operation["responses"].items()
            if "content" in response
        ]
        for place in contents:
            for media in client.contract.resolve(*place)[1].values():
                assert "example" in media or "examples" in media, place


def test_every_example_is_right(client: Client) -> None:
    """Each example of the document matches its schema."""
    seen = 0
    for steps, node in _nodes(client.contract.document):
        if not isinstance(node, dict) or "example" in steps or "examples" in steps or "properties" in steps[-1:]:
            continue
        if "schema" in node:  # a media type, or a parameter
            examples = [
                client.contract.resolve(*each["$ref"][2:].split("/"))[1]["value"]
                for each in node.get("examples", {}).values()
            ]
            examples += [node["example"]] if "example" in node else []
            for example in examples:
                client.contract.validate(example, *steps, "schema")
                seen += 1
        elif isinstance(node.get("examples"), list):  # a schema
            for example in node["examples"]:
                client.contract.validate(example, *steps)
                seen += 1
    assert seen > 30


def test_examples_of_problems_say_what_happens(client: Client) -> None:
    """Each example has the type of its name, and a detail of its own kind, as the service words it."""
    examples = client.contract.document["components"]["examples"]
    for slug, example in examples.items():
        assert example["value"]["type"] == f"urn:cartsvc:problem:{slug}"
    details = [example["value"]["detail"] for example in examples.values()]
    assert len(set(details)) == len(details), "two kinds of problem, one detail"
    shown = examples["invalid-request"]["value"]
    asked = {"product_id": "a", "quantity": 1000, "colour": "red"}
    assert sorted(client.post("/cart/alice", json=asked).json["errors"], key=str) == sorted(shown["errors"], key=str)
    absent = client.get("/cart/absent/items/a", headers={"X-Request-ID": "5f0c8a2b91d34e67"})
    assert absent.json == examples["cart-not-found"]["value"]


def test_every_reference_leads_somewhere(client: Client) -> None:
    """Every reference has its component, and every component is referred to."""
    references = {
        node["$ref"] for _, node in _nodes(client.contract.document) if isinstance(node, dict) and "$ref" in node
    }
    assert len(references) > 10
    for reference in references:
        assert client.contract.resolve(*reference.removeprefix("#/").split("/"))[1]
    components = client.contract.document["components"]
    assert references == {f"#/components/{kind}/{name}" for kind, found in components.items() for name in found}


def test_every_schema_is_one(client: Client) -> None:
    """JSON Schema of Draft 2020-12, which is that of OpenAPI 3.1; its formats are those that the checker checks."""
    schemas = dict(client.contract.document["components"]["schemas"])
    for steps, node in _nodes(client.contract.document):
        if isinstance(node, dict) and "schema" in node and "example" not in steps:
            schemas["/".join(steps)] = node["schema"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    formats = {node["format"] for _, node in _nodes(schemas) if isinstance(node, dict) and "format" in node}
    assert formats == {"date-time", "uri", "int64"}
    assert formats - {"int64"} <= set(FORMATS.checkers)


def test_every_route_is_documented_or_known_not_to_be(client: Client) -> None:
    """Every route is documented, and every documented route exists."""
    served = {
        (re.sub(r"<(?:[^>]+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    documented = {(steps[1], steps[2]) for steps, _ in _operations(client)}
    assert documented <= served
    assert {path for path, _ in served - documented} == {
        "/",
        "/openapi.json",
        "/swagger-ui",
        "/swagger-ui/start.js",
        "/swagger-ui/{file}",
    }
    assert all(UNDOCUMENTED.fullmatch(path) for path, _ in served - documented)


def test_the_document_promises_no_more_than_is_built(client: Client) -> None:
    """The routes of the contract so far."""
    assert sorted((steps[1], steps[2]) for steps, _ in _operations(client)) == [
        ("/cart", "post"),
        ("/cart/{user_id}", "delete"),
        ("/cart/{user_id}", "get"),
        ("/cart/{user_id}", "patch"),
        ("/cart/{user_id}", "post"),
        ("/cart/{user_id}", "put"),
        ("/cart/{user_id}/items", "patch"),
        ("/cart/{user_id}/items", "post"),
        ("/cart/{user_id}/items/{item_id}", "delete"),
        ("/cart/{user_id}/items/{item_id}", "get"),
        ("/cart/{user_id}/items/{item_id}", "patch"),
        ("/cart/{user_id}/merge", "post"),
        ("/healthz", "get"),
        ("/readyz", "get"),
    ]


def test_the_limits_in_force_are_told() -> None:
    """The document contains the settings in force, and none of the defaults."""
    limits = Limits(max_quantity=7, max_items=6, max_options=5, max_option_name=4, max_option_value=3, max_unit_price=2)
    schemas = make_client(limits=limits).contract.document["components"]["schemas"]
    item, change = schemas["ItemInput"]["properties"], schemas["ItemUpdate"]["properties"]
    assert (item["quantity"]["minimum"], item["quantity"]["maximum"]) == (1, 7)
    assert (change["quantity"]["minimum"], change["quantity"]["maximum"]) == (0, 7)
    assert (item["unit_price"]["maximum"], change["unit_price"]["maximum"]) == (2, 2)
    assert schemas["CartInput"]["properties"]["items"]["maxItems"] == 6
    assert item["options"]["maxProperties"] == 5
    assert item["options"]["propertyNames"]["maxLength"] == 4
    assert item["options"]["additionalProperties"]["maxLength"] == 3
    assert (
        make_client().contract.document["components"]["schemas"]["CartInput"]["properties"]["items"]["maxItems"] == 500
    )


@pytest.mark.parametrize(
    "item",
    [
        SKU | {"quantity": 1000},
        SKU | {"quantity": "3"},
        SKU | {"unit_price": 10**10 + 1, "currency": "EUR"},
        SKU | {"unit_price": 1, "currency": "eur"},
        SKU | {"options": {"a": 1}},
        SKU | {"options": {f"o{number}": "" for number in range(11)}},
        SKU | {"options": {"x" * 65: ""}},
        SKU | {"options": {"": ""}},
        SKU | {"options": {"x": "y" * 257}},
        SKU | {"product_id": ""},
        SKU | {"product_id": "x" * 129},
        SKU | {"zap": 1},
        {"quantity": 1},
    ],
    ids=str,
)
def test_what_is_refused_is_documented_as_wrong(client: Client, item: dict[str, Any]) -> None:
    """A client that checks against the document learns it before it asks."""
    assert problem(client.post("/cart/alice", json=item)) == (422, "invalid-request")
    with pytest.raises(AssertionError, match="does not match"):
        client.contract.validate(item, "components", "schemas", "ItemInput")


# ---- what it costs ----


def test_the_document_is_made_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap: /openapi.json would be built again for each request."""
    first = client.get("/openapi.json").data
    monkeypatch.setattr(APISpec, "to_dict", _never)
    assert client.get("/openapi.json").data == first


def test_schemas_are_made_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap: handed the class, @blp.arguments builds a schema for each request."""
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/cart/alice", SKU),
        ("PUT", "/cart/alice", {"items": [SKU]}),
        ("POST", "/cart/alice/items", {"items": [SKU]}),
        ("PATCH", "/cart/alice/items/sku-1", {"quantity": 1}),
        ("GET", "/cart/alice", None),
        ("GET", "/healthz", None),
    ]
    for method, path, body in calls:  # what is made at first use is made now
        assert client.open(path, method=method, json=body).status_code in {200, 201}
    monkeypatch.setattr(marshmallow.Schema, "__init__", _never)
    for method, path, body in calls:
        assert client.open(path, method=method, json=body).status_code == 200


def _never(*_args: object, **_kwargs: object) -> None:
    raise AssertionError("made again")


# ---- the checker itself ----


def _json(
    body: object, status: int = 200, headers: dict[str, str] | None = None, kind: str = "application/json"
) -> Any:
    return lambda **_: Response(json.dumps(body), status, HEADERS if headers is None else headers, mimetype=kind)


def _problem(code: int, **members: Any) -> Any:
    body = {"type": "urn:cartsvc:problem:internal-error", "title": "X", "status": code, "detail": "X."} | members
    return _json({"instance": INSTANCE} | body, code, {}, PROBLEM)


def test_the_checker_lets_right_answers_pass(client: Client) -> None:
    """The responses that the next test breaks are valid before that."""
    for right in (_json(CART), _problem(500), _json(CART | {"version": 0, "subtotal": 0}, headers=_without("ETag"))):
        client.application.view_functions["carts.get_cart"] = right
        client.get("/cart/alice")


def _without(name: str) -> dict[str, str]:
    return {key: value for key, value in HEADERS.items() if key != name}


@pytest.mark.parametrize(
    "wrong",
    [
        _json(CART, 202),
        _json(CART, 201),
        _json(CART, kind="text/json"),
        _json(CART, headers=_without("ETag")),
        _json(CART, headers=_without("Cache-Control")),
        _json(CART, headers=HEADERS | {"Location": "/x"}),
        _json({name: CART[name] for name in CART if name != "version"}),
        _json(CART | {"zap": 1}),
        _json(CART | {"version": 1.0}),
        _json(CART | {"version": "1"}),
        _json(CART | {"version": -1}),
        _json(CART | {"created_at": "yesterday"}),
        _json(CART | {"created_at": "2026-01-02 03:04:05"}),
        _json(CART | {"currency": "eur"}),
        _json(CART | {"items": [{}]}),
        _json(CART | {"item_count": 1}),
        _json(CART | {"total_quantity": 1}),
        _json(CART | {"subtotal": 1}),
        _json(CART | {"subtotal": None}),
        _json([]),
        lambda **_: Response('{"a": 1, "a": 1}', 200, HEADERS, mimetype="application/json"),
        lambda **_: Response("", 200, HEADERS, mimetype="application/json"),
        lambda **_: Response(status=304, headers=_without("ETag")),
        _problem(418),
        _problem(404),
        _problem(500, status=422),
        _problem(500, type="about:blank"),
        _problem(500, type="urn:cartsvc:problem:"),
        _problem(500, zap=1),
        _problem(500, instance=7),
        _problem(500, errors=[{"pointer": "/x"}]),
        _problem(500, detail="Traceback (most recent call last)"),
        _problem(503),
        _json({}, 500, {}, PROBLEM),
    ],
)
def test_the_checker_sees_wrong_answers(
    client: Client, monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Response]
) -> None:
    """Each is caught by the client, whatever test asked."""
    monkeypatch.setitem(client.application.view_functions, "carts.get_cart", wrong)
    with pytest.raises((AssertionError, json.JSONDecodeError)):
        client.get("/cart/alice")


def _refusal(slug: str, code: int = 409, headers: dict[str, str] | None = None, **members: Any) -> Any:
    body = {"type": f"urn:cartsvc:problem:{slug}", "title": "X", "status": code, "detail": "X."} | members
    return _json({"instance": INSTANCE} | body, code, headers or {}, PROBLEM)


ABSENT = CART | {"version": 0}
FAULTS = [{"pointer": "/quantity", "detail": "X.", "code": "max_quantity", "limit": 9, "value": 10}]
REPLAYED = HEADERS | {"Idempotency-Replayed": "true"}
KEYED = {"Idempotency-Key": "k"}


def test_the_checker_lets_right_writes_pass(client: Client) -> None:
    """The responses to writes that the next test breaks are valid before that."""
    for right, sent in (
        (_json(CART), {}),
        (_json(CART, headers=REPLAYED), KEYED),
        (_json(ABSENT, headers=_without("ETag")), {}),
        (_refusal("limit-exceeded", errors=FAULTS), {}),
        (_refusal("cart-sealed", headers={"Retry-After": "5"}), {}),
        (_refusal("precondition-failed", 412, HEADERS, cart=CART), {}),
        (_refusal("precondition-failed", 412, _without("ETag"), cart=ABSENT), {}),
    ):
        client.application.view_functions["carts.add_item"] = right
        client.post("/cart/alice", json=SKU, headers=sent)


@pytest.mark.parametrize(
    ("wrong", "sent"),
    [
        (_json(CART, headers=REPLAYED), {}),
        (_json(CART, headers=HEADERS | {"Idempotency-Replayed": "yes"}), KEYED),
        (_json(CART, 201, REPLAYED), KEYED),
        (_json(ABSENT), {}),
        (_refusal("cart-sealed"), {}),
        (_refusal("limit-exceeded"), {}),
        (_refusal("limit-exceeded", headers=REPLAYED, errors=FAULTS), KEYED),
        (_refusal("limit-exceeded", cart=CART, errors=FAULTS), {}),
        (_refusal("store-unavailable", 503), {}),
        (_refusal("precondition-failed", 412, HEADERS), {}),
        (_refusal("precondition-failed", 412, _without("ETag"), cart=CART), {}),
        (_refusal("precondition-failed", 412, _without("Cache-Control"), cart=CART), {}),
        (_refusal("precondition-failed", 412, HEADERS, cart=ABSENT), {}),
        (_refusal("precondition-failed", 412, HEADERS, cart=CART | {"user_id": "bob"}), {}),
        (_refusal("precondition-failed", 412, HEADERS, cart=CART | {"item_count": 1}), {}),
        (_refusal("precondition-failed", 412, HEADERS, cart={}), {}),
    ],
)
def test_the_checker_sees_wrong_answers_to_writes(
    client: Client, monkeypatch: pytest.MonkeyPatch, wrong: Any, sent: dict[str, str]
) -> None:
    """Unexpected replays, a 412 without its cart, problems without Retry-After."""
    monkeypatch.setitem(client.application.view_functions, "carts.add_item", wrong)
    with pytest.raises(AssertionError):
        client.post("/cart/alice", json=SKU, headers=sent)


def test_the_checker_sees_guests_in_caches(client: Client) -> None:
    """A guest's id grants access to the cart: a response that a cache may store is caught."""
    guest = {"user_id": "guest-1", "token": None}
    for headers, passes in (({"Cache-Control": "no-store"}, True), ({}, False), ({"Cache-Control": "no-cache"}, False)):
        client.application.view_functions["carts.create_guest"] = _json(guest, 201, headers | {"Location": "/x"})
        if passes:
            client.post("/cart")
        else:
            with pytest.raises(AssertionError):
                client.post("/cart")


def test_the_checker_sees_missing_headers_of_every_answer(client: Client) -> None:
    """All responses need the header nosniff, the pages too."""
    client.application.after_request_funcs.clear()
    for path in ("/cart/alice", "/", "/nope", "/healthz"):
        with pytest.raises(AssertionError):
            client.get(path)


def test_the_checker_sees_undocumented_routes(client: Client) -> None:
    """A path or a method that exists and is not in the document."""
    client.application.view_functions["new"] = dict
    client.application.url_map.add(Rule("/debug", endpoint="new"))
    client.application.url_map.add(Rule("/healthz", endpoint="new", methods=["POST"]))
    with pytest.raises(AssertionError):
        client.get("/debug")
    with pytest.raises(AssertionError):
        client.post("/healthz")


def test_the_checker_sees_requests_that_should_not_be_accepted(client: Client) -> None:
    """A body that the document forbids, and a view that takes it."""
    client.application.view_functions["carts.add_item"] = _json(CART)
    client.post("/cart/alice", json=SKU)
    for wrong in ({}, SKU | {"quantity": 1000}, SKU | {"zap": 1}, []):
        with pytest.raises(AssertionError):
            client.post("/cart/alice", json=wrong)


def test_a_failing_store_does_not_hide_the_document() -> None:
    """/openapi.json asks no store."""
    assert make_client(store=RaisingStore(StoreError())).get("/openapi.json").status_code == 200


def test_the_names_of_operations_are_public() -> None:
    """Generated clients call their methods after the operationIds, so a changed one breaks them."""
    paths = make_client().contract.document["paths"]
    named = {
        (method, path): operation["operationId"]
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert named == {
        ("get", "/cart/{user_id}"): "getCart",
        ("post", "/cart/{user_id}"): "addItem",
        ("put", "/cart/{user_id}"): "replaceCart",
        ("patch", "/cart/{user_id}"): "updateCart",
        ("delete", "/cart/{user_id}"): "deleteCart",
        ("post", "/cart/{user_id}/items"): "addItems",
        ("patch", "/cart/{user_id}/items"): "updateItems",
        ("get", "/cart/{user_id}/items/{item_id}"): "getItem",
        ("patch", "/cart/{user_id}/items/{item_id}"): "updateItem",
        ("delete", "/cart/{user_id}/items/{item_id}"): "deleteItem",
        ("post", "/cart"): "createGuest",
        ("post", "/cart/{user_id}/merge"): "mergeCart",
        ("get", "/healthz"): "getHealth",
        ("get", "/readyz"): "getReadiness",
    }


def test_the_names_of_schemas_are_public() -> None:
    """Generated clients call their types after the schemas."""
    expected = {"Cart", "MergedCart", "Item", "Adjustment", "Guest", "Health", "Readiness", "Fault"}
    expected |= {"ItemInput", "ItemsInput", "CartInput", "MergeInput", "Strategy", "OnLimit"}
    expected |= {"ItemUpdate", "ItemsUpdate", "ItemsUpdateItem", "CartUpdate"}
    schemas = make_client().contract.document["components"]["schemas"]
    assert {name for name in schemas if not name.endswith("Problem")} == expected


def test_each_kind_of_problem_has_a_schema() -> None:
    """Its type is one value, so a client can tell kinds apart; what a kind always has is required."""
    client = make_client(environ=_JWKS | {"CARTSVC_RATE_LIMIT": "9/minute"})
    schemas = client.contract.document["components"]["schemas"]
    kinds = {problem.slug: problem for problem in (*PROBLEM_BY_ERROR.values(), *PROBLEM_BY_STATUS.values())}
    found = {name: schema for name, schema in schemas.items() if name.endswith("Problem")}
    assert {schema["properties"]["type"]["enum"][0] for schema in found.values()} == {
        f"urn:cartsvc:problem:{slug}" for slug in kinds.keys() - {"not-found", "method-not-allowed"}
    }
    with_errors = {name for name, schema in found.items() if "errors" in schema["required"]}
    assert with_errors == {
        "InvalidRequestProblem",
        "LimitExceededProblem",
        "CurrencyMismatchProblem",
    }
    assert [name for name, schema in found.items() if "cart" in schema["required"]] == ["PreconditionFailedProblem"]


def test_every_integer_has_64_bits(client: Client) -> None:
    """Without a format, generators choose 32 bits, which hold no price of 21.5 million."""
    for steps, node in _nodes(client.contract.document):
        kinds = node.get("type") if isinstance(node, dict) else None
        if kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds):
            assert node["format"] == "int64", steps


def test_only_requests_are_closed(client: Client) -> None:
    """A response may get members later, so a generated client must accept unknown ones; a request may not have any."""
    schemas = client.contract.document["components"]["schemas"]
    closed = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    assert closed == {name for name in schemas if re.fullmatch(r"\w+Input|\w+Update|ItemsUpdateItem", name)}


def test_nothing_has_a_default(client: Client) -> None:
    """Generators for TypeScript take a member with a default as required, and those for Go do not compile it."""
    assert [
        steps for steps, node in _nodes(client.contract.document) if isinstance(node, dict) and "default" in node
    ] == []


def test_no_schema_is_named_like_a_constructor() -> None:
    """Generated Go has a function NewX for each schema X, which must not be the name of another schema."""
    names = make_client().contract.document["components"]["schemas"].keys()
    assert names & {f"New{name}" for name in names} == set()
