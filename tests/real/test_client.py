"""Every call of the client against the real daemon, by both clients: what it takes, and what comes back."""

import hashlib
import subprocess
import sys

import pytest
from asking import WAITS, go
from realdaemon import Daemon
from talking import Speaker

from jobd import client
from jobd.client import (
    Client,
    Input,
    JobdClientError,
    ProblemError,
    Resources,
    TimeLimits,
    TrioClient,
    UnreachableError,
)
from schemas.api import RunRequest
from schemas.views import RunView

BOTH = pytest.mark.parametrize("kind", ["threads", "trio"])
pytestmark = BOTH


@pytest.fixture(scope="module")
def daemon(make_module_daemon):
    """Its pages are small."""
    return make_module_daemon(requests={"page_max": 2}).start()


@pytest.fixture
def jobd(daemon: Daemon, kind: str) -> Speaker:
    """The gateway's client."""
    return Speaker(kind, daemon.url, token=daemon.token)


@pytest.fixture
def operator(daemon: Daemon, kind: str) -> Speaker:
    return Speaker(kind, socket=daemon.state / "admin.sock")


def script(text: str) -> dict[str, str]:
    return {"script.sh": text}


def test_a_run_from_its_start_to_what_it_left(daemon, jobd, job, tmp_path):
    first = jobd.run("alice", job, "shell", inputs=script("echo frame0 >> frames.txt; echo hello; echo out > out"))
    assert isinstance(first, RunView)
    assert (first.user, first.job, first.serial, first.code, first.mode) == ("alice", job, 1, "shell", "sequential")
    status = jobd.result("alice", job, deadline_s=20)
    assert (status.state, status.end_confirmed, status.log_tail) == ("completed", True, "hello\n")
    assert status.usage and status.usage.exit_code == 0
    assert jobd.status("alice", job) == status
    assert [file.path for file in jobd.files("alice", job).files] == ["frames.txt", "out", "script.sh"]
    assert jobd.file("alice", job, "out", tmp_path / "mine") == 4
    assert (tmp_path / "mine").read_bytes() == b"out\n"
    assert b"".join(jobd.log("alice", job)) == b"hello\n"
    assert b"".join(jobd.log("alice", job, follow=True)) == b"hello\n"
    frame = jobd.frame("alice", job, "lines", 0)
    assert (frame.json()["line"], frame.serial, frame.type) == ("frame0", 1, "application/json")
    assert jobd.frame("alice", job, "lines").json()["index"] == 0
    assert jobd.analysis("alice", job, "echo", {"a": "ü"}).json()["echo"] == {"a": "ü"}
    blob = jobd.analysis("alice", job, "blob", {"bytes": 512}, serial=1)
    assert (blob.type, blob.content, blob.meta) == ("application/x-blob", bytes(range(256)) * 2, {"of": "worker"})
    assert jobd.series("alice", job).serial == 1
    assert jobd.explain("alice", job).why == "The code ended without an error."
    assert [(run.serial, run.state) for run in jobd.runs("alice", job)] == [(1, "completed")]


def test_what_a_run_may_be_asked_with(daemon, jobd, job):
    jobd.upload("alice", f"{job}.dat", b"from the library")
    inputs = {
        **script('cat lib p.json; echo " $1"'),
        "lib": Input(library=f"{job}.dat"),
        "p.json": Input(json={"a": 1}),
    }
    asked = {
        "mode": "parallel", "inputs": inputs, "resources": Resources(cores=3), "limits": TimeLimits(run_s=30.0)
    }  # fmt: skip
    jobd.run("alice", job, "shell", **asked)
    assert jobd.result("alice", job, deadline_s=20).log_tail == 'from the library{"a":1} 3\n'
    assert jobd.run("alice", job, "shell", **asked).serial == 1  # the same inputs have the same result
    assert jobd.run("alice", job, "shell", **asked, force=True).serial == 2
    jobd.result("alice", job, deadline_s=20)
    (second, first) = jobd.runs("alice", job)
    assert (second.serial, first.serial, first.cores) == (2, 1, 3)
    assert {each.path: each.library for each in first.inputs}["lib"] == f"{job}.dat"
    assert jobd.explain("alice", job, 1).limits["run_s"] == 30.0


