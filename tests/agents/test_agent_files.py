"""Inputs, reads and listings: whole and right or an error, and never through a symbolic link."""

import json
import os
import time

import pytest
import trio
from standin_jobd import StandIn, eventually
from test_agent_runs import wait_for_log

from schemas import ids
from schemas.link import Answer, Drop, Epoch, List, Read

LARGE = os.urandom(1 << 20) * 3


async def ended(jobd: StandIn, script: str) -> Epoch:
    epoch = await jobd.start("sh", "-c", script)
    await jobd.ended(epoch)
    return epoch


@pytest.fixture
async def jobd(kept: StandIn) -> StandIn:
    """These tests leave the agent as it was."""
    return kept


async def test_inputs_are_there_before_the_command(jobd: StandIn) -> None:
    with trio.fail_after(10):
        files = (jobd.input("a.txt", b"alpha"), jobd.input("sub/dir/b.bin", LARGE), jobd.input("empty", b""))
        epoch = await jobd.start("sh", "-c", "cat a.txt; wc -c <sub/dir/b.bin; ls empty", inputs=files)
        assert (await jobd.ended(epoch)).log_tail == f"alpha{len(LARGE)}\nempty\n"
        assert (jobd.run_dir(epoch) / "sub/dir/b.bin").read_bytes() == LARGE


async def test_an_input_goes_on_where_it_was_cut(jobd: StandIn) -> None:
    with trio.fail_after(10):
        jobd.input_cuts = [1_000_000, 5, 500_000]
        epoch = await jobd.start("true", inputs=(jobd.input("a", LARGE),))
        assert (await jobd.ended(epoch)).outcome == "exited"
        assert (jobd.run_dir(epoch) / "a").read_bytes() == LARGE
        assert [header.offset for header in jobd.transfer_headers] == [0, 1_000_000, 1_000_005, 1_500_005]


async def test_an_input_that_is_cut_too_often_is_not_started(jobd: StandIn) -> None:
    with trio.fail_after(10):
        jobd.input_cuts = [1] * 10
        epoch = await jobd.start("touch", "../ran", inputs=(jobd.input("a", LARGE),))
        end = await jobd.ended(epoch)
        assert (end.outcome, end.text) == ("not_started", "input a could not be fetched: the connection was cut")
        assert not (jobd.scratch / "ran").exists()


async def test_an_input_with_other_contents_is_not_started(jobd: StandIn) -> None:
    with trio.fail_after(10):
        file = jobd.input("a", b"right")
        jobd.inputs[file.transfer] = b"wrong"
        end = await jobd.ended(await jobd.start("true", inputs=(file,)))
        assert end.outcome == "not_started"
        assert end.text == "input a could not be fetched: it arrived with other contents than announced"


async def test_inputs_wait_for_a_jobd_that_restarts(jobd: StandIn) -> None:
    with trio.fail_after(10):
        file = jobd.input("a", LARGE)
        jobd.vanishes_at_input = True
        epoch = await jobd.start("true", inputs=(file,))
        await eventually(lambda: jobd.is_away)
        jobd.vanishes_at_input = False
        await trio.sleep(2)  # longer than all attempts of an agent that would not wait
        await jobd.listen()
        assert (await jobd.ended(epoch)).outcome == "exited"


async def test_a_run_may_be_stopped_while_its_inputs_come(jobd: StandIn) -> None:
    with trio.fail_after(10):
        file = jobd.input("a", LARGE)
        jobd.input_stalls = True
        epoch = await jobd.start("touch", "../ran", inputs=(file,))
        await jobd.until(lambda: jobd.transfer_headers)
        await jobd.stop(epoch)
        end = await jobd.ended(epoch)
        assert (end.outcome, end.text) == ("stopped", "was stopped before it began")
        assert not (jobd.scratch / "ran").exists()


async def test_an_input_is_not_written_through_a_symbolic_link(jobd: StandIn) -> None:
    with trio.fail_after(10):
        outside = jobd.root.parent / "outside"
        outside.mkdir()
        jobd.run_dir(Epoch(jobd.job, 1)).mkdir(parents=True)
        (jobd.run_dir(Epoch(jobd.job, 1)) / "sub").symlink_to(outside)
        end = await jobd.ended(await jobd.start("true", inputs=(jobd.input("sub/a", b"x"),)))
        assert end.outcome == "not_started"
        assert list(outside.iterdir()) == []


