"""The Blueprint that all routes of the API stand in: strict bodies, and every problem documented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import flask_smorest

from cartsvc.api.body import BodyParser
from cartsvc.api.problems import reference

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

ETAG = {"ETag": {"schema": {"type": "string"}, "description": "Names this state of the cart (RFC 9110, 8.8.3)."}}
_IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "description": "ETags got before: the answer is 304 when the cart is still one of them.",
    "schema": {"type": "string"},
}
_OF_BODIES = (400, 413, 415)


class Blueprint(flask_smorest.Blueprint):
    """flask-smorest's Blueprint whose operations name the problems they answer with.

    ``always`` are the statuses of the problems that each operation can answer with; reading a body adds its own.
    """

    ARGUMENTS_PARSER = BodyParser()

    def __init__(self, *args: Any, always: tuple[int, ...], **kwargs: Any) -> None:  # noqa: ANN401 - flask_smorest's own
        super().__init__(*args, **kwargs)
        self._always = always
        self._prepare_doc_cbks.append(self._prepare_problem_doc)

    def _prepare_problem_doc(self, doc: dict[str, Any], doc_info: dict[str, Any], **_: object) -> dict[str, Any]:
        problems, conditional = doc_info.get("answers", ((), False))
        if conditional:
            doc.setdefault("parameters", []).append(_IF_NONE_MATCH)
            doc["responses"][304] = {"description": "The cart is still the one you have.", "headers": ETAG}
        bodies = _OF_BODIES if "requestBody" in doc else ()
        doc["responses"] |= {status: reference(status) for status in (*self._always, *bodies, *problems)}
        doc["responses"] = {str(status): response for status, response in sorted(doc["responses"].items())}
        return doc


def answers(*problems: int, conditional: bool = False) -> Callable[[F], F]:
    """Document what else a view can answer: these statuses' problems, and 304 when it is ``conditional``.

    Only a note on the view: nothing happens at run time.
    """

    def note(view: F) -> F:
        view.__dict__.setdefault("_apidoc", {})["answers"] = (problems, conditional)
        return view

    return note
