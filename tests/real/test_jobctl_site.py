"""`jobctl doctor` and `jobctl config check`: a good site, and what is wrong with the others."""

import os
import re
import socket
from pathlib import Path

import pytest
from operatorseat import Ran, configure, jobctl, with_own_codes
from realdaemon import HERE, Daemon

CHECKS = ["config", "state", "space", "lock", "paths", "address", "daemon", "code", "code", "codes", "backend"]
STARTED = ["agent", "run"]


def doctor(daemon: Daemon, *words: object) -> Ran:
    ran = jobctl(None, "doctor", "--config", daemon.home / "jobd.toml", *words)
    assert ran.err == ""
    for line in ran.out.splitlines():
        assert re.match(r"ok      \w|failed  \w|\{", line), line
    return ran


def failed(daemon: Daemon, *words: object) -> dict[str, str]:
    """What has failed, by the check's name, with what to do."""
    ran = doctor(daemon, *words)
    found = {line.split()[1]: line.split(maxsplit=2)[2] for line in ran.out.splitlines() if line.startswith("failed")}
    assert ran.code == int(bool(found))
    return found


@pytest.fixture
def site(make_daemon) -> Daemon:
    """A good one, not started."""
    return with_own_codes(make_daemon(agents={"call_home_s": 8.0}))


def test_a_good_site_that_serves_is_well(site: Daemon):
    site.start()
    site.done("alice", "j", "true")
    before = sorted(path.name for path in site.state.iterdir())
    ran = doctor(site)
    assert (ran.code, [line.split()[1] for line in ran.out.splitlines()]) == (0, [*CHECKS, *STARTED]), ran.out
    said = doctor(site, "--json")
    assert said.code == 0
    assert [each["check"] for each in said.lines] == [*CHECKS, *STARTED]
    assert all(each["ok"] for each in said.lines)
    by_name = {each["check"]: each["text"] for each in said.lines}
    assert by_name["lock"].startswith(f"held by process {site.process.pid}: ")
    assert "1 agents are linked" in by_name["daemon"]
    assert sorted(path.name for path in site.state.iterdir()) == before, "it leaves nothing"
    assert len(site.processes("jobd-agent.pyz")) == len(site.processes("jobd-agent.pyz", str(site.state / "agents")))
    assert [row[1] for row in jobctl(site, "agents").rows] == ["alice"], "the daemon has nothing to do with it"


def test_a_daemon_that_is_down_is_told_and_all_else_is_tried(site: Daemon):
    site.start()
    site.sigterm()
    wrong = failed(site)
    assert set(wrong) == {"daemon"}
    assert "start it (systemctl start jobd)" in wrong["daemon"]
    assert failed(site, "--offline") == {}
    site.start()
    site.sigkill()
    assert set(failed(site)) == {"daemon"}, "the dead hold no lock"


def test_a_site_that_never_served_needs_its_state_directory(site: Daemon):
    wrong = failed(site, "--offline")
    assert set(wrong) == {"state"}
    assert f"install -d -m 711 -o USER {site.state}" in wrong["state"]
    site.state.mkdir(mode=0o711)
    assert failed(site, "--offline") == {}
    assert list(site.state.iterdir()) == [], "nor is anything made"


B = 'name = "b"\ntitle = "b"\nversion = "1"\n'
BROKEN = {
    'title = "x': "is not TOML",
    'name = "shell"\ntitle = 1\nversion = "1"\nmodes = {}': "title: must be a string",
    B + '[modes.fast]\ncommand = ["true"]': "modes.fast: must be sequential",
    B + '[modes.parallel]\ncommand = ["no-such"]': "modes.parallel.command: there is no program 'no-such'",
    B + "[modes.parallel]\ncommand = []": "modes.parallel.command: there is no program ''",
    B + '[modes.parallel]\ncommand = ["sh", "{here}/no.sh"]': "no.sh",
    B + '[modes]\n[analysis]\ncommand = ["/no/such"]': "analysis.command: there is no",
}


def test_a_broken_description_of_a_code_is_named(site: Daemon):
    site.state.mkdir(mode=0o711)
    path = site.home / "codes" / "broken.toml"
    for text, words in BROKEN.items():
        path.write_text(text + "\n")
        ran = quick(site)
        (line,) = [line for line in ran.out.splitlines() if line.startswith("failed  code ")]
        assert (ran.code, f"{path}: " in line, words in line) == (1, True, True), line
    path.write_text((site.home / "codes" / "shell.toml").read_text())
    assert "which another file describes too" in failed(site, "--offline")["codes"]