def test_a_cancel_and_what_replaces_a_run(daemon, jobd, job):
    jobd.run("alice", job, "shell", inputs=script(WAITS))
    with pytest.raises(ProblemError) as refused:
        jobd.run("alice", job, "shell", inputs=script("echo other"))
    assert (refused.value.status, refused.value.code, refused.value.document["serial"]) == (409, "run_active", 1)
    assert jobd.run("alice", job, "shell", inputs=script(WAITS + " again"), supersede=True).serial == 2
    old = jobd.cancel("alice", job, serial=1)
    assert (old.serial, old.state, old.cause.code) == (1, "canceled", "superseded")
    status = jobd.cancel("alice", job, reason="seen enough")
    assert (status.serial, status.state, status.cause.code, status.cause.actor) == (
        2,
        "canceled",
        "user",
        "gateway for alice",
    )
    assert "seen enough" in status.cause.text
    assert jobd.result("alice", job, deadline_s=20).end_confirmed
    assert jobd.delete("alice", job).state == "missing"
    assert jobd.result("alice", job).state == "missing"  # at once
    with pytest.raises(ProblemError) as refused:
        jobd.log("alice", job)
    assert (refused.value.status, refused.value.code) == (404, "no_run")


def test_the_result_is_waited_for_and_the_wait_has_a_deadline(daemon, jobd, job):
    jobd.run("alice", job, "shell", inputs=script(WAITS))
    with pytest.raises(TimeoutError):
        jobd.result("alice", job, deadline_s=0.3)
    daemon.until("alice", job, "running")
    go(daemon, "alice", job)
    assert jobd.result("alice", job).state == "completed"


def test_lists_come_page_after_page(daemon, jobd, operator, kind):
    user = f"pages-{kind}"
    for name in ("a", "b", "c"):
        jobd.run(user, name, "shell", inputs=script("true" if name != "b" else "exit 1"))
        jobd.result(user, name, deadline_s=20)
    assert [view.job for view in jobd.jobs(user)] == ["a", "b", "c"]
    assert [view.job for view in jobd.jobs(user, state="failed", code="shell")] == ["b"]
    assert {("alice" if view.user != user else view.job) for view in operator.jobs()} >= {"a", "b", "c"}
    assert [view.job for view in jobd.jobs(user, code="lammps")] == []
    for _ in range(2):
        jobd.run(user, "b", "shell", inputs=script("exit 1"))
        jobd.result(user, "b", deadline_s=20)
    assert [run.serial for run in jobd.runs(user, "b")] == [3, 2, 1]
    usage = jobd.usage(user)
    assert [each.job for each in (*usage.jobs, *jobd.usage(user, usage.next).jobs)] == ["a", "b", "c"]


def test_the_library(daemon, jobd, kind, tmp_path):
    user, content = f"library-{kind}", bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    for source in (content, tmp_path / "file"):
        view = jobd.upload(user, "f.dat", source)
        assert (view.name, view.bytes, view.sha256) == ("f.dat", len(content), hashlib.sha256(content).hexdigest())
    assert jobd.upload(user, "empty", b"").bytes == 0
    assert jobd.download(user, "f.dat", tmp_path / "back") == len(content)
    assert jobd.download(user, "empty", tmp_path / "empty") == 0
    assert (tmp_path / "back").read_bytes() == content
    assert [file.name for file in jobd.library(user).files] == ["empty", "f.dat"]
    jobd.remove(user, "f.dat")
    with pytest.raises(ProblemError) as refused:
        jobd.remove(user, "f.dat")
    assert refused.value.code == "not_found"
    with pytest.raises(ProblemError, match="nothing at this address"):
        jobd.download(user, "f.dat", tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "back", "empty"}


def test_the_user_and_the_site(daemon, jobd, operator, kind):
    user = f"user-{kind}"
    assert jobd.session(user, "shell").agent
    assert jobd.session(user).agent
    assert jobd.compute(user, "shell", "echo", {"a": [1, "ü"]}).json()["echo"] == {"a": [1, "ü"]}
    assert jobd.set_tier(user, "default").tier == "default"
    usage = jobd.usage(user)
    assert (usage.user, usage.tier, usage.runs, usage.next) == (user, "default", 0, None)
    assert {"shell", "lammps"} <= {code.name for code in jobd.codes().codes}
    assert jobd.clusters().clusters == ()
    assert "jobd_open_runs" in jobd.metrics()
    (agent,) = [each for each in operator.agents().agents if each.user == user]
    assert operator.stop_agent(agent.id).id == agent.id
    assert operator.forget_agent(agent.id, "as a test").id == agent.id
    assert operator.pools().pools is not None
    assert operator.tree().tree[0].kind == "jobd"