async def test_a_file_is_read_by_bulk_in_whole_or_in_part(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await ended(jobd, "true")
        (jobd.run_dir(epoch) / "out.png").write_bytes(LARGE)
        answer = await jobd.ask(Read, epoch, path="out.png")
        assert (answer.bytes, answer.type, answer.error) == (len(LARGE), "image/png", None)
        assert await jobd.until(lambda: jobd.transfers.get(answer.op)) == LARGE
        assert await jobd.asked_bytes(Read, epoch, path="out.png", offset=1000, length=70_000) == LARGE[1000:71_000]
        assert await jobd.asked_bytes(Read, epoch, path="out.png", offset=len(LARGE) - 1) == LARGE[-1:]
        answer = await jobd.ask(Read, epoch, path="out.png", offset=len(LARGE))
        assert (answer.bytes, answer.error) == (0, None)


async def test_the_log_is_read_while_the_run_goes_on(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "echo first; sleep 0.5; echo second")
        await wait_for_log(jobd, epoch, "first")
        answer = await jobd.ask(Read, epoch)
        assert answer.type.startswith("text/plain")
        assert await jobd.until(lambda: jobd.transfers.get(answer.op)) == b"first\n"
        began = time.monotonic()
        assert await jobd.asked_bytes(Read, epoch, offset=6, wait_s=5.0) == b"second\n"
        assert time.monotonic() - began > 0.2
        assert await jobd.asked_bytes(Read, epoch, offset=13, wait_s=5.0) == b"", "the end of the run ends the wait"


async def test_a_wait_for_a_file_that_does_not_come_is_not_longer_than_asked(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
        began = time.monotonic()
        assert (await jobd.ask(Read, epoch, path="later", wait_s=0.3)).error == "not_found"
        assert 0.25 < time.monotonic() - began < 1.5
        await jobd.stop(epoch)
        await jobd.ended(epoch)


async def test_what_is_no_file_of_the_run_is_an_error(jobd: StandIn) -> None:
    with trio.fail_after(10):
        (jobd.scratch / "secret").write_text("secret")
        epoch = await ended(jobd, "mkdir dir; mkfifo fifo; ln -s ../secret link; ln -s .. dirlink; printf 12345 >file")
        for path in ("missing", "dir", "fifo", "link", "dirlink/secret", "file/below"):
            answer = await jobd.ask(Read, epoch, path=path)
            assert (answer.error, answer.bytes) == ("not_found", None), path
        assert (await jobd.ask(Read, epoch, path="file", offset=6)).error == "range"
        assert jobd.transfers == {}


async def test_the_files_of_an_unknown_run_are_not_found(jobd: StandIn) -> None:
    with trio.fail_after(10):
        for kind in (Read, List):
            assert (await jobd.ask(kind, Epoch(jobd.job, 77))).error == "not_found"


async def test_a_file_that_shrinks_while_it_is_sent_arrives_short(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await ended(jobd, "true")
        file = jobd.run_dir(epoch) / "big"
        file.write_bytes(LARGE)
        jobd.on_push = lambda: os.truncate(file, 1000)
        answer = await jobd.ask(Read, epoch, path="big")
        assert answer.bytes == len(LARGE)
        received = await jobd.until(lambda: jobd.transfers.get(answer.op))
        assert len(received) < len(LARGE)


async def test_a_listing_names_the_regular_files_and_follows_no_link(jobd: StandIn) -> None:
    with trio.fail_after(10):
        (jobd.scratch / "secret").write_text("secret")
        epoch = await ended(
            jobd,
            "mkdir -p a/b; printf 12 >a/b/c; printf 1 >z; "
            "mkfifo fifo; ln -s ../secret link; ln -s ../.. up; : >'bad:name'",
        )
        listing = (await jobd.ask(List, epoch)).result
        assert [(file["path"], file["bytes"]) for file in listing["files"]] == [("a/b/c", 2), ("z", 1)]
        assert all(0 <= file["age_s"] < 10 for file in listing["files"])
        assert listing["truncated"] is False
        short = (await jobd.ask(List, epoch, files_max=1)).result
        assert (len(short["files"]), short["truncated"]) == (1, True)


async def test_a_long_listing_goes_by_bulk(jobd: StandIn) -> None:
    with trio.fail_after(20):
        epoch = await ended(jobd, "true")
        for number in range(2000):
            (jobd.run_dir(epoch) / f"a-rather-long-file-name-{number:05}").touch()
        listing = json.loads(await jobd.asked_bytes(List, epoch, files_max=5000))
        assert len(listing["files"]) == 2000
        assert listing["files"][0]["path"] == "a-rather-long-file-name-00000"


async def test_a_dropped_op_is_not_answered(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
        op = ids.new_id("o")
        await jobd.send(Read(op, epoch, wait_s=0.5))
        await jobd.send(Drop(op))
        await jobd.stop(epoch)
        await jobd.ended(epoch)
        await trio.sleep(0.6)
        assert [fact for fact in jobd.facts if isinstance(fact, Answer)] == []


async def test_more_ops_than_the_agent_can_hold_are_refused_at_once(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
        for _ in range(101):
            await jobd.send(Read(ids.new_id("o"), epoch, wait_s=5.0))
        refused = await jobd.fact(Answer)
        assert refused.error == "busy"
        await jobd.stop(epoch)
        await jobd.ended(epoch)
