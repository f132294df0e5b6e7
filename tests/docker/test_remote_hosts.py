"""A second host in namespaces of its own, which sees nothing of jobd's disk: placement, relay, partitions."""

import os
import subprocess
from pathlib import Path

import pytest
from dockerdaemon import DockerDaemon
from realdaemon import short_directory, wait_until
from testbed import ROOT, bed, client_of

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

NAME, INDEX = "second", 77
HERE, THERE = f"198.18.{INDEX}.1", f"tcp://198.18.{INDEX}.2:2376"


@pytest.fixture(scope="module")
def second(engine):
    """The host, with our image; returns what jobd needs to reach it, and to be reached."""
    bed("host.sh", "up", NAME, str(INDEX), "/tmp", str(ROOT / "build"))
    home = Path(os.environ.get("JOBD_BED_HOSTS", "/var/tmp/jobd-bed")) / NAME
    bed("images.sh", "load", f"{home}/docker.sock", "shell")
    own = client_of(f"unix://{home}/docker.sock")
    tls = home / "tls" / "client"
    files = {"tls_ca": str(tls / "ca.pem"), "tls_cert": str(tls / "cert.pem"), "tls_key": str(tls / "key.pem")}
    yield own, {"url": THERE, "cores": 8, "memory_bytes": 8 << 30, "home": HERE, **files}
    own.close()
    bed("host.sh", "down", NAME)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """jobd's own, for the agents' door."""
    home = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9",
         "-subj", "/CN=jobd", "-addext", f"subjectAltName=IP:{HERE}", "-keyout", home / "key", "-out", home / "cert"],
        check=True, capture_output=True,
    )  # fmt: skip
    return {"certificate_file": str(home / "cert"), "key_file": str(home / "key"), "host": HERE, "port": 0}


@pytest.fixture
def make(engine, second, certificate):
    with short_directory() as home:
        made = []

        def make(hosts=("there",), **tables):
            own, there = second
            here = {"url": engine.url, "cores": 8, "memory_bytes": 8 << 30}
            every = {"there": there, "here": here, **tables.pop("more", {})}
            tables = {"tls": certificate, "docker": {"call_s": 2.0, "ping_s": 0.2}, **tables}
            daemon = DockerDaemon(home, own, {name: every[name] for name in hosts}, tables)
            made.append(daemon)
            daemon.start()
            wait_until(lambda: all(host["state"] == "up" for host in hosts_of(daemon)), "the hosts are up", 60)
            return daemon

        yield make
        for daemon in made:
            daemon.engine = engine
            daemon.end()
            for container in second[0].containers.list(all=True, filters={"label": f"jobd.instance={daemon.instance}"}):
                container.remove(force=True, v=True)
            for volume in second[0].volumes.list():
                if daemon.instance in volume.name:
                    volume.remove(force=True)


def hosts_of(daemon):
    return daemon.operator("/v1/admin/hosts")["hosts"]


def test_a_run_on_a_host_that_shares_nothing_with_us(make, user):
    daemon = make()
    script = "id -u; ls /sys/class/net; ls -l /jobd /jobd/agent; echo 0123456789 > f; cat big | wc -c"
    status = daemon.done(user, "j", script, files={"big": "x" * 3_000_000})
    assert status["state"] == "completed", status
    with daemon.http() as http:
        log = http.get(f"/v1/users/{user}/jobs/j/log").text
        assert http.get(f"/v1/users/{user}/jobs/j/files/f").text == "0123456789\n"
        assert len(http.get(f"/v1/users/{user}/jobs/j/files/big").text) == 3_000_000
    assert "3000000" in log
    assert log.splitlines()[1] == "lo", "it has no network"
    assert not (daemon.state / "runs").exists(), "nothing of it is on our disk"
    assert daemon.done(user, "k", "ls /jobd/user | wc -l")["state"] == "completed"


def test_nothing_of_ours_is_mounted_from_our_disk(make, user):
    daemon = make()
    daemon.running(user, "j")
    for container in daemon.engine.containers.list(filters={"label": f"jobd.instance={daemon.instance}"}):
        kinds = {mount["Destination"]: mount["Type"] for mount in container.attrs["Mounts"]}
        assert set(kinds.values()) == {"volume"}, kinds
    with daemon.client() as client:
        client.cancel(user, "j")
    daemon.until(user, "j", "canceled")


def test_a_partition_ends_nothing_and_is_told_as_unknown(make, user):
    daemon = make(agents={"silence_s": 2.0, "heartbeat_s": 0.5})
    daemon.running(user, "j", "echo begun; sleep 8; echo done > f")
    bed("host.sh", "partition", NAME)
    try:
        wait_until(lambda: hosts_of(daemon)[0]["state"] == "down", "the host is set aside", 30)
        wait_until(lambda: daemon.status(user, "j")["known"]["state"] == "unknown", "nothing is known", 30)
        assert daemon.status(user, "j")["state"] == "running"
    finally:
        bed("host.sh", "heal", NAME)
    status = daemon.until(user, "j", "completed", 90)
    assert [stage["name"] for stage in status["timeline"]].count("started") == 1
    with daemon.http() as http:
        assert http.get(f"/v1/users/{user}/jobs/j/files/f").text == "done\n"


def test_placement_goes_to_the_least_loaded_stays_with_the_user_and_leaves_a_drained_host(make, user):
    daemon = make(hosts=("there", "here"), tiers={"default": {"sequential": 2}})
    daemon.run("a", "j", "sleep 600", resources={"cores": 6})
    daemon.until("a", "j", "running", 60)
    daemon.run("b", "j", "sleep 600", resources={"cores": 6})
    daemon.until("b", "j", "running", 60)
    where = {agent["user"]: agent["place"].split("/")[0] for agent in daemon.agents() if "/run." in agent["place"]}
    assert sorted(where.values()) == ["here", "there"]
    daemon.run("a", "k", "true")
    daemon.until("a", "k", "completed", 60)
    places = {agent["place"].split("/")[0] for agent in daemon.agents() if agent["user"] == "a"}
    assert places == {where["a"]}, "a user's agents are on one host"
    daemon.operator(f"/v1/admin/hosts/{where['a']}/drain", {"draining": True})
    daemon.run("a", "l", "true")
    daemon.until("a", "l", "completed", 60)
    places = {agent["place"].split("/")[0] for agent in daemon.agents() if agent["user"] == "a"}
    assert places == {"here", "there"}
    for who in ("a", "b"):
        with daemon.client() as client:
            client.cancel(who, "j")


def test_jobd_killed_and_started_again_finds_a_remote_run(make, user):
    daemon = make()
    daemon.running(user, "j", "echo begun; sleep 4; echo done")
    daemon.sigkill_and_restart()
    status = daemon.until(user, "j", "completed", 60)
    assert [stage["name"] for stage in status["timeline"]].count("started") == 1


def test_a_killed_relay_comes_back_and_so_do_the_agents(make, user):
    daemon = make()
    daemon.running(user, "j", "echo begun; sleep 6; echo done")
    (relay,) = daemon.engine.containers.list(filters={"label": "jobd.relay", "name": daemon.instance})
    relay.remove(force=True)
    assert daemon.until(user, "j", "completed", 90)["end_confirmed"]