def test_tokens(daemon, jobd, operator, kind):
    user = f"tokens-{kind}"
    token = jobd.mint(user, 60, job="j", read_only=True)
    assert (token.job, token.read_only) == ("j", True)
    theirs = Speaker(kind, daemon.url, token=token.token)
    assert theirs.status(user, "j").state == "missing"
    for call in (
        lambda: theirs.status(user, "k"),
        lambda: theirs.status("alice", "j"),
        lambda: theirs.cancel(user, "j"),
        lambda: theirs.tokens(user),
    ):
        with pytest.raises(ProblemError) as refused:
            call()
        assert (refused.value.status, refused.value.code) == (403, "forbidden")
    assert [each.id for each in jobd.tokens(user).tokens] == [token.id]
    jobd.revoke(token.id, user)
    assert jobd.tokens(user).tokens == ()
    with pytest.raises(ProblemError) as refused:
        theirs.status(user, "j")
    assert refused.value.status == 401
    theirs = operator.mint_operator(60)
    assert theirs.id in {each.id for each in operator.tokens().tokens}
    assert Speaker(kind, daemon.url, token=theirs.token).tree().tree
    operator.revoke(theirs.id)
    assert theirs.id not in {each.id for each in operator.tokens().tokens}


def test_a_refusal_names_the_field(daemon, jobd, job):
    with pytest.raises(ProblemError) as refused:
        jobd.run("alice", job, "nothing")
    assert (refused.value.status, refused.value.code, refused.value.document["field"]) == (422, "invalid", "code")
    assert "(field: code)" in str(refused.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a?b", "a#b", "a%2Fb", "../bob", "a b", "ä", "a\n", "x" * 129])
def test_no_name_leads_to_another_resource(daemon, jobd, name, tmp_path):
    for field, call in {
        "user": lambda: jobd.status(name, "j"),
        "job": lambda: jobd.delete("alice", name),
        "view": lambda: jobd.frame("alice", "j", name),
        "index": lambda: jobd.frame("alice", "j", "lines", name),
        "method": lambda: jobd.analysis("alice", "j", name),
        "code": lambda: jobd.compute("alice", name, "echo"),
        "name": lambda: jobd.remove("alice", name),
        "token": lambda: jobd.revoke(name, "alice"),
        "agent": lambda: jobd.stop_agent(name),
    }.items():
        with pytest.raises(ProblemError) as refused:
            call()
        assert (refused.value.status, refused.value.code, refused.value.document["field"]) == (422, "invalid", field)


def test_a_file_is_the_one_that_was_named(daemon, jobd, job, tmp_path):
    jobd.run("bob", job, "shell", inputs=script("echo secret > secret"))
    jobd.run(
        "alice", job, "shell", inputs=script("mkdir 'a b'; for f in 'a b/c%41+@~=,d' cA; do echo $f > \"$f\"; done")
    )
    jobd.result("bob", job, deadline_s=20)
    jobd.result("alice", job, deadline_s=20)
    to = tmp_path / "to"
    assert jobd.file("alice", job, "a b/c%41+@~=,d", to)
    assert to.read_text() == "a b/c%41+@~=,d\n"
    for path in ("c%41", "cA?x=1", "cA#x", f"../../../bob/jobs/{job}/files/secret", f"%2e%2e/{job}", "/cA", ""):
        to.unlink(missing_ok=True)
        with pytest.raises(ProblemError):
            jobd.file("alice", job, path, to)
        assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_reached_says_so_when_patience_has_ended(kind):
    with pytest.raises(UnreachableError, match=r"did not answer for 0.3 s"):
        Speaker(kind, "http://127.0.0.1:1", patience_s=0.3).codes()
    with pytest.raises(JobdClientError, match="cannot be sent"):
        Speaker(kind, "127.0.0.1:1", patience_s=0.3).codes()


def test_both_clients_have_every_call_and_every_field_of_a_run(kind):
    calls = {name for name in dir(client.api.Api) if not name.startswith("_")}
    assert {name for name in vars(Client) if not name.startswith("_")} == calls
    assert {name for name in dir(TrioClient) if not name.startswith("_")} == calls
    assert set(RunRequest.__annotations__) - {"idempotency_key"} <= set(client.api.Api.run.__annotations__)


def test_it_is_light(kind):
    """A gateway's process imports neither the daemon nor its servers."""
    names = "import sys, jobd.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True).stdout.split()
    assert {name.split(".")[0] for name in loaded}.isdisjoint(
        {"quart", "quart_trio", "hypercorn", "trio_websocket", "wsproto", "asyncssh", "docker", "backends", "agents"}
    )
    ours = {name for name in loaded if name.startswith("jobd")}
    assert all(name == "jobd" or name.startswith("jobd.client") for name in ours), ours
