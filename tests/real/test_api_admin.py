"""What operators see and do: agents, pools and the tree as they are, an agent stopped, and one given up."""

import pytest
from asking import WAITS, go, good, operator, problem, shell, wait_until
from realdaemon import OVER, Daemon


@pytest.fixture(scope="module")
def http(daemon: Daemon):
    with daemon.http() as http:
        yield http


@pytest.fixture(scope="module")
def admin(daemon: Daemon):
    with operator(daemon) as admin:
        yield admin


def agent_of(admin, user: str) -> dict:
    (found,) = [each for each in good(admin.get("/v1/admin/agents"))["agents"] if each["user"] == user]
    return found


def pool(admin, name: str) -> dict | None:
    found = [each for each in good(admin.get("/v1/admin/pools"))["pools"] if each["name"] == name]
    return found[0] if found else None


def begin(daemon, http, user: str, name: str, **more) -> None:
    good(http.put(f"/v1/users/{user}/jobs/{name}/run", json=shell(WAITS, **more)), 202)
    daemon.until(user, name, "running")


def test_agents_pools_and_tree_are_seen_as_they_are(daemon, http, admin):
    free = pool(admin, "host")
    assert (free["units"], free["capacity"]) == (["cores", "memory_bytes"], [8, 16 << 30])
    begin(daemon, http, "alice", "a", resources={"cores": 3})
    agent = agent_of(admin, "alice")
    assert (agent["place"], agent["linked"], agent["awake"], agent["open_runs"]) == ("local", True, True, ["a/1"])
    assert (agent["heard_s"], agent["failures"], agent["failure"]) == (0.0, 0, "")
    taken = pool(admin, "host")
    assert [now - before for now, before in zip(taken["used"], free["used"], strict=True)] == [3, 256 << 20]
    assert pool(admin, "sequential runs of alice") == {
        "name": "sequential runs of alice", "units": ["runs"], "capacity": [6], "used": [1], "waiting": 0,
    }  # fmt: skip
    tree = good(admin.get("/v1/admin/tree"))["tree"]
    assert (tree[0]["depth"], tree[0]["kind"], tree[0]["name"]) == (0, "jobd", "jobd")
    kinds = {(node["kind"], node["name"]) for node in tree}
    assert {("user", "alice"), ("job", "a"), ("run", "1")} <= kinds
    go(daemon, "alice", "a")
    daemon.until("alice", "a", "completed")
    assert pool(admin, "sequential runs of alice") is None
    assert pool(admin, "host")["used"] == free["used"]
    assert agent_of(admin, "alice")["open_runs"] == []


def test_a_stopped_agents_runs_go_on_and_whoever_needs_it_has_it_again(daemon: Daemon, http, admin):
    begin(daemon, http, "bob", "goes-on")
    before = agent_of(admin, "bob")
    pid = daemon.agent("bob").pid
    stopped = good(admin.post(f"/v1/admin/agents/{before['id']}/stop"))
    assert (stopped["id"], stopped["user"]) == (before["id"], "bob")
    wait_until(lambda: pid not in daemon.processes(), "its process is gone")
    assert daemon.status("bob", "goes-on")["state"] == "running"
    go(daemon, "bob", "goes-on")
    assert daemon.until("bob", "goes-on", "completed")["log_tail"] == "begun\ndone\n"
    assert daemon.agent("bob").pid != pid
    assert agent_of(admin, "bob")["generation"] > before["generation"]


def test_a_forgotten_agents_runs_end_on_the_operators_word_and_it_is_in_their_timeline(daemon, http, admin):
    begin(daemon, http, "carol", "given-up")
    begin(daemon, http, "dora", "bystander")
    agent = agent_of(admin, "carol")
    view = good(admin.post(f"/v1/admin/agents/{agent['id']}/forget", json={"reason": "the machine burned down"}))
    assert view["open_runs"] == []
    status = daemon.until("carol", "given-up", lambda now: now["state"] in OVER and now["end_confirmed"])
    assert (status["state"], status["cause"]["code"], status["cause"]["actor"]) == ("failed", "forgotten", "operator")
    assert "the machine burned down" in status["cause"]["text"]
    assert "the machine burned down" in status["timeline"][-1]["text"]
    assert "the machine burned down" in daemon.log()
    assert pool(admin, "sequential runs of carol") is None, "its slots are free"
    # In truth it lives: it is told, what is left of its run is ended, and the user goes on.
    assert daemon.done("carol", "next", "echo works")["log_tail"] == "works\n"
    wait_until(lambda: not daemon.processes("JOBD_RUN=", str(daemon.file("carol", "given-up", ""))), "it was ended")
    assert daemon.status("carol", "given-up")["cause"]["code"] == "forgotten"
    assert daemon.status("dora", "bystander")["state"] == "running"
    go(daemon, "dora", "bystander")
    daemon.until("dora", "bystander", "completed")


@pytest.mark.parametrize("action", ["stop", "forget"])
@pytest.mark.parametrize("agent", ["aaaaaaaaaa", "x", "%2e%2e", "a" * 500, "ü"])
def test_an_agent_that_is_not_there_is_not_found(admin, action, agent):
    reply = admin.post(f"/v1/admin/agents/{agent}/{action}", json={"reason": "x"} if action == "forget" else None)
    assert problem(reply, 404)["code"] == "not_found"


def test_forgetting_takes_a_reason(daemon, http, admin):
    daemon.done("eve", "j", "true")
    agent = agent_of(admin, "eve")["id"]
    for ask, field in (({}, "reason"), ({"reason": 7}, "reason"), ({"reason": "x" * 501}, "reason"),
                       ({"reason": "x", "force": True}, "force")):  # fmt: skip
        assert problem(admin.post(f"/v1/admin/agents/{agent}/forget", json=ask), 422)["field"] == field
    assert agent_of(admin, "eve")["linked"]


def test_an_operator_acts_for_any_user_in_the_operators_name(daemon, http, admin):
    begin(daemon, http, "fred", "j")
    canceled = good(admin.post("/v1/users/fred/jobs/j/cancel", json={"reason": "maintenance"}))
    assert (canceled["state"], canceled["cause"]["actor"]) == ("canceled", "operator")
    assert "maintenance" in canceled["cause"]["text"]
    daemon.until("fred", "j", "canceled")
