"""What an enemy in the agent's place says about removals, computations and measures: it can harm only its own user."""

import contextlib
import json
import signal
import sqlite3
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
from asking import WAITS, good, problem, shell
from realdaemon import Daemon, wait_until
from test_hostile_agent import (
    ANSWERS,
    HEAD,
    answering,
    epoch_of,
    hello,
    impostor,
    kinds,
    says,
)

from schemas.ids import new_id
from schemas.link import Answer, Ended, Epoch, Held, Progress, Removed, Started, Taken

FUTURE = 1 << 53


@pytest.fixture
def alice(daemon: Daemon):
    """Alice's agent, held still while the test takes its place; afterwards it is of use again."""
    agent = daemon.agent("alice")
    agent.signal(signal.SIGSTOP)
    yield agent
    with contextlib.suppress(ProcessLookupError):
        agent.signal(signal.SIGCONT)
    assert daemon.done("alice", "after", "echo works", force=True)["log_tail"] == "works\n"


def measuring(daemon: Daemon, job: str, *facts) -> list:
    """In the place of alice's agent, with a run of hers that goes on: tell these."""
    epoch, agent = epoch_of(daemon, "alice", job), daemon.agent("alice")
    greeting = hello(agent, held=(Held(epoch, "running"),))
    return kinds(impostor(agent, greeting, *(fact(epoch) for fact in facts), greet=False))


