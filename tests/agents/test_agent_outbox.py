"""The outbox by itself: numbers, the torn line, compaction, a disk that is full for a while."""

import json
import os
from pathlib import Path

import pytest
import trio

from agents import outbox, records
from agents.outbox import Outbox
from schemas.link import Ended, Epoch, Started

EPOCH = Epoch("jaaaaaaaaa", 1)


def end() -> records.End:
    return records.End("exited", records.Moment.now(), exit_code=0, text="exited with code 0")


async def test_facts_and_runs_are_there_again_after_a_restart(tmp_path: Path) -> None:
    box = Outbox(str(tmp_path / "outbox"), 100)
    await box.take(EPOCH)
    await box.started(EPOCH, records.Moment.now())
    box = Outbox(str(tmp_path / "outbox"), 100)
    assert [held.state for held in box.held] == ["running"]
    await box.ended(EPOCH, end(), "tail\ud800".encode("utf-8", "replace").decode())
    again = Outbox(str(tmp_path / "outbox"), 100)
    assert [(type(fact), fact.number) for fact in again.after(0)] == [(Started, 1), (Ended, 2)]
    assert [held.state for held in again.held] == ["ended"]
    assert again.last == 2


async def test_each_fact_of_a_run_is_made_once(tmp_path: Path) -> None:
    box = Outbox(str(tmp_path / "outbox"), 100)
    await box.take(EPOCH)
    for _ in range(3):
        await box.started(EPOCH, records.Moment.now())
    for _ in range(3):
        await box.ended(EPOCH, end(), "")
        await box.started(EPOCH, records.Moment.now())
        box = Outbox(str(tmp_path / "outbox"), 100)
    assert [type(fact) for fact in box.after(0)] == [Started, Ended]


async def test_numbers_go_on_when_everything_is_acknowledged_and_forgotten(tmp_path: Path) -> None:
    box = Outbox(str(tmp_path / "outbox"), 100)
    await box.take(EPOCH)
    await box.ended(EPOCH, end(), "")
    box.ack(1)
    assert (box.held, box.after(0)) == ((), [])
    later = Epoch(EPOCH.job, 2)
    await box.take(later)  # puts the acknowledgement on disk, or not: both are right
    for _ in range(2):
        box = Outbox(str(tmp_path / "outbox"), 100)
        box.ack(1)
        assert box.last == 1
        assert [held.epoch for held in box.held] == [later]


@pytest.mark.parametrize("cut", range(1, 40, 7))
async def test_a_torn_last_line_was_never_said(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "outbox"
    box = Outbox(str(path), 100)
    await box.take(EPOCH)
    whole = path.read_bytes()
    await box.started(EPOCH, records.Moment.now())
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    again = Outbox(str(path), 100)
    assert (again.last, again.after(0)) == (0, [])
    await again.started(EPOCH, records.Moment.now())
    assert [fact.number for fact in Outbox(str(path), 100).after(0)] == [1]


async def test_spoilt_lines_cost_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    box = Outbox(str(path), 100)
    await box.take(EPOCH)
    path.write_bytes(b"\xff\xfe\n{}\n" + path.read_bytes() + b"x" * 200_000 + b"\n")
    assert [held.epoch for held in Outbox(str(path), 100).held] == [EPOCH]


async def test_the_file_is_written_anew_when_most_of_it_is_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "COMPACT_LINES", 10)
    path = tmp_path / "outbox"
    box = Outbox(str(path), 100)
    for serial in range(1, 101):
        await box.take(Epoch(EPOCH.job, serial))
        await box.ended(Epoch(EPOCH.job, serial), end(), "")
        box.ack(serial - 1)
    assert len(path.read_text().splitlines()) < 20
    again = Outbox(str(path), 100)
    again.ack(99)
    assert ([fact.number for fact in again.after(0)], again.last) == ([100], 100)


async def test_a_full_disk_delays_a_fact_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "DISK_RETRY_S", 0.01)
    path = tmp_path / "outbox"
    box = Outbox(str(path), 100)
    await box.take(EPOCH)
    before = path.read_bytes()
    full = os.open("/dev/full", os.O_WRONLY)
    file, box._file = box._file, full
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.started, EPOCH, records.Moment.now())
            await trio.sleep(0.1)
            assert (box.after(0), path.read_bytes()) == ([], before)
            box._file = file
    os.close(full)
    assert [fact.number for fact in Outbox(str(path), 100).after(0)] == [1]
    for line in path.read_text().splitlines():
        json.loads(line)


async def test_ages_are_never_negative_and_count_over_a_reboot() -> None:
    now = records.Moment.now()
    assert records.Moment(now.boot, now.boottime_s - 5, now.wall_s + 100).age_s() == pytest.approx(5, abs=1)
    assert records.Moment("another boot", 1e9, now.wall_s - 50).age_s() == pytest.approx(50, abs=1)
    assert records.Moment("another boot", 0, now.wall_s + 50).age_s() == 0