def quick(site: Daemon) -> Ran:
    """The doctor without what starts something: a zipapp that is not there."""
    text = (site.home / "jobd.toml").read_text()
    if "/no/zipapp" not in text:
        configure(site, "[local]", '[local]\nzipapp = "/no/zipapp"')
    return doctor(site, "--offline")


def test_a_state_directory_that_cannot_be_used_is_told_with_what_to_do(site: Daemon):
    site.state.mkdir(mode=0o777)
    site.state.chmod(0o777)
    assert f"chmod go-w {site.state}" in quick(site).out
    site.state.chmod(0o711)
    (site.state / "service-token").touch(mode=0o644)
    assert f"chmod go= {site.state / 'service-token'}" in quick(site).out
    (site.state / "service-token").unlink()
    site.state.rmdir()
    site.state.write_text("a file")
    assert f"{site.state} is no directory" in quick(site).out
    site.state.unlink()


def test_a_state_directory_that_is_not_ours_is_told(site: Daemon):
    site.state.mkdir(mode=0o711)
    if os.getuid() == 0:
        os.chown(site.state, 65534, 65534)
        words = "belongs to nobody, and you are root; run doctor as the user that jobd runs as"
    else:
        configure(site, json_of(site.state), '"/"')
        words = "belongs to root, and you are"
    assert words in quick(site).out


def test_a_state_directory_that_cannot_be_written_is_told_and_the_rest_is_tried(site: Daemon):
    if os.getuid() == 0:
        configure(site, json_of(site.state), '"/sys"')  # root can write into any other
    else:
        site.state.mkdir(mode=0o511)
    wrong = failed(site, "--offline")
    assert "cannot be written: " in wrong["state"]
    assert set(wrong) <= {"state", "space"}


def test_what_hinders_the_doors_is_told(site: Daemon):
    site.state.mkdir(mode=0o711)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        configure(site, "port = 0", f"port = {taken.getsockname()[1]}")
        assert "Address already in use; change http.host or http.port" in quick(site).out
    long = site.home / ("x" * 70)
    configure(site, json_of(site.state), json_of(long))
    ran = quick(site)
    assert re.search(r"failed  paths .*too long for unix sockets", ran.out)


def json_of(path: Path) -> str:
    return f'"{path}"'


def test_an_agent_that_does_not_start_is_told_with_its_log(site: Daemon, tmp_path):
    (tmp_path / "__main__.py").write_text("raise SystemExit('the agent is broken on purpose')")
    configure(site, "[local]", f'[local]\nzipapp = "{tmp_path}"')
    site.state.mkdir(mode=0o711)
    wrong = failed(site, "--offline")
    assert set(wrong) == {"agent", "run"}
    assert "the agent is broken on purpose" in wrong["agent"]
    assert "mend the agent first" in wrong["run"]
    assert list(site.state.iterdir()) == []


def test_an_agent_that_says_nothing_is_given_up(site: Daemon, tmp_path):
    (tmp_path / "__main__.py").write_text("import time; time.sleep(60)")
    configure(site, "[local]", f'[local]\nzipapp = "{tmp_path}"')
    configure(site, "call_home_s = 8.0", "call_home_s = 0.5")
    wrong = failed(site, "--offline")
    assert "did not call home within 0.5 s" in wrong["agent"]
    assert not site.processes(), "and ended"


def test_an_interpreter_or_agent_that_is_not_there_is_told(site: Daemon):
    site.state.mkdir(mode=0o711)
    assert re.search(r"failed  backend .*there is no agent at /no/zipapp", quick(site).out)
    configure(site, "[local]", '[local]\npython = "/no/python"')
    assert re.search(r"failed  backend .*local.python: /no/python cannot be executed", quick(site).out)


def test_a_daemon_that_has_not_read_its_codes_anew_is_told(site: Daemon):
    site.start()
    text = (site.home / "codes" / "shell.toml").read_text()
    (site.home / "codes" / "shell.toml").write_text(text.replace('version = "1"', 'version = "2"'))
    assert failed(site)["daemon"].endswith("; restart it")
    (site.home / "codes" / "shell.toml").write_text("what")
    assert set(failed(site)) == {"code", "codes"}, "that is no fault of the daemon"


