"""The served OpenAPI document against the served API: it is valid, complete, and what is answered is what it says.

Requests are made from the document by schemathesis, valid ones and broken ones, from a fixed seed. JOBD_SOAK=1 makes
some eighty times as many, from a seed that is printed.
"""

import json
import os
import re
import secrets
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from asking import bearer, good, minted, operator, problem
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from realdaemon import Daemon
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from jobd.web.openapi import document
from jobd.web.routes import ROUTES

SOAK = bool(os.environ.get("JOBD_SOAK"))
EXAMPLES = 1000 if SOAK else 12
SEED = secrets.randbits(32) if SOAK else 7
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance,
]  # fmt: skip
SCHEMA = schemathesis.openapi.from_dict(document(ROUTES))
OPERATIONS = {operation.label: operation for operation in (each.ok() for each in SCHEMA.get_all_operations())}
EVENTS = "GET /v1/users/{user}/jobs/{job}/events"  # never ends; tests of its own
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "TRACE")
# What is really there, so that not every answer is "not found".
KNOWN = {
    "user": "alice", "job": "j", "name": "f", "path": "out.txt", "view": "lines", "index": "0", "method": "echo",
    "code": "shell", "cluster": "nothing",
}  # fmt: skip


@pytest.fixture(scope="module")
def daemon(make_module_daemon) -> Daemon:
    daemon = make_module_daemon(requests={"long_poll_s_max": 0.5, "follow_s": 0.1, "tokens_per_user_max": 100_000})
    daemon.start()
    with daemon.http() as http:
        daemon.done("alice", "j", "echo frame > frames.txt; echo out > out.txt; echo log")
        good(http.put("/v1/users/alice/library/f", content=b"12345"))
    return daemon


@pytest.fixture(scope="module")
def callers(daemon: Daemon):
    with operator(daemon) as admin:
        token = minted(admin, "", lifetime_s=7200)["token"]
    return {"service": daemon.token, "operator": token}


@pytest.fixture(scope="module")
def session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


def explore(label: str, mode: GenerationMode, check: Callable[[Case], None]) -> None:
    """Ask this operation EXAMPLES times."""
    print("seed", SEED)

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, *([Phase.shrink] if SOAK else [])],
    )  # fmt: skip
    @given(OPERATIONS[label].as_strategy(generation_mode=mode), st.booleans())
    def example(case: Case, known: bool) -> None:
        # Whoever changes something does it to users of ours: every new user has an agent in the end.
        if "user" in (case.path_parameters or {}) and (known or case.method != "GET"):
            case.path_parameters["user"] = "alice"
        if known:
            case.path_parameters.update({name: KNOWN[name] for name in case.path_parameters if name in KNOWN})
            if case.method == "DELETE" or label.endswith("/run"):
                case.path_parameters.update(dict.fromkeys({"job", "name"} & set(case.path_parameters), "other"))
        check(case)

    example()


def is_as_documented(label: str, reply: Any) -> None:
    """Beyond the checks of schemathesis: only refusals may hide behind the document's `default`."""
    said = OPERATIONS[label].definition.raw["responses"]
    if reply.status_code < 400:
        assert str(reply.status_code) in said, f"{reply.status_code} is not documented"
    else:
        assert reply.headers["content-type"] == ["application/problem+json"]
        assert label.startswith("HEAD ") or json.loads(reply.content)["status"] == reply.status_code


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "broken"])
@pytest.mark.parametrize("who", ["service", "operator"])
@pytest.mark.parametrize("label", [label for label in OPERATIONS if label != EVENTS])
def test_what_is_answered_is_what_the_document_says(daemon, callers, session, label, who, mode):
    headers = {"authorization": f"Bearer {callers[who]}"}
    raw = OPERATIONS[label].definition.raw
    if mode is GenerationMode.NEGATIVE and not raw["parameters"] and "requestBody" not in raw:
        return  # nothing to break

    def check(case: Case) -> None:
        try:
            reply = case.call(base_url=daemon.url, session=session, headers=headers, timeout=20, allow_redirects=False)
        except (requests.exceptions.InvalidHeader, UnicodeError):
            return  # no client can say this
        is_as_documented(label, reply)
        case.validate_response(reply, checks=CHECKS)

    explore(label, mode, check)
    assert daemon.process.poll() is None


