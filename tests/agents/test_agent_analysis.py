"""Analysis workers: kept, asked in turn, and replaced when they misbehave."""

import os
import re
import signal
import sys
import time
from typing import Any

import pytest
import trio
from standin_jobd import StandIn, eventually
from test_agent_runs import is_alive

from schemas import ids
from schemas.link import Analyse, Answer, Drop, Ended, Epoch, Progress, Worker

WORKER = r"""
import json, os, signal, sys, time
sys.stderr.write("worker is up\n"); sys.stderr.flush()
def say(header, body=b""):
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + body); sys.stdout.buffer.flush()
for line in sys.stdin:
    question = json.loads(line); method, args, n = question["method"], question["args"], question["id"]
    if method == "echo": say({"id": n, "result": {"pid": os.getpid(), "run": question["run"], "args": args}})
    if method == "about":
        leads, descriptors = os.getsid(0) == os.getpid(), sorted(os.listdir("/proc/self/fd"))[:-1]
        say({"id": n, "result": [os.getcwd(), sorted(os.environ), os.nice(0), leads, descriptors]})
    if method == "image":
        say({"id": n, "type": "image/png", "bytes": args["size"], "result": {"step": 7}}, b"p" * args["size"])
    if method == "large": say({"id": n, "result": "x" * args["size"]})
    if method == "fail": say({"id": n, "error": {"code": "no_frame", "text": "there is no frame 9"}})
    if method == "crash": sys.stderr.write("about to crash\n"); sys.stderr.flush(); os.kill(os.getpid(), signal.SIGSEGV)
    if method == "hang": time.sleep(60)
    if method == "garbage": print("hello!", flush=True)
    if method == "other": say({"id": n + 1, "result": 1})
    if method == "short": say({"id": n, "bytes": 10, "result": 1}, b"123"); os._exit(0)
    if method == "child":
        if os.fork() == 0: os.setsid(); time.sleep(60)
        say({"id": n, "result": os.getpid()})
    if method == "slow": time.sleep(args["s"]); say({"id": n, "result": args["s"]})
    if method == "progress":
        done = len(open(question["run"] + "/steps").read()) if os.path.exists(question["run"] + "/steps") else 0
        told = {"fraction": done / 4, "text": f"step {done}", "frames": {"plot": done}, "metrics": {"energy": None}}
        say({"id": n, "result": told})
"""


def worker(code: str = "lammps", text: str = WORKER, answer_s: float = 5.0, **environment: str) -> Worker:
    return Worker(code, (sys.executable, "-c", text), environment, answer_s)


async def ask(jobd: StandIn, method: str, arguments: Any = None, described: Worker | None = None) -> Answer:
    return await jobd.ask(
        Analyse, Epoch(jobd.job, 1), worker=described or worker(), method=method, arguments=arguments or {}
    )


@pytest.fixture
async def jobd(kept: StandIn) -> StandIn:
    """These tests leave the agent as it was."""
    return kept


async def test_a_worker_is_kept_and_sees_the_run_and_a_small_environment(jobd: StandIn) -> None:
    with trio.fail_after(10):
        first = (await ask(jobd, "echo", {"a": [1, None]})).result
        assert (first["run"], first["args"]) == (str(jobd.run_dir(Epoch(jobd.job, 1))), {"a": [1, None]})
        assert (await ask(jobd, "echo")).result["pid"] == first["pid"]
        described = worker("other", A="1")
        directory, names, nice, leads, descriptors = (await ask(jobd, "about", described=described)).result
        assert directory == str(jobd.root)
        assert set(names) - {"LC_CTYPE"} == {"A", "HOME", "PATH"}
        assert (nice, leads, descriptors) == (os.nice(0) + 5, True, ["0", "1", "2"])


async def test_another_description_of_a_worker_gets_another_process(jobd: StandIn) -> None:
    with trio.fail_after(10):
        first = (await ask(jobd, "echo")).result["pid"]
        assert (await ask(jobd, "echo", described=worker(A="2"))).result["pid"] != first
        await eventually(lambda: not is_alive(first))


async def test_what_is_large_comes_by_bulk(jobd: StandIn) -> None:
    with trio.fail_after(20):
        answer = await ask(jobd, "image", {"size": 3_000_000})
        assert (answer.bytes, answer.type, answer.result) == (3_000_000, "image/png", {"step": 7})
        assert await jobd.until(lambda: jobd.transfers.get(answer.op)) == b"p" * 3_000_000
        answer = await ask(jobd, "large", {"size": 2_000_000})
        assert (answer.bytes, answer.type) == (2_000_002, "application/json")
        assert await jobd.until(lambda: jobd.transfers.get(answer.op)) == b'"' + b"x" * 2_000_000 + b'"'
        assert (await ask(jobd, "large", {"size": 60_000})).result == "x" * 60_000
        assert (await ask(jobd, "image", {"size": 0})).bytes == 0


async def test_a_workers_own_error_is_passed_on_and_the_worker_kept(jobd: StandIn) -> None:
    with trio.fail_after(10):
        before = (await ask(jobd, "echo")).result["pid"]
        answer = await ask(jobd, "fail")
        assert (answer.error, answer.text) == ("no_frame", "there is no frame 9")
        assert (await ask(jobd, "echo")).result["pid"] == before


