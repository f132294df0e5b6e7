"""The OpenAPI 3.1 document, made from the table of routes and the classes that check requests and make replies."""

import re
from typing import Any

import attrs

from jobd.web.calls import NAMES, Route
from jobd.web.jobs import STATES
from schemas.jsonschema import NAME, components, reference
from schemas.views import ProblemView

VERSION = "1"
_TEXT = {"type": "string"}
_WHOLE = {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999}
_FROM_ONE = {**_WHOLE, "minimum": 1}

PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "serial": (_FROM_ONE, "the run meant; without it the newest"),
    "limit": ({**_FROM_ONE, "maximum": 1000}, "items on a page"),
    "after": (_TEXT, "`next` of the page before"),
    "before": (_FROM_ONE, "`next` of the page before"),
    "state": ({"enum": list(STATES)}, "jobs whose newest run is so"),
    "code": (NAME, "jobs whose newest run is of this code"),
    "format": (_TEXT, "what the code's worker offers, such as json or png"),
    "width": (_WHOLE, "of a picture, in pixels"),
    "follow": ({"enum": ["0", "1"]}, "1: go on with what is appended until the run has ended"),
    "offset": (_WHOLE, "with follow: begin here, in bytes"),
    "if-none-match": (_TEXT, "an ETag: 304 while it is still right"),
    "prefer": (_TEXT, "`wait=N`: answer at the next change, or after N seconds (RFC 7240)"),
    "last-event-id": ({"type": "string", "pattern": "^[0-9]{1,15}$"}, "resume behind this event"),
    "range": (_TEXT, "`bytes=N-` or `bytes=N-M`"),
}
PATH_PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "path": (_TEXT, "a relative path in the run directory"),
    "index": ({"type": "string", "pattern": "^(latest|[0-9]{1,12})$"}, "a number from 0, or latest"),
    "agent": (_TEXT, "an agent's id"),
    "token": (_TEXT, "a token's id, not its text"),
}


def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    kinds = [kind for route in routes for kind in (route.request, route.reply) if attrs.has(kind)]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jobd",
            "version": VERSION,
            "description": "The job supervisor behind a science gateway. Errors are problem documents (RFC 9457).",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components([*kinds, ProblemView]),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "tags": [_tag(route)],
        "parameters": [*_path_parameters(route.path), *_parameters(route)],
        "responses": {**_replies(route), "default": _refusal()},
    }
    if route.may == "anyone":
        operation["security"] = []
    elif route.may in ("gateway", "operator"):
        operation["description"] = f"For the {route.may} only."
    if route.request is not None:
        required = attrs.has(route.request) and any(f.default is attrs.NOTHING for f in attrs.fields(route.request))
        operation["requestBody"] = {"content": _content(route.request), "required": required}
    return operation


def _tag(route: Route) -> str:
    for part in ("admin", "jobs", "library", "tokens"):
        if f"/{part}" in route.path:
            return part
    return "users" if "{user}" in route.path else "site"


def _path_parameters(path: str) -> list[dict[str, Any]]:
    found = []
    for name in re.findall(r"\{(\w+)\}", path):
        schema, about = PATH_PARTS.get(name) or (NAME, f"the {name}'s name")
        assert name in NAMES or name in PATH_PARTS, f"no words about the path's {name}"
        found.append(_parameter("path", name, schema, about) | {"required": True})
    return found


def _parameters(route: Route) -> list[dict[str, Any]]:
    return [
        _parameter(where, name, *PARAMETERS[name])
        for where, names in (("query", route.query), ("header", route.headers))
        for name in names
    ]


def _parameter(where: str, name: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {"name": name, "in": where, "schema": schema, "description": about}


def _replies(route: Route) -> dict[str, Any]:
    replies: dict[str, Any] = {}
    for status in route.statuses:
        replies[str(status)] = {"description": route.summary}
        if route.reply is not None and status != 204:
            replies[str(status)]["content"] = _content(route.reply)
    if "if-none-match" in route.headers:
        replies["304"] = {"description": "It is still what the caller has."}
    if "range" in route.headers:
        replies["206"] = {"description": "The range asked for.", "content": _content(route.reply)}
    return replies


def _refusal() -> dict[str, Any]:
    return {
        "description": "It was refused; `code` and `detail` say why.",
        "content": {"application/problem+json": {"schema": reference(ProblemView)}},
    }


def _content(kind: Any) -> dict[str, Any]:
    return {"application/json": {"schema": reference(kind)}} if attrs.has(kind) else {str(kind): {}}
