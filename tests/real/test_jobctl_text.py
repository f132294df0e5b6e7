"""What jobctl writes: nothing that a user or a code says can steer a terminal; pipes get what they can use; files."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from operatorseat import jobctl, on_a_terminal, output, script, standin, with_own_codes
from realdaemon import Daemon

from jobd.ctl import show
from jobd.ctl.show import flat, plain, plain_pieces

WILD = "\x1b]0;owned\x07\x1b[31m[red]wild[/red]\x1b[0m\x9b2J\r\n\u202eback\x08\x00"
# What a terminal may be sent: text, and the colours and cursor moves that rich makes.
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r")
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def tame(text: str) -> bool:
    return not STEERING.search(OURS.sub("", text)) and "owned" not in text and "\x1b[31m[red]" not in text


@pytest.fixture(scope="module")
def daemon(make_module_daemon) -> Daemon:
    daemon = with_own_codes(make_module_daemon()).start()
    wild = r"printf '\033]0;owned\007\033[31m[red]wild[/red]\033[0m\2332J\r\n\342\200\256back\010\000\n'; exit 3"
    with daemon.client() as client:
        client.run("alice", "wild", code="mad", inputs={"script.sh": {"text": f"sleep 0.5; {wild}"}})
    daemon.until("alice", "wild", "failed")
    daemon.run("alice", "canceled", "sleep 30")
    daemon.until("alice", "canceled", "running")
    with daemon.client() as client:
        assert client.cancel("alice", "canceled", reason=WILD)["end_confirmed"]
    return daemon


SHOWN = {
    "status alice wild": "[red]wild[/red]\N{REPLACEMENT CHARACTER}2J\nback\n",
    "status alice canceled": "[red]wild[/red] back",
    "jobs": "[red]wild[/red] back",
    "runs alice canceled": "[red]wild[/red] back",
    "explain alice canceled": "[red]wild[/red] back",
    "events alice canceled": "[red]wild[/red] back",
    "codes": "Says [red]what it likes[/]",
}


@pytest.mark.parametrize("words", SHOWN)
def test_hostile_text_is_shown_as_what_it_is(daemon: Daemon, words):
    piped = jobctl(daemon, *words.split())
    assert SHOWN[words] in piped.out
    assert tame(piped.out), repr(piped.out)
    assert "\x1b" not in piped.out
    seen = on_a_terminal(daemon, *words.split())
    assert tame(seen.out), repr(seen.out)
    assert "[red]" in seen.out
    said = jobctl(daemon, *words.split(), "--json")
    assert said.out.isascii()
    assert not STEERING.search(said.out)
    assert [json.loads(line) for line in said.out.splitlines()]


def test_hostile_progress_is_followed_without_harm(daemon: Daemon):
    path = script(daemon, "sleep 1; echo done")
    seen = on_a_terminal(daemon, "run", "alice", "followed", "--code", "mad", path)
    assert seen.code == 0
    assert tame(seen.out), repr(seen.out)
    bar = re.sub(r"\s", "", OURS.sub("", seen.out.partition("alice/followed")[0]))
    assert "━" in bar
    assert "[red]wild[/red]" in bar, bar
    again = jobctl(daemon, "run", "alice", "followed", "--code", "mad", path, "--force")
    assert tame(again.out), repr(again.out)
    assert tame(again.err), repr(again.err)


HOSTILE = {  # worse than a real daemon would let through
    "/v1/users/alice/jobs/x": {
        "user": WILD, "job": WILD, "state": "failed", "serial": 1, "code": WILD, "mode": "batch", "log_tail": WILD,
        "cause": {"code": WILD, "text": f"{WILD}\n  known     forged", "actor": WILD}, "end_confirmed": True,
        "timeline": [{"number": 1, "at": WILD, "state": WILD, "name": WILD, "text": f"{WILD}\n  forged"}],
    },
    "/v1/users/alice/jobs/x/files": {"files": [{"path": f"../{WILD}", "bytes": 1, "age_s": 1}], "truncated": False},
    "/v1/admin/agents": {
        "agents": [{
            "id": WILD, "user": WILD, "place": WILD, "generation": 1, "linked": False, "awake": True, "stage": WILD,
            "failure": f"{WILD}\nforged", "failures": 1, "heard_s": 1, "questions": 0, "open_runs": [WILD],
        }]
    },
    "/v1/admin/tree": {"tree": [{"depth": 1, "kind": WILD, "name": WILD, "doing": f"{WILD}\nforged", "cause": WILD}]},
    "/v1/admin/pools": {"title": WILD, "detail": f"{WILD}\nforged", "code": WILD, "field": WILD, "status": 404},
    "/v1/users/alice/library": {"files": [{"name": WILD, "bytes": 1, "sha256": WILD, "modified_at": WILD}]},
}  # fmt: skip


def test_nothing_that_comes_by_the_socket_steers_a_terminal_or_forges_a_line(tmp_path):
    with standin(tmp_path / "s", HOSTILE):
        for words in ("status alice x", "files alice x", "agents", "tree", "library list alice"):
            piped = jobctl(None, *words.split(), JOBCTL_SOCKET=str(tmp_path / "s"))
            assert piped.code == 0
            assert tame(piped.out), repr(piped.out)
            assert not re.search(r"(?m)^\s*(forged|known)", piped.out), piped.out
            seen = on_a_terminal(None, *words.split(), JOBCTL_SOCKET=str(tmp_path / "s"))
            assert tame(seen.out), repr(seen.out)


def test_a_listing_cannot_lead_a_download_elsewhere(tmp_path):
    with standin(tmp_path / "s", HOSTILE):
        (tmp_path / "here").mkdir()
        ran = jobctl(None, "fetch", "alice", "x", "-d", tmp_path / "here", JOBCTL_SOCKET=str(tmp_path / "s"))
    assert (ran.code, ran.out) == (1, "")
    assert re.fullmatch(r"jobctl: the listing has '../.*', which must be a relative path.*\n", ran.err), ran.err
    assert sorted(os.listdir(tmp_path)) == ["here", "s"]
    assert os.listdir(tmp_path / "here") == []


def test_an_error_that_quotes_a_hostile_text_is_one_tame_line(tmp_path):
    with standin(tmp_path / "s", HOSTILE):
        for words, code in ((["pools"], 1), (["status", "alice", WILD.replace("\x00", "")], 2)):
            ran = jobctl(None, *words, JOBCTL_SOCKET=str(tmp_path / "s"))
            assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1), ran
            assert not STEERING.search(ran.err.rstrip("\n")), repr(ran.err)


def test_a_log_is_raw_in_a_pipe_and_plain_on_a_terminal(daemon: Daemon):
    raw = b"\x1b]0;owned\x07\x1b[31m[red]wild[/red]\x1b[0m\x9b2J\r\n\xe2\x80\xaeback\x08\x00\n"
    assert daemon.file("alice", "wild", "").is_dir()
    for words in (["log", "alice", "wild"], ["log", "-f", "alice", "wild"], ["log", "alice", "wild", "--serial", "1"]):
        assert output(daemon, *words) == raw
        seen = on_a_terminal(daemon, *words)
        assert (seen.code, seen.out) == (0, "[red]wild[/red]\N{REPLACEMENT CHARACTER}2J\r\nback\r\n"), repr(seen.out)
    lines = [each["line"] for each in jobctl(daemon, "log", "alice", "wild", "--json").lines]
    assert "".join(f"{line}\n" for line in lines) == raw.decode(errors="replace")


def test_only_one_module_writes_to_the_terminal():
    writes = re.compile(r"\bprint\(|\becho\(|std(out|err)\.(write|buffer)|markup=True")
    modules = list(Path(show.__file__).parent.glob("*.py"))
    assert [module.name for module in modules if writes.search(module.read_text())] == ["show.py"]


def test_what_is_torn_between_two_pieces_is_put_together():
    wild = WILD.encode() + "\u20ac\x1b[1;31mé\r\r\nend\x1b[".encode()
    whole = "".join(plain_pieces([wild]))
    assert whole == plain(wild.decode())
    assert whole == "[red]wild[/red]\nback\u20acé\n\nend["
    for cut in range(len(wild) + 1):
        assert "".join(plain_pieces([wild[:cut], wild[cut:]])) == whole, cut
    assert "".join(plain_pieces([bytes([each]) for each in wild])) == whole
    assert next(plain_pieces([b"\x1b[31mred", b"\x1b[0m"])) == "red", "what is whole is not held back"
    assert len("".join(plain_pieces([b"\x1b]" + b"x" * 10000]))) == 10001, "what has no end is text"
    assert not STEERING.search(plain("".join(map(chr, range(0x3000)))).replace("\n", ""))
    assert flat(" a\tb\r\nc \x1b[1m") == "a b c"


def test_a_pipe_gets_whole_lines_without_colours(daemon: Daemon):
    long = "long-" * 24
    daemon.done("alice", long, f"echo {'word ' * 200}; exit 3")
    for more in ({}, {"FORCE_COLOR": "1", "COLUMNS": "40", "CLICOLOR_FORCE": "1", "TTY_COMPATIBLE": "1"}):
        (row,) = [row for row in jobctl(daemon, "jobs", **more).rows if row[1] == long]
        assert len(row) == 8
        assert row[7] == "The code ended with exit code 3."
        status = jobctl(daemon, "status", "alice", long, **more)
        assert "word " * 199 + "word\n" in status.out
        assert "\x1b" not in status.out + jobctl(daemon, "tree", **more).out + jobctl(daemon, "agents", **more).out
    seen = on_a_terminal(daemon, "jobs").out
    assert "\x1b[31mfailed" in seen
    assert max(len(OURS.sub("", line)) for line in seen.splitlines()) <= 60, "a table fits its terminal"
    assert "\x1b[31m" not in on_a_terminal(daemon, "jobs", NO_COLOR="1").out


def test_a_locale_that_cannot_write_a_text_is_no_fault(daemon: Daemon):
    daemon.run("alice", "locale", "sleep 30")
    ran = jobctl(daemon, "cancel", "alice", "locale", "--reason", "\u6771", PYTHONIOENCODING="ascii")
    assert (ran.code, ran.err, ran.out.isascii()) == (0, "", True)
    assert "\\u6771" in ran.out
    daemon.until("alice", "locale", "canceled")


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_files_of_a_run_are_fetched_one_or_all(daemon: Daemon, tmp_path):
    daemon.done("alice", "files", "mkdir -p sub; head -c 3000000 /dev/urandom > sub/big; echo a > 'a b+.txt'")
    ran = jobctl(daemon, "fetch", "alice", "files", "sub/big", "-d", tmp_path / "one")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{tmp_path / 'one/sub/big'}  3000000 bytes\n"
    big = daemon.file("alice", "files", "sub/big").read_bytes()
    assert (tmp_path / "one" / "sub" / "big").read_bytes() == big
    every = jobctl(daemon, "fetch", "alice", "files", "--directory", tmp_path / "all", "--json")
    assert {each["path"] for each in every.lines} == {"script.sh", "sub/big", "a b+.txt"}
    assert (tmp_path / "all" / "sub" / "big").read_bytes() == big
    assert (tmp_path / "all" / "a b+.txt").read_text() == "a\n"
    assert sorted(os.listdir(tmp_path / "all")) == ["a b+.txt", "script.sh", "sub"], "nothing is left beside them"
    seen = on_a_terminal(daemon, "fetch", "alice", "files", "sub/big", "-d", tmp_path / "one")
    assert "3.0/3.0 MB" in seen.out, "progress"


def test_a_file_that_cannot_be_fetched_leaves_what_was_there(daemon: Daemon, tmp_path):
    (tmp_path / "nosuch").write_text("old")
    assert jobctl(daemon, "fetch", "alice", "wild", "nosuch", "-d", tmp_path).code == 1
    assert (tmp_path / "nosuch").read_text() == "old"
    assert os.listdir(tmp_path) == ["nosuch"]
    (tmp_path / "script.sh").mkdir()
    ran = jobctl(daemon, "fetch", "alice", "wild", "script.sh", "-d", tmp_path)
    assert (ran.code, ran.err.count("\n")) == (1, 1)


def test_a_library_file_goes_up_and_down_and_away(daemon: Daemon, tmp_path):
    content = os.urandom(3_000_000)
    source = tmp_path / "potential.eam"
    source.write_bytes(content)
    ran = jobctl(daemon, "library", "upload", "alice", source)
    assert (ran.code, ran.err) == (0, "")
    assert hashlib.sha256(content).hexdigest() in ran.out
    named = jobctl(daemon, "library", "upload", "alice", source, "--name", "other.eam", "--json").json
    assert (named["name"], named["bytes"]) == ("other.eam", 3_000_000)
    assert [row[0] for row in jobctl(daemon, "library", "list", "alice").rows] == ["other.eam", "potential.eam"]
    assert jobctl(daemon, "library", "download", "alice", "other.eam", "-o", tmp_path / "back").code == 0
    assert (tmp_path / "back").read_bytes() == content
    ran = jobctl(
        daemon, "run", "alice", "library", "--code", "shell", script(daemon, "wc -c < p"), "-l", "p=other.eam", "--json"
    )
    assert (ran.code, ran.json["log_tail"].strip()) == (0, "3000000")
    seen = on_a_terminal(daemon, "library", "upload", "alice", source)
    assert "3.0/3.0 MB" in seen.out, "progress"
    assert on_a_terminal(daemon, "library", "remove", "alice", "other.eam", typed=b"n\n").code == 130
    assert jobctl(daemon, "library", "remove", "alice", "other.eam").out == "removed other.eam\n"
    assert [row[0] for row in jobctl(daemon, "library", "list", "alice").rows] == ["potential.eam"]
    bad = tmp_path / "no name.eam"
    bad.touch()
    ran = jobctl(daemon, "library", "upload", "alice", bad)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