async def test_a_worker_that_misbehaves_costs_one_answer_and_is_replaced(jobd: StandIn) -> None:
    described = worker(answer_s=0.7)
    pid = 0
    for method, text in (
        ("crash", "ended: worker is up\nabout to crash"),
        ("hang", r"gave no answer in 0\.7 s: worker is up"),
        ("garbage", r"wrote garbage \(is not valid JSON \(JSONDecodeError\)\): worker is up"),
        ("other", r"answered question \d+ where \d+ was asked: worker is up"),
        ("short", "ended: worker is up"),
    ):
        with trio.fail_after(5):
            before, pid = pid, (await ask(jobd, "echo", described=described)).result["pid"]
            assert pid != before
            answer = await ask(jobd, method, described=described)
            assert (answer.error, answer.bytes) == ("worker", None)
            assert re.fullmatch(f"the analysis worker of lammps {text}", answer.text)
            await eventually(lambda pid=pid: not is_alive(pid))


async def test_a_worker_that_died_between_questions_is_simply_replaced(jobd: StandIn) -> None:
    with trio.fail_after(10):
        before = (await ask(jobd, "echo")).result["pid"]
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: not is_alive(before))
        assert (await ask(jobd, "echo")).result["pid"] != before


async def test_a_worker_that_cannot_be_executed_is_an_error_of_the_question(jobd: StandIn) -> None:
    with trio.fail_after(10):
        answer = await ask(jobd, "echo", described=Worker("lammps", ("no-such-worker",), {}, 5.0))
        assert answer.error == "worker"
        assert answer.text == "the analysis worker of lammps could not be started: command not found: no-such-worker"


async def test_questions_are_answered_in_turn_and_a_dropped_one_is_not_asked(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = Epoch(jobd.job, 1)
        ops = [ids.new_id("o") for _ in range(4)]
        for op, seconds in zip(ops, (0.4, 0.01, 30, 0.02), strict=True):
            await jobd.send(Analyse(op, epoch, worker(), "slow", {"s": seconds}))
        await jobd.send(Drop(ops[2]))
        assert (await jobd.answer(ops[3])).result == 0.02
        assert [fact.op for fact in jobd.facts if isinstance(fact, Answer)] == [ops[0], ops[1], ops[3]]


async def test_a_question_that_is_dropped_while_it_is_answered_disturbs_nobody(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch, op = Epoch(jobd.job, 1), ids.new_id("o")
        pid = (await ask(jobd, "echo")).result["pid"]
        await jobd.send(Analyse(op, epoch, worker(), "slow", {"s": 0.3}))
        await trio.sleep(0.1)
        await jobd.send(Drop(op))
        assert (await ask(jobd, "echo")).result["pid"] == pid
        assert [fact for fact in jobd.facts if isinstance(fact, Answer) and fact.op == op] == []


async def test_a_worker_survives_the_link_and_dies_with_the_agent(jobd: StandIn) -> None:
    with trio.fail_after(10):
        pid = (await ask(jobd, "child")).result
        await jobd.vanish()
        await jobd.listen()
        await jobd.until(lambda: len(jobd.hellos) == 2)
        assert (await ask(jobd, "echo")).result["pid"] == pid
        await jobd.kill_agent()
        with trio.fail_after(2):
            await eventually(lambda: not jobd.at.survivors())


async def test_what_a_dead_worker_left_is_ended(jobd: StandIn) -> None:
    with trio.fail_after(10):
        await ask(jobd, "child")
        await ask(jobd, "crash")
        with trio.fail_after(2):
            await eventually(lambda: not jobd.at.run_processes())


async def test_progress_is_asked_once_more_after_the_end(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "sleep 0.5; printf xxxx >steps", worker=worker(), progress_s=30)
        await jobd.ended(epoch)
        assert [fact.text for fact in jobd.progress()] == ["step 0", "step 4"]


async def test_progress_is_told_when_it_changes_and_is_right_before_the_end(jobd: StandIn) -> None:
    with trio.fail_after(10):
        script = "for i in 1 2 3 4; do sleep 0.25; printf x >>steps; done"
        epoch = await jobd.start("sh", "-c", script, worker=worker(), progress_s=0.05)
        await jobd.ended(epoch)
        told = jobd.progress()
        assert told[-1] == Progress(epoch, 1.0, "step 4", {"plot": 4}, {"energy": None})
        assert len(told) == len({fact.text for fact in told}) >= 3
        kinds = [type(fact) for fact in jobd.facts if isinstance(fact, (Progress, Ended))]
        assert kinds[-1] is Ended


async def test_the_latest_progress_is_told_again_on_a_new_link(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "printf x >steps; exec sleep 60", worker=worker(), progress_s=0.05)
        await jobd.until(lambda: [fact for fact in jobd.progress() if fact.text == "step 1"])
        await jobd.vanish()
        jobd.facts.clear()
        await jobd.listen()
        assert (await jobd.fact(Progress)).text == "step 1"
        await jobd.stop(epoch)
        await jobd.ended(epoch)


@pytest.mark.parametrize(
    "text", [WORKER.replace('"fraction": done / 4', '"fraction": 7'), "import time; time.sleep(60)"]
)
async def test_a_worker_without_a_good_answer_delays_the_end_only_a_little(jobd: StandIn, text: str) -> None:
    with trio.fail_after(10):
        began = time.monotonic()
        epoch = await jobd.start("true", worker=worker(text=text))
        ended = await jobd.ended(epoch)
        assert ended.outcome == "exited"
        assert time.monotonic() - began < 3.5
        assert jobd.progress() == []
