"""Who may what: every route of the API against everyone who may call, or may not. api.md's first table, in full."""

import httpx
import pytest
from asking import bearer, minted, operator
from realdaemon import Daemon

from jobd.web.routes import ROUTES

USER, JOB = "/v1/users/{user}", "/v1/users/{user}/jobs/{job}"
LOGIN = f"{USER}/clusters/{{cluster}}/login"

# The whole API, written down once more and by hand: what a row is, in the words of api.md.
OPEN = {"GET /healthz", "GET /readyz", "GET /openapi.json", "GET /docs"}
OFFERED = {"GET /v1/codes", "GET /v1/clusters"}
READS_OF_A_JOB = {
    f"GET {JOB}", f"GET {JOB}/events", f"GET {JOB}/runs", f"GET {JOB}/explain", f"GET {JOB}/metrics",
    f"POST {JOB}/analysis/{{method}}", f"GET {JOB}/frames/{{view}}/{{index}}", f"GET {JOB}/files",
    f"GET {JOB}/files/{{path}}", f"GET {JOB}/log",
}  # fmt: skip
CHANGES_OF_A_JOB = {f"PUT {JOB}/run", f"POST {JOB}/cancel", f"DELETE {JOB}"}
READS_OF_A_USER = {
    f"GET {USER}/jobs", f"GET {USER}/usage", f"GET {USER}/library", f"GET {USER}/library/{{name}}",
    f"HEAD {USER}/library/{{name}}", f"POST {USER}/compute/{{code}}/{{method}}", f"GET {LOGIN}",
}  # fmt: skip
CHANGES_OF_A_USER = {
    f"POST {USER}/session", f"PUT {USER}/library/{{name}}", f"DELETE {USER}/library/{{name}}", f"POST {LOGIN}",
    f"DELETE {LOGIN}",
}  # fmt: skip
GATEWAYS = {
    f"PUT {USER}", f"POST {USER}/tokens", f"GET {USER}/tokens", f"DELETE {USER}/tokens/{{token}}", "GET /metrics",
}  # fmt: skip
OPERATORS = {
    "GET /v1/admin/jobs", "GET /v1/admin/agents", "POST /v1/admin/agents/{agent}/stop",
    "POST /v1/admin/agents/{agent}/forget", "GET /v1/admin/hosts", "POST /v1/admin/hosts/{host}/drain",
    "GET /v1/admin/pools", "GET /v1/admin/tree", "POST /v1/admin/tokens",
    "GET /v1/admin/tokens", "DELETE /v1/admin/tokens/{token}",
}  # fmt: skip
EVERYTHING = (
    OPEN | OFFERED | READS_OF_A_JOB | CHANGES_OF_A_JOB | READS_OF_A_USER | CHANGES_OF_A_USER | GATEWAYS | OPERATORS
)
READS = OPEN | OFFERED | READS_OF_A_JOB | READS_OF_A_USER
OWN = READS | CHANGES_OF_A_JOB | CHANGES_OF_A_USER

# By principal: what is not refused, and how the rest is.
MAY: dict[str, tuple[set[str], int]] = {
    "nobody": (OPEN, 401),
    "garbage": (OPEN, 401),
    "an agent's token": (OPEN, 401),
    "a revoked token": (OPEN, 401),
    "the service token": (EVERYTHING - OPERATORS, 403),
    "the user's token": (OWN, 403),
    "another user's token": (OPEN | OFFERED, 403),
    "the job's token": (OPEN | OFFERED | READS_OF_A_JOB | CHANGES_OF_A_JOB, 403),
    "another job's token": (OPEN | OFFERED, 403),
    "a read-only token": (READS, 403),
    "the job's read-only token": (OPEN | OFFERED | READS_OF_A_JOB, 403),
    "an operator's token": (EVERYTHING, 403),
    "the admin socket": (EVERYTHING, 403),
}
NAMES = {
    "user": "alice", "job": "j", "method": "nothing", "view": "lines", "index": "0", "path": "script.sh",
    "name": "f", "code": "nothing", "host": "nothing", "cluster": "nothing", "agent": "aaaaaaaaaa",
    "token": "kaaaaaaaaa",
}  # fmt: skip


@pytest.fixture(scope="module")
def callers(daemon: Daemon):
    """By principal, a client."""
    daemon.done("carol", "j", "true")
    with daemon.http() as http, operator(daemon) as admin:
        revoked = minted(http, "alice")
        tokens = {
            "nobody": "",
            "garbage": "x" * 43,
            "an agent's token": daemon.agent("carol").token,
            "a revoked token": revoked["token"],
            "the user's token": minted(http, "alice")["token"],
            "another user's token": minted(http, "bob")["token"],
            "the job's token": minted(http, "alice", job="j")["token"],
            "another job's token": minted(http, "alice", job="k")["token"],
            "a read-only token": minted(http, "alice", read_only=True)["token"],
            "the job's read-only token": minted(http, "alice", job="j", read_only=True)["token"],
            "an operator's token": minted(admin, "")["token"],
        }
        assert http.delete(f"/v1/users/alice/tokens/{revoked['id']}").status_code == 204
        clients = {who: bearer(daemon, token) for who, token in tokens.items()}
        yield {**clients, "the service token": http, "the admin socket": admin}
        for client in clients.values():
            client.close()


def ask(http: httpx.Client, row: str, names: dict[str, str]) -> tuple[int, str]:
    """Status and text of a call that changes nothing that matters; of an endless answer only the status."""
    method, path = row.split(" ")
    body = None if method in ("GET", "HEAD", "DELETE") else b"[]"
    with http.stream(method, path.format(**names), content=body) as reply:
        if reply.headers.get("content-type") == "text/event-stream":
            return reply.status_code, ""
        return reply.status_code, reply.read().decode()


def test_every_route_is_in_this_table():
    assert {f"{route.method} {route.path}" for route in ROUTES} == EVERYTHING


@pytest.mark.parametrize("who", MAY)
@pytest.mark.parametrize("row", sorted(EVERYTHING))
def test_who_may_what(callers, row, who):
    status, text = ask(callers[who], row, NAMES)
    allowed, refusal = MAY[who]
    if row in allowed:
        assert status not in (401, 403), text
        assert status < 500, text
    else:
        assert status == refusal, text


@pytest.mark.parametrize("row", sorted(row for row in EVERYTHING if "{user}" in row))
def test_a_refusal_does_not_tell_what_exists(daemon, callers, row):
    """carol has a job, a library file and tokens; nobody has nothing."""
    with daemon.http() as http:
        http.put("/v1/users/carol/library/f", content=b"hers")
    for who in ("nobody", "garbage", "another user's token", "the job's token"):
        there, absent = (ask(callers[who], row, {**NAMES, "user": user}) for user in ("carol", "nobody"))
        assert there == absent, who
        assert there[0] in (401, 403)


def test_no_cookie_is_ever_set_and_none_opens_anything(daemon, callers):
    with daemon.http() as http:
        token = minted(http, "alice")["token"]
        for row in ("GET /v1/codes", f"GET {USER}/jobs", "GET /docs"):
            method, path = row.split(" ")
            assert "set-cookie" not in http.request(method, path.format(**NAMES)).headers
    with bearer(daemon, "") as http:
        for header in ({"cookie": f"token={token}"}, {"x-api-key": token}, {"proxy-authorization": f"Bearer {token}"}):
            assert http.get("/v1/codes", headers=header).status_code == 401
        for name in ("token", "access_token", "authorization"):
            assert http.get("/v1/codes", params={name: token}).status_code == 401
