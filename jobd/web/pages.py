"""The API described: the OpenAPI document, and the same as a page without scripts under a strict CSP."""

import base64
import functools
import hashlib
from collections.abc import Callable
from html import escape
from typing import Any

from jobd.core import Core
from jobd.web.calls import Call, Reply, Route
from jobd.web.openapi import document
from schemas.codec import dumps

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1d2430; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5dae2; }
article { margin: 1.2rem 0; }
code { font: 14px ui-monospace, monospace; background: #f1f3f6; padding: .1em .3em; border-radius: 3px; }
h3 { font-size: 1rem; margin: 0; font-weight: 600; }
p, ul { margin: .2rem 0; }
table { border-collapse: collapse; font-size: 14px; margin: .5rem 0; }
td { padding: .15rem .8rem .15rem 0; vertical-align: top; }
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Pages:
    """The two handlers. They are routes themselves, so all routes are asked for when the first one is served."""

    def __init__(self, routes: Callable[[], tuple[Route, ...]]) -> None:
        self._routes = routes

    async def openapi(self, core: Core, call: Call) -> Reply:
        """GET openapi.json."""
        return Reply(self._document)

    async def page(self, core: Core, call: Call) -> Reply:
        """GET docs."""
        return Reply(self._page, type="text/html; charset=utf-8", headers=HEADERS)

    @functools.cached_property
    def _document(self) -> bytes:
        return dumps(document(self._routes())).encode()

    @functools.cached_property
    def _page(self) -> bytes:
        described = document(self._routes())
        groups: dict[str, list[str]] = {}
        for path, operations in described["paths"].items():
            for method, operation in operations.items():
                groups.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
        resources = "".join(f"<h2>{escape(tag)}</h2>{''.join(entries)}" for tag, entries in groups.items())
        classes = "".join(_class(name, schema) for name, schema in described["components"]["schemas"].items())
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>jobd: the API</title><style>{STYLE}</style>'
            f"<h1>jobd: the API</h1><p>{escape(described['info']['description'])} "
            f'The same for programs: <a href="/openapi.json">openapi.json</a>.</p>{resources}<h2>Bodies</h2>{classes}'
        ).encode()


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{escape(each['name'])}</code><td>{each['in']}<td>{escape(each['description'])}"
        for each in operation["parameters"]
        if each["in"] != "path"
    )
    takes = _kinds(operation["requestBody"]["content"]) if "requestBody" in operation else ""
    replies = ", ".join(
        f"{status} {_kinds(reply.get('content', {}))}".strip()
        for status, reply in operation["responses"].items()
        if status != "default"
    )
    return (
        f"<article><h3><code>{method.upper()} {escape(path)}</code></h3><p>{escape(operation['summary'])}. "
        f"{escape(operation.get('description', ''))}</p>"
        + (f"<table>{parameters}</table>" if parameters else "")
        + (f"<p>Takes {takes}.</p>" if takes else "")
        + f"<p>Answers {replies}.</p></article>"
    )


def _kinds(content: dict[str, Any]) -> str:
    return " or ".join(_kind(body.get("schema", {})) or escape(media) for media, body in content.items())


def _kind(schema: dict[str, Any]) -> str:
    """A type as people read it, linked to where it is described."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(dumps(each))}</code>" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    if schema.get("type") == "object":
        return f"object of {_kind(schema.get('additionalProperties', {}))}"
    return escape(schema.get("type", schema.get("description", "")))


def _class(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code><td>{_kind(each)}<td>{'required' if field in required else ''}"
        for field, each in schema["properties"].items()
    )
    return (
        f'<article id="{escape(name)}"><h3>{escape(name)}</h3><p>{escape(schema["description"])}</p>'
        f"<table>{rows}</table></article>"
    )
