"""Check responses against an OpenAPI 3.1 document: path, method, status, headers and body."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from cartsvc.api.request_schemas import CartInputSchema, ItemInputSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from werkzeug.test import TestResponse

PROBLEM = "application/problem+json"
FORMATS = Draft202012Validator.FORMAT_CHECKER

# Served, and no part of what /openapi.json describes: itself, and the pages for people.
UNDOCUMENTED = re.compile(r"/|/openapi\.json|/swagger-ui|/swagger-ui/.+")

IGNORED = ItemInputSchema.ignored | CartInputSchema.ignored

_BASE = "urn:openapi"  # the document's own name: its references are resolved against it wherever they stand
# Clients act on these: a response that has one is documented to have it.
_TELLING = ("ETag", "Idempotency-Replayed", "Location", "Retry-After")


class Contract:
    """An OpenAPI document. Its methods raise AssertionError for what does not match it."""

    def __init__(self, document: bytes) -> None:
        self.document: dict[str, Any] = parse(document)
        self._registry = Registry().with_resource(_BASE, DRAFT202012.create_resource(self.document))
        self._templates = {
            template: re.compile("[^/]+".join(map(re.escape, re.split(r"\{\w+\}", template))))
            for template in self.document["paths"]
        }

    def check(self, response: TestResponse, *, sent: object = None) -> None:
        """Check a response, and what was ``sent`` (parsed JSON) if it was accepted."""
        method, path, status = response.request.method, response.request.path, response.status_code
        template = self._template(path)
        if UNDOCUMENTED.fullmatch(path) and status in {200, 302, 304}:
            return
        if template is None:
            assert status in ({404, 405} if UNDOCUMENTED.fullmatch(path) else {404}), f"{method} {path}: {status}"
            self._check_problem(response)
        elif method == "OPTIONS":
            assert (status, response.data) == (200, b"")
            assert "OPTIONS" in response.allow
        elif (name := "get" if method == "HEAD" else method.lower()) not in self.document["paths"][template]:
            assert status == 405, f"{method} {path} is not documented and returns {status}"
            self._check_problem(response)
        else:
            self._check_documented(response, ("paths", template, name), sent)

    @functools.cache  # noqa: B019 - a contract lives as long as the tests
    def resolve(self, *steps: str) -> tuple[tuple[str, ...], Any]:
        """Return the value at this pointer of the document and its own pointer, after following references."""
        found = self._registry.resolver(_BASE).lookup(_pointer(steps)).contents
        if "$ref" not in found:
            return steps, found
        return self.resolve(*_steps(found["$ref"]))

    def validate(self, value: object, *steps: str) -> None:
        """Check a value against the schema at this pointer of the document."""
        errors = [f"{error.json_path}: {error.message}" for error in self._validator(steps).iter_errors(value)]
        assert not errors, f"does not match {'/'.join(steps)}: {errors}"

    @functools.cache  # noqa: B019 - a contract lives as long as the tests
    def _validator(self, steps: tuple[str, ...]) -> Draft202012Validator:
        return Draft202012Validator(self._inlined(self.resolve(*steps)[1]), format_checker=FORMATS)

    def _inlined(self, schema: Any) -> Any:
        """Return a schema without references, because the library looks for their targets in each validation."""
        if isinstance(schema, list):
            return [self._inlined(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            return self._inlined(self.resolve(*_steps(schema["$ref"]))[1])
        return {name: self._inlined(each) for name, each in schema.items()}

    def _template(self, path: str) -> str | None:
        return next((each for each, pattern in self._templates.items() if pattern.fullmatch(path)), None)

    def _check_documented(self, response: TestResponse, steps: tuple[str, ...], sent: object) -> None:
        method, status = response.request.method, str(response.status_code)
        where = f"{method} {response.request.path}"
        _, operation = self.resolve(*steps)
        assert status in operation["responses"], f"{where}: {status} is not documented"
        place, documented = self.resolve(*steps, "responses", status)
        body = self._check_body(response, place, documented.get("content", {}))
        headers = documented.get("headers", {})
        for name in headers:
            assert len(response.headers.getlist(name)) <= 1, f"{where}: {status} with {name} twice"
            if name in response.headers:
                self.validate(response.headers[name], *place, "headers", name, "schema")
            else:
                assert _may_lack(response, name, body), f"{where}: {status} without {name}"
        undocumented = [name for name in _TELLING if name in response.headers and name not in headers]
        assert undocumented == [], f"{where}: {status} with {undocumented}"
        if "Idempotency-Replayed" in response.headers:
            assert "Idempotency-Key" in response.request.headers, f"{where}: replayed without a key"
        if isinstance(shown := _shown(body), dict) and shown["version"] == 0:
            assert "ETag" not in response.headers, f"{where}: an ETag of an absent cart"
        if response.status_code < 300 and "requestBody" in operation:
            schema = (*steps, "requestBody", "content", "application/json", "schema")
            self.validate(self._without_ignored(sent, *schema), *schema)

    def _without_ignored(self, sent: object, *steps: str) -> object:
        """Return a request body without the members of responses that the service ignores: they are undocumented."""
        place, schema = self.resolve(*steps)
        members = schema.get("properties", {})
        if not isinstance(sent, dict):
            return sent
        kept = {name: value for name, value in sent.items() if name in members or name not in IGNORED}
        if isinstance(kept.get("items"), list) and "items" in members:
            items = (*place, "properties", "items", "items")
            kept["items"] = [self._without_ignored(each, *items) for each in kept["items"]]
        return kept

    def _check_body(self, response: TestResponse, place: tuple[str, ...], content: Mapping[str, Any]) -> object:
        if not content:
            assert response.data == b""
            return None
        assert response.mimetype in content, f"{response.mimetype} is not documented"
        if response.request.method == "HEAD":
            assert response.data == b""
            return None
        body = parse(response.data)
        schema = (*place, "content", response.mimetype, "schema")
        self.validate(body, *schema)
        self._check_members(body, *schema)
        if response.mimetype == PROBLEM:
            self._check_problem(response)
        return body

    def _check_members(self, value: object, *steps: str) -> None:
        """Check that the document has every member of a response, although clients must accept others."""
        place, schema = self.resolve(*steps)
        if isinstance(value, dict) and "properties" in schema:
            assert value.keys() <= schema["properties"].keys(), f"undocumented: {value.keys()}"
            for name, member in value.items():
                self._check_members(member, *place, "properties", name)
        elif isinstance(value, list):
            for member in value:
                self._check_members(member, *place, "items")

    def _check_problem(self, response: TestResponse) -> None:
        assert response.mimetype == PROBLEM
        if response.status_code == 405:
            assert response.allow
        if response.request.method == "HEAD":
            assert response.data == b""
            return
        problem = parse(response.data)
        assert problem["status"] == response.status_code
        slug = problem["type"].removeprefix("urn:cartsvc:problem:")
        if slug in {"not-found", "method-not-allowed"}:  # no operation returns these
            assert problem.keys() == {"type", "title", "status", "detail", "instance"}
            return
        kind = "".join(map(str.capitalize, slug.split("-"))) + "Problem"
        self.validate(problem, "components", "schemas", kind)
        assert problem.keys() <= self.resolve("components", "schemas", kind)[1]["properties"].keys()


def _may_lack(response: TestResponse, name: str, body: object) -> bool:
    """Return whether this documented header may be absent from this response."""
    if response.request.method == "HEAD" or name == "Idempotency-Replayed":
        return True
    if name == "ETag":
        shown = _shown(body)
        return isinstance(shown, dict) and shown["version"] == 0  # an absent cart has none
    if name == "Retry-After" and response.status_code == 409 and isinstance(body, dict):
        return not body["type"].endswith(":cart-sealed")  # of the conflicts, only this one passes by itself
    return False


def _shown(body: object) -> object:
    """Return the cart in a response: its body, or the ``cart`` member of a 412."""
    if not isinstance(body, dict):
        return None
    return body if "version" in body else body.get("cart")


def parse(text: bytes) -> Any:
    """Return the value of JSON that has no repeated names and only integers."""
    return json.loads(text, object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert sorted(names) == sorted(set(names)), "a name stands twice in one object"
    return dict(pairs)


def _refuse(number: str) -> NoReturn:
    raise AssertionError(f"{number} is no whole number")


def _pointer(steps: tuple[str, ...]) -> str:
    return "#" + "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def _steps(reference: str) -> list[str]:
    return [_unescaped(step) for step in reference.removeprefix("#/").split("/")]


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
