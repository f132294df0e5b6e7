"""jobctl without a daemon: wrong usage, help, completion, and nobody there."""

import re
import shlex
import subprocess

import click
import pytest
from operatorseat import COMMAND, environment, jobctl
from realdaemon import DEADLINE_S, HERE

from jobd.ctl.command import jobctl as command_line

WRONG = {
    "nosuch": "No such command",
    "status alice": "Missing argument 'JOB'",
    "status ali/ce x": "'ali/ce' must be 1 to 128 of A-Za-z0-9._-",
    "status alice ..": "'..' must be",
    "run alice x": "Missing option '--code'",
    "run alice x --code shell -i nothing": "'nothing' must be NAME=VALUE",
    "run alice x --code shell -i a=/no/such": "/no/such",
    "run alice x --code shell --cores 0": "--cores",
    "run alice x --code shell --mode quick": "'quick' is not one of",
    "jobs --state missing": "'missing' is not one of",
    "jobs --nosuch": "No such option",
    "fetch alice old ../../etc/passwd": "must be a relative path",
    "library upload alice /no/such": "does not exist",
    "library upload alice /": "is a directory",
    "agent stop nosuch": "must be an id",
    "agent forget aaaaaaaaaa": "Missing option '--reason'",
    "tokens mint --read-only": "name the --user",
    "tokens revoke secret-text": "id of a token",
    "--patience soon jobs": "'soon' is not a valid float",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_2_and_one_line(words, tmp_path):
    ran = jobctl(None, *words.split(), JOBCTL_SOCKET=str(tmp_path / "none.sock"))
    assert (ran.code, ran.out) == (2, "")
    assert re.fullmatch(rf"jobctl: .*{re.escape(WRONG[words])}.* \(see jobctl.* --help\)\n", ran.err), ran.err


def test_a_daemon_that_does_not_answer_is_1_and_one_line(tmp_path):
    ran = jobctl(None, "--socket", tmp_path / "none.sock", "--patience", 0.2, "jobs")
    assert (ran.code, ran.out) == (1, "")
    assert re.fullmatch(r"jobctl: jobd did not answer for 0.2 s: .* is the daemon running.*\n", ran.err), ran.err


def leaves(group: click.Group, *path: str):
    for name, each in group.commands.items():
        if isinstance(each, click.Group):
            yield from leaves(each, *path, name)
        else:
            yield " ".join((*path, name)), each


@pytest.mark.parametrize("name", dict(leaves(command_line)))
def test_the_help_of_each_command_has_an_example_that_parses(name):
    each = dict(leaves(command_line))[name]
    examples = re.findall(rf"jobctl ({name}\b.*)", each.help.partition("\b")[2])
    assert examples, each.help
    for example in examples:
        words = shlex.split(re.split(r" [|&>] ?", example)[0])[len(name.split()) :]
        each.make_parser(click.Context(each)).parse_args(words)


def test_help_and_completion(tmp_path):
    ran = jobctl(None, "--help")
    assert ran.code == 0
    for line in ("Exit codes:", "  3    the run has failed", "  4    the run was canceled"):
        assert line in ran.out
    assert "_JOBCTL_COMPLETE=bash_complete" in jobctl(None, _JOBCTL_COMPLETE="bash_source").out
    offered = jobctl(None, _JOBCTL_COMPLETE="bash_complete", COMP_WORDS="jobctl tokens re", COMP_CWORD="2")
    assert offered.out == "plain,revoke\n"


def test_a_reader_that_goes_away_is_no_fault_of_ours():
    process = subprocess.Popen(
        [*COMMAND, "config", "check", HERE.parent.parent / "deploy" / "jobd-dev.toml"],
        env=environment(None, PYTHONUNBUFFERED=""),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert (process.wait(DEADLINE_S), process.stderr.read()) == (1, b"")
    process.stderr.close()