def test_the_admin_socket_answers_by_the_same_document(daemon):
    with operator(daemon) as admin:
        for label, operation in OPERATIONS.items():
            if operation.method.upper() == "GET" and label != EVENTS:
                reply = admin.get(
                    label.split(" ")[1].format(**KNOWN, host="nothing", agent="aaaaaaaaaa", token="kaaaaaaaaa")
                )
                status = 404 if "{cluster}" in label else 200  # the daemon has none
                assert reply.status_code == status, (label, reply.text)
                content = operation.definition.raw["responses"].get(str(status), {}).get("content", {})
                for media, body in content.items():
                    assert media in ("*/*", reply.headers["content-type"].split(";")[0]), label
                    if "schema" in body:
                        whole = {**body["schema"], "components": SCHEMA.raw_schema["components"]}
                        jsonschema_rs.validator_for(whole).validate(reply.json())


# --- the document itself --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(daemon) -> dict[str, Any]:
    with bearer(daemon, "") as http:
        reply = http.get("/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    return good(reply)


def test_the_document_is_valid_openapi(served):
    assert served == json.loads(json.dumps(document(ROUTES)))
    assert served["openapi"].startswith("3.1")
    schemathesis.openapi.from_dict(served).validate()
    names = set(served["components"]["schemas"])
    for reference in re.findall(r'"\$ref": "([^"]*)"', json.dumps(served)):
        assert reference.removeprefix("#/components/schemas/") in names, reference
    for name, schema in served["components"]["schemas"].items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        assert schema["description"], name


def test_every_route_and_each_of_its_parameters_is_documented(served):
    told = {f"{method.upper()} {path}" for path, operations in served["paths"].items() for method in operations}
    assert told == {f"{route.method} {route.path}" for route in ROUTES}
    for path, operations in served["paths"].items():
        for operation in operations.values():
            where = [(each["in"], each["name"]) for each in operation["parameters"]]
            assert len(set(where)) == len(where)
            assert {name for kind, name in where if kind == "path"} == set(re.findall(r"\{(\w+)\}", path))
            assert operation["summary"]
            assert "default" in operation["responses"]


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
def test_a_method_that_a_resource_has_not_is_405_with_those_that_it_has(daemon, path):
    there = {route.method for route in ROUTES if route.path == path}
    with daemon.http() as http:
        for method in METHODS:
            if method not in there and not (method == "HEAD" and "GET" in there):
                reply = http.request(
                    method, path.format(**KNOWN, host="nothing", agent="aaaaaaaaaa", token="kaaaaaaaaa")
                )
                if method == "HEAD":
                    assert reply.status_code == 405
                else:
                    problem(reply, 405)
                assert there <= set(reply.headers["allow"].split(", ")), (method, path, reply.headers["allow"])


def test_nothing_of_the_document_needs_a_token_and_nothing_else_is_told_without(daemon):
    with bearer(daemon, "") as http:
        assert good(http.get("/openapi.json"))["security"] == [{"token": []}]
        for path, operations in good(http.get("/openapi.json"))["paths"].items():
            for method, operation in operations.items():
                if operation.get("security") != []:
                    named = path.format(**KNOWN, host="nothing", agent="aaaaaaaaaa", token="kaaaaaaaaa")
                    assert http.request(method, named).status_code == 401, (method, path)


# --- for people -----------------------------------------------------------------------------------------------------


def test_the_page_about_the_api_runs_nothing_and_loads_nothing(daemon, served):
    with bearer(daemon, "") as http:
        page = http.get("/docs")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"<(script|link|img|iframe|object|form|base)|\son\w+=|javascript:|src=|style=", page.text)
    (style,) = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert sha256_source(style) in policy, "the page's own style is the one that is allowed"
    for path, operations in served["paths"].items():
        for operation in operations.values():
            assert f"{path}</code>" in page.text
            assert operation["summary"] in page.text.replace("&#x27;", "'")


def sha256_source(text: str) -> str:
    import base64
    import hashlib

    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