def test_a_daemon_whose_agents_do_not_start_is_told(site: Daemon):
    configure(site, "[local]", '[local]\npython = "/bin/false"')
    site.start()
    site.run("bob", "j", "true", limits={"start_s": 1.0})
    site.until("bob", "j", "failed")
    wrong = failed(site)
    assert re.search(r"agent \w+ of bob does not start: .*; see `jobctl agents`", wrong["daemon"])
    assert "it does not start" in wrong["agent"]


# --- config check ---------------------------------------------------------------------------------------------------


def test_a_good_configuration_is_0(site: Daemon):
    toml = site.home / "jobd.toml"
    ran = jobctl(None, "config", "check", toml)
    assert (ran.code, ran.out, ran.err) == (0, f"{toml} is good\n", "")
    assert jobctl(None, "config", "check", toml, "--json").json == {"file": str(toml), "problems": []}
    assert jobctl(None, "config", "check", HERE.parent.parent / "deploy" / "jobd-dev.toml").code == 0


def test_every_problem_of_a_configuration_is_told_with_field_and_limit(site: Daemon, tmp_path):
    toml = tmp_path / "jobd.toml"
    toml.write_text(
        'state = 7\nnosuch = 1\n"a.b" = 2\n'
        "[http]\nport = 70000\norigins = [1, 'ok', 2]\nbody_bytes_max = 'big'\n"
        f"[tiers.'x.y']\nsequential = 9999\nparallel = -1\n[tiers.z]\n{'k' * 80} = 1\n[agents]\nstart_s = 0\n"
    )
    ran = jobctl(None, "config", "check", toml)
    assert (ran.code, ran.err) == (1, "")
    told = dict(line.split(": ", 1) for line in ran.out.splitlines())
    assert len(told) == ran.out.count("\n"), "each once"
    assert told == {
        "nosuch": "is not a known field",
        "a.b": "is not a known field",
        "codes": "is missing",
        "state": told["state"],
        "http.port": "must be between 0 and 65535, not 70000",
        "http.origins[0]": "must be a string",
        "http.origins[1]": "must be a string",
        "http.body_bytes_max": "must be an integer",
        "tiers.x.y.sequential": "must be between 0 and 1000, not 9999",
        "tiers.x.y.parallel": "must be between 0 and 1000, not -1",
        f"tiers.z.{'k' * 64}": "is not a known field",
        "agents.start_s": "must be between 0.001 and 2.592e+06, not 0",
    }
    problems = jobctl(None, "config", "check", toml, "--json").json["problems"]
    assert {each["field"]: each["problem"] for each in problems} == told


def test_the_problems_of_all_codes_are_told(site: Daemon):
    codes = site.home / "codes"
    (codes / "a.toml").write_text(
        'name = "a b"\nversion = 1\n[modes.sequential]\ncores = 0\n[modes.quick]\ncommand = []\n'
    )
    (codes / "b.toml").write_text("what\n")
    told = jobctl(None, "config", "check", site.home / "jobd.toml").out
    for words in (
        f"{codes / 'a.toml'}: title: is missing",
        f"{codes / 'a.toml'}: version: must be a string",
        f"{codes / 'a.toml'}: modes.sequential.command: is missing",
        f"{codes / 'a.toml'}: modes.sequential.cores: must be between 1 and",
        f"{codes / 'a.toml'}: modes.quick: must be sequential",
        f"{codes / 'a.toml'}: name: must be 1 to 128",
        f"{codes / 'b.toml'}: is not TOML",
    ):
        assert words in told, told


def test_a_configuration_that_cannot_be_read_is_1_and_one_line(site: Daemon, tmp_path):
    (tmp_path / "no.toml").write_text("state = \n")
    (tmp_path / "latin.toml").write_bytes(b'state = "\xe4"\n')
    for name in ("no.toml", "latin.toml", "absent.toml"):
        ran = jobctl(None, "config", "check", tmp_path / name)
        assert (ran.code, ran.out.count("\n"), str(tmp_path / name) in ran.out) == (1, 1, True), ran
    configure(site, f'"{site.home / "codes"}"', '"/no/codes"')
    assert jobctl(None, "config", "check", site.home / "jobd.toml").out == "codes: there is no directory /no/codes\n"
    configure(site, "/no/codes", str(site.home / "codes"))
    configure(site, json_of(site.state), json_of(site.home / ("x" * 70)))
    assert "too long for unix sockets" in jobctl(None, "config", "check", site.home / "jobd.toml").out
