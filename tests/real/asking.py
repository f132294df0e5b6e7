"""Asking the API in plain HTTP: what a test of one resource says and checks, again and again."""

from typing import Any

import httpx
from realdaemon import DEADLINE_S, Daemon, wait_until

WAITS = "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done"


def shell(script: str, **request: Any) -> dict[str, Any]:
    """The body of PUT run for a shell script; further input files are `files`, by name: a text or an Input."""
    files = {"script.sh": script, **request.pop("files", {})}
    inputs = {name: {"text": each} if isinstance(each, str) else each for name, each in files.items()}
    return {"code": "shell", "inputs": inputs, **request}


def problem(reply: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The problem document of a refusal with one of these statuses."""
    assert reply.status_code in statuses, (reply.request.method, reply.request.url, reply.status_code, reply.text)
    assert reply.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = reply.json()
    assert {"type", "title", "status", "code", "detail"} <= set(document)
    assert document["status"] == reply.status_code
    assert "Traceback" not in reply.text
    return document


def good(reply: httpx.Response, status: int = 200) -> Any:
    """The JSON of a reply that is as it should be."""
    assert reply.status_code == status, (reply.request.method, reply.request.url, reply.status_code, reply.text)
    return reply.json() if reply.content else None


def bearer(daemon: Daemon, token: str) -> httpx.Client:
    """Plain HTTP with another token than the gateway's."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=daemon.url, headers=headers, timeout=DEADLINE_S, trust_env=False)


def operator(daemon: Daemon) -> httpx.Client:
    """Plain HTTP over the admin socket."""
    transport = httpx.HTTPTransport(uds=str(daemon.state / "admin.sock"))
    return httpx.Client(base_url="http://jobd", transport=transport, timeout=DEADLINE_S, trust_env=False)


def minted(http: httpx.Client, user: str, **ask: Any) -> dict[str, Any]:
    """A token for this user, or an operator's for the empty name."""
    path = f"/v1/users/{user}/tokens" if user else "/v1/admin/tokens"
    view: dict[str, Any] = good(http.post(path, json=ask), 201)
    return view


def go(daemon: Daemon, user: str, *jobs: str) -> None:
    """Let runs of WAITS end."""
    for job in jobs:
        daemon.file(user, job, "go").touch()


def pages(http: httpx.Client, path: str, items: str, back: str = "after", **query: Any) -> list[list[Any]]:
    """Every page of a list: each is asked for with the `next` of the one before."""
    found, more = [], {}
    while True:
        page = good(http.get(path, params={**query, **more}))
        found.append(page[items])
        if "next" not in page:
            return found
        assert page[items], "a page that leads on is not empty"
        more = {back: page["next"]}


__all__ = ["WAITS", "bearer", "go", "good", "minted", "operator", "pages", "problem", "shell", "wait_until"]