def removals(daemon: Daemon) -> set[tuple[str, int]]:
    """What the store still wants removed: job ids and serials."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state}/jobd.sqlite?mode=ro", uri=True)) as store:
        records = [json.loads(text) for (text,) in store.execute("SELECT record FROM removals")]
    return {(record["job"], record["serial"]) for record in records}


def purged(daemon: Daemon, user: str, job: str) -> Epoch:
    """A job of two runs that is deleted while its agent does not hear of it."""
    for number in range(2):
        daemon.done(user, job, f"echo {number} > out")
    epoch = epoch_of(daemon, user, job)
    agent = daemon.agent(user)
    agent.signal(signal.SIGSTOP)
    with daemon.http() as http:
        good(http.delete(f"/v1/users/{user}/jobs/{job}"))
    assert (epoch.job, 2) in removals(daemon)
    return epoch


def test_nobody_confirms_another_users_removal(daemon: Daemon, alice):
    epoch = purged(daemon, "bob", "deleted")
    lies = [Removed(epoch), Removed(Epoch(epoch.job, FUTURE)), Removed(Epoch("jaaaaaaaaa", 1))]
    assert kinds(impostor(alice, *lies))[-1] == "it stayed open"
    assert (epoch.job, 2) in removals(daemon), "bob's agent has not said so"
    directory = daemon.file("bob", "deleted", "").parent
    assert (directory / "2" / "out").exists()
    daemon.agent("bob").signal(signal.SIGCONT)
    wait_until(lambda: (epoch.job, 2) not in removals(daemon), "now it has")
    assert not directory.exists() or not list(directory.iterdir())


def test_a_removal_is_confirmed_only_up_to_its_serial_and_asked_for_until_then(daemon: Daemon, alice):
    alice.signal(signal.SIGCONT)
    epoch = purged(daemon, "alice", "own")
    orders = impostor(alice, Removed(Epoch(epoch.job, 1)))
    assert "Remove" in kinds(orders), "it is asked for on every link until it is done"
    assert (epoch.job, 2) in removals(daemon), "one run of two"
    # A lie about its own user's files is believed; it keeps what is its own.
    impostor(alice, Removed(Epoch(epoch.job, FUTURE)))
    wait_until(lambda: (epoch.job, 2) not in removals(daemon))
    assert "Remove" not in kinds(impostor(alice))


def test_a_removed_job_that_nobody_purged_stays(daemon: Daemon, alice):
    epoch = epoch_of(daemon, "alice", "warm")
    impostor(alice, Removed(epoch), Removed(Epoch(epoch.job, FUTURE)))
    with daemon.http() as http:
        assert good(http.get("/v1/users/alice/jobs/warm"))["state"] == "completed"
        assert good(http.get("/v1/users/alice/jobs/warm/runs"))["runs"]


def test_facts_with_numbers_to_come_close_the_link_and_change_nothing(daemon: Daemon, alice):
    epoch = epoch_of(daemon, "alice", "warm")
    before = daemon.status("alice", "warm")
    for number in (alice.fact + 2, FUTURE, (1 << 63) - 1):
        assert kinds(impostor(alice, Ended(number, epoch, "exited", 0.0, exit_code=9)))[-1] != "it stayed open", number
    for number in (0, -1, alice.fact):
        kinds(impostor(alice, Ended(number, epoch, "exited", 0.0, exit_code=9)))
    assert daemon.status("alice", "warm") == before
    assert daemon.agent("alice").fact == alice.fact


def test_answers_that_nobody_asked_for_are_nobodys(daemon: Daemon, alice):
    answers = [Answer(new_id("o"), result={"x": 1}), Answer(new_id("o"), bytes=1 << 50), Answer(new_id("o"), error="e")]
    flood = [Answer(new_id("o"), result="x" * 1000) for _ in range(200)]
    assert kinds(impostor(alice, *answers, *flood, Taken(Epoch("jaaaaaaaaa", FUTURE)))) == ["Welcome", "it stayed open"]


@pytest.mark.parametrize(("behave", "expected"), ANSWERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_answer_to_a_computation_is_an_error_of_that_question(daemon: Daemon, alice, behave, expected):
    with answering(alice, behave), daemon.http() as http:
        try:
            reply = http.post("/v1/users/alice/compute/shell/echo", json={})
        except httpx.RemoteProtocolError:
            outcome: object = HEAD
        else:
            outcome = reply.status_code
            assert "set-cookie" not in reply.headers
            if reply.status_code != 200:
                problem(reply, outcome)
    assert outcome in expected
    wait_until(lambda: not daemon.tree("request"), "nothing of the question is left")


async def claims_another_serial(link, agent, op):
    await says(link, Answer(op, result={"serial": 999}, type="text/html"))


def test_a_listing_that_is_no_listing_is_data_and_no_page(daemon: Daemon, alice):
    with answering(alice, claims_another_serial), daemon.http() as http:
        reply = http.get("/v1/users/alice/jobs/warm/files")
    assert reply.headers["jobd-serial"] == "1", "the serial is jobd's word"
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "progress",
    [
        {"metrics": {"x" * 100_000: 1.0}},
        {"metrics": {"": 1.0, "\n": 2.0, "\u2028": 3.0, "é": 4.0}},
        {"metrics": {"big": 1.7e308, "small": -1.7e308, "none": None}},
        {"frames": {"x" * 100_000: 1}},
        {"frames": {"lines": -1, "more": (1 << 63) - 1}},
        {"text": "\r\n\x00<script>\u202e", "problem": "\x1b[2J"},
    ],
    ids=lambda value: f"{next(iter(value))}-{str(next(iter(value.values())))[:12]!r}",
)
def test_odd_words_about_its_own_run_are_shown_to_its_own_user_or_end_the_link(daemon: Daemon, alice, progress):
    alice.signal(signal.SIGCONT)
    with daemon.http() as http:
        good(http.put("/v1/users/alice/jobs/measured/run", json=shell(WAITS, force=True)), 202)
        daemon.until("alice", "measured", "running")
        alice.signal(signal.SIGSTOP)
        measuring(daemon, "measured", lambda epoch: unchecked(epoch, **progress))
        for reading in ("", "/metrics", "/explain", "/runs"):
            assert http.get(f"/v1/users/alice/jobs/measured{reading}").status_code == 200
        assert good(http.get("/v1/users/alice/jobs"))["jobs"]
        assert http.get("/metrics").status_code == 200
        alice.signal(signal.SIGCONT)
        daemon.file("alice", "measured", "go").touch()
        daemon.until("alice", "measured", "completed")


def unchecked(epoch: Epoch, **progress: Any) -> Progress:
    """What an agent of ours would not send."""
    with attrs.validators.disabled():
        return Progress(epoch, **progress)


def _measure(number: int, epoch: Epoch) -> Progress:
    return Progress(epoch, metrics={f"m{number % 100}": float(number), "again": 1.0})


def test_a_flood_of_progress_for_a_run_is_bounded_in_its_series(daemon: Daemon, alice):
    alice.signal(signal.SIGCONT)
    with daemon.http() as http:
        good(http.put("/v1/users/alice/jobs/flooded/run", json=shell(WAITS)), 202)
        daemon.until("alice", "flooded", "running")
        alice.signal(signal.SIGSTOP)
        measuring(daemon, "flooded", *(partial(_measure, number) for number in range(3000)))
        kept = good(http.get("/v1/users/alice/jobs/flooded/metrics"))
        assert len(kept["names"]) <= 64
        assert 0 < len(kept["rows"]) <= 500
        assert len({len(row) for row in kept["rows"]}) == 1
        alice.signal(signal.SIGCONT)
        daemon.file("alice", "flooded", "go").touch()
        daemon.until("alice", "flooded", "completed")


def test_no_name_of_a_measure_is_longer_than_people_read(daemon: Daemon, alice):
    """64 names of 256 KB are a record that the store writes and never reads again: the next start of jobd fails."""
    alice.signal(signal.SIGCONT)
    with daemon.http() as http:
        good(http.put("/v1/users/alice/jobs/long-names/run", json=shell(WAITS)), 202)
        daemon.until("alice", "long-names", "running")
        alice.signal(signal.SIGSTOP)
        measuring(daemon, "long-names", lambda epoch: unchecked(epoch, metrics={"x" * 200_000: 1.0}))
        kept = good(http.get("/v1/users/alice/jobs/long-names/metrics"))
        alice.signal(signal.SIGCONT)
        daemon.file("alice", "long-names", "go").touch()
        daemon.until("alice", "long-names", "completed")
    assert all(len(name) <= 1000 for name in kept["names"])


def test_started_twice_and_ended_twice_is_once(daemon: Daemon, alice):
    alice.signal(signal.SIGCONT)
    with daemon.http() as http:
        good(http.put("/v1/users/alice/jobs/twice/run", json=shell(WAITS)), 202)
        daemon.until("alice", "twice", "running")
        alice.signal(signal.SIGSTOP)
        fact = daemon.agent("alice").fact
        measuring(
            daemon,
            "twice",
            lambda epoch: Started(fact + 1, epoch, 0.0),
            lambda epoch: Ended(fact + 2, epoch, "exited", 0.0, exit_code=0),
            lambda epoch: Ended(fact + 3, epoch, "exited", 0.0, exit_code=1),
        )
        status = daemon.until("alice", "twice", "completed")
        assert [stage["name"] for stage in status["timeline"]].count("ended") == 1
    (daemon.file("alice", "twice", "go")).touch()
