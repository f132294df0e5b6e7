"""An agent is brought to a login node by a real sshd and calls home over TLS; no secret of the way in is left."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from certificates import NAME, Certificate
from homes import LoginPlace, TlsStandIn, jobd_behind_tls, until_gone
from loginnode import PYTHON, Sshd, User, mute_port, ran

from backends import slurm
from backends._ssh import Target
from backends.base import AgentSpec, BackendError, Credentials, HostUnreachable, LoginError
from backends.slurm import SlurmBackend
from schemas.setups import Home, Slurm

pytestmark = pytest.mark.ssh

ZIPAPP = Path(__file__).parents[2] / "build" / "jobd-agent.pyz"
BYTES_MAX = 8 << 20
OLD_PYTHON = """
import sys
sys.version_info = (3, 6, 8)
program = sys.argv[2]
sys.argv[:3] = ["-c"]
exec(program)
"""


class Cluster:
    """One, with one user of jobd, and the jobd that its agents call."""

    def __init__(self, sshd: Sshd, user: User, at: LoginPlace, **fields: object) -> None:
        self.user, self.at = user, at
        self.stages: list[str] = []
        self.backend = SlurmBackend(
            **{
                "name": "hpc",
                "targets": (sshd.target(),),
                "zipapp": ZIPAPP,
                "home": lambda: Home("127.0.0.1", at.port, NAME, at.certificate.pem),
                "slurm": Slurm(),
                "directory": "$HOME/jobd",
                "python": PYTHON,
                "lonely_s": 600.0,
                **fields,
            }
        )

    @property
    def own(self) -> Path:
        """The directory of jobd's user there."""
        return self.user.home / "jobd" / "u1"

    def spec(self, generation: int = 1) -> AgentSpec:
        nowhere = Path("/nowhere")
        return AgentSpec(self.at.agent, generation, "u1", 0, nowhere, nowhere, self.at.token, 600.0, 30.0)

    async def login(self, generation: int = 1, credentials: Credentials | None = None) -> str:
        self.stages.clear()
        known = credentials or Credentials(self.user.name, self.user.password)
        async with self.backend.session("u1", known, self.stages.append):
            return await self.backend.start(self.spec(generation))

    async def refused(self, credentials: Credentials | None = None) -> LoginError:
        with pytest.raises(LoginError) as caught:
            await self.login(1, credentials)
        return caught.value


@pytest.fixture(scope="module", autouse=True)
def scheduler(user: User) -> None:
    """sbatch is where a login shell finds it."""
    user.write("bin/sbatch", "#!/bin/sh\n", 0o755)
    user.write(".profile", 'echo "Welcome to the cluster"\nPATH="$HOME/bin:$PATH"\n')


@pytest.fixture
def place(bed: Path, user: User) -> Iterator[Path]:
    path = bed / "place"
    path.mkdir()
    yield path
    user.end_processes()
    shutil.rmtree(path)
    shutil.rmtree(user.home / "jobd", ignore_errors=True)


@pytest.fixture
async def jobd(place: Path, certificate: Certificate) -> TlsStandIn:
    async with jobd_behind_tls(LoginPlace(place, certificate)) as jobd:
        yield jobd


@pytest.fixture
def cluster(sshd: Sshd, user: User, jobd: TlsStandIn) -> Cluster:
    return Cluster(sshd, user, jobd.at)


async def test_a_login_brings_an_agent_that_calls_home_and_stays(
    cluster: Cluster, jobd: TlsStandIn, user: User
) -> None:
    handle = await cluster.login()
    assert cluster.stages == [
        "connecting", "authenticating", "starting the agent", "copying the agent", "starting the agent",
    ]  # fmt: skip
    with trio.fail_after(10):
        hello = await jobd.until(lambda: jobd.hellos and jobd.hellos[0])
    host, process = handle.split()
    assert host == os.uname().nodename
    assert process.startswith(f"{hello.pid}.")
    assert process.endswith(f".{hello.boot}")
    assert hello.pid in user.processes()
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "id -un >who")
        assert (await jobd.ended(epoch)).exit_code == 0
    assert (cluster.own / epoch.job / "1" / "who").read_text().strip() == user.name


async def test_an_agent_that_is_right_is_kept_and_one_that_is_not_is_replaced(cluster: Cluster) -> None:
    await cluster.login()
    [zipapp] = (cluster.own / ".jobd").glob("agent-*")
    assert zipapp.read_bytes() == ZIPAPP.read_bytes()
    before = zipapp.stat()
    await cluster.login(2)
    assert "copying the agent" not in cluster.stages
    assert zipapp.stat().st_ino == before.st_ino
    zipapp.write_bytes(ZIPAPP.read_bytes()[:-1])
    await cluster.login(3)
    assert "copying the agent" in cluster.stages
    assert zipapp.read_bytes() == ZIPAPP.read_bytes()


async def test_logging_in_again_ends_the_older_agent_and_leaves_its_runs(cluster: Cluster, jobd: TlsStandIn) -> None:
    first = await cluster.login()
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
    await cluster.login(2)
    until_gone(int(re.findall(r" (\d+)\.", first)[0]), 0)
    with trio.fail_after(10):
        hello = await jobd.until(lambda: jobd.hellos[-1].generation == 2 and jobd.hellos[-1])
        assert [(held.epoch, held.state) for held in hello.held] == [(epoch, "running")]
        await jobd.stop(epoch)
        await jobd.ended(epoch)


async def test_outside_of_a_session_nothing_can_be_asked(cluster: Cluster) -> None:
    handle = await cluster.login()
    for ask in (cluster.backend.start, cluster.backend.adopt, cluster.backend.log_tail):
        with pytest.raises(HostUnreachable):
            await ask(cluster.spec())
    for ask in (cluster.backend.alive, cluster.backend.stop):
        with pytest.raises(HostUnreachable):
            await ask(handle)
        with pytest.raises(BackendError, match="is no handle of the slurm backend"):
            await ask("1.2.3")


async def test_the_tail_of_its_log_can_be_read_in_a_session(cluster: Cluster, user: User) -> None:
    async with cluster.backend.session("u1", Credentials(user.name, user.password), lambda _: None):
        assert await cluster.backend.log_tail(cluster.spec()) == ""
        await cluster.backend.start(cluster.spec())
        assert f"agent {cluster.at.agent}, generation 1" in await cluster.backend.log_tail(cluster.spec())


async def test_a_login_node_that_is_down_is_passed_over(sshd: Sshd, user: User, jobd: TlsStandIn) -> None:
    with mute_port() as port:
        pass
    down = Target("127.0.0.1", port, sshd.target().host_keys)
    cluster = Cluster(sshd, user, jobd.at, targets=(down, sshd.target()))
    assert await cluster.login()
    assert cluster.stages[:2] == ["connecting", "connecting"]


# --- places that are not fit ----------------------------------------------------------------------------------------


async def test_a_python_that_is_too_old_is_told(sshd: Sshd, user: User, jobd: TlsStandIn) -> None:
    user.write("bin/old.py", OLD_PYTHON)
    user.write("bin/python3", f'#!/bin/sh\nexec {PYTHON} "$HOME/bin/old.py" "$@"\n', 0o755)
    try:
        error = await Cluster(sshd, user, jobd.at, python="python3").refused()
    finally:
        (user.home / "bin" / "python3").unlink()
    assert (error.code, str(error)) == ("python_too_old", "python3 is 3.6.8 there; 3.10 is needed")


async def test_a_python_that_is_not_there_is_told(sshd: Sshd, user: User, jobd: TlsStandIn) -> None:
    error = await Cluster(sshd, user, jobd.at, python="python3.99").refused()
    assert (error.code, str(error)) == ("python_too_old", "there is no python3.99 on the login node")


async def test_a_place_without_a_scheduler_is_told(cluster: Cluster, user: User) -> None:
    usual = (user.home / ".profile").read_text()
    user.write(".profile", 'PATH="$HOME/nothing"\n')  # this machine itself may have one
    try:
        error = await cluster.refused()
    finally:
        user.write(".profile", usual)
    assert error.code == "no_slurm"
    assert not cluster.own.exists()


async def test_a_variable_that_means_nothing_there_is_told(sshd: Sshd, user: User, jobd: TlsStandIn) -> None:
    error = await Cluster(sshd, user, jobd.at, directory="$SCRATCH/x").refused()
    assert (error.code, str(error)) == (
        "agent_start", "the agent has no place there: the directory $SCRATCH/x/u1 means nothing here",
    )  # fmt: skip


@pytest.mark.parametrize("size", ["1m", "5200k", "4k"])
async def test_a_full_home_is_told_and_nothing_is_left_in_it(cluster: Cluster, user: User, size: str) -> None:
    home = user.home / "jobd"
    home.mkdir()
    ran("mount", "-t", "tmpfs", "-o", f"size={size},uid={user.uid},mode=700", "none", home)
    try:
        if size == "5200k":  # the agent fits, and nothing else
            cluster.own.joinpath(".jobd").mkdir(parents=True)
            (home / "ballast").write_bytes(bytes(os.statvfs(home).f_bavail * 4096 - ZIPAPP.stat().st_size - 4096))
            ran("chown", "-R", user.name, home)
        error = await cluster.refused()
        assert error.code == "quota", error
        assert re.search("No space left on device", str(error)), error
        left = [path.name for path in home.rglob("*") if path.is_file() and path.name != "ballast"]
        assert not [name for name in left if name.endswith((".new", ".tried"))]
    finally:
        user.end_processes()
        ran("umount", home)


async def test_an_agent_that_cannot_start_says_why(cluster: Cluster) -> None:
    await cluster.login(2)
    error = await cluster.refused()  # an older generation
    assert error.code == "agent_start"
    assert "generation 2 is there" in str(error)


async def test_a_start_that_takes_too_long_is_given_up(
    cluster: Cluster, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "START_S_MAX", 0.5)
    user.write(".profile", "sleep 30\n")
    try:
        error = await cluster.refused()
    finally:
        user.write(".profile", 'PATH="$HOME/bin:$PATH"\n')
    assert (error.code, str(error)) == ("timeout", "no answer within 0.5 s, while starting the agent")


async def test_without_credentials_nobody_is_asked(cluster: Cluster, user: User) -> None:
    for given in (Credentials(""), Credentials(user.name), Credentials("", "x"), Credentials(user.name, code="1")):
        assert (await cluster.refused(given)).code == "no_credentials"
    assert cluster.stages == []


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def otp_sshd(make_sshd: Callable[..., Sshd]) -> Sshd:
    return make_sshd("then a code")


@pytest.mark.parametrize("outcome", ["let in", "refused", "no python"])
async def test_no_secret_is_left_anywhere(otp_sshd: Sshd, user: User, jobd: TlsStandIn, outcome: str) -> None:
    """The login is made by a process of its own, which logs all that can be logged and shows each error as a whole."""
    password = user.password if outcome != "refused" else "planted-wrong-password"
    code, phrase = user.code(), "planted-phrase"
    key = ran("ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", jobd.place / "planted") or (
        (jobd.place / "planted").read_text()
    )
    (jobd.place / "planted").unlink()
    secrets = [password, code, phrase, *key.splitlines()[1:-1]]
    given = [user.name, password, code, key, phrase, str(otp_sshd.port), *otp_sshd.target().host_keys]
    given += [str(jobd.at.port), jobd.at.certificate.pem, jobd.at.agent, jobd.at.token]
    given += ["python3.99" if outcome == "no python" else PYTHON, str(ZIPAPP)]
    program = Path(__file__).with_name("loudlogin.py")
    process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
        [sys.executable, program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with ExitStack() as stack:
        stack.callback(process.kill)
        process.stdin.write("\0".join(given) + "\0\n")
        process.stdin.flush()
        seen = []
        while process.poll() is None and not (seen and seen[-1].startswith("outcome: ")):
            seen.append(await trio.to_thread.run_sync(process.stdout.readline))
        assert seen[-1] == {"let in": "outcome: ok\n", "refused": "outcome: wrong_credentials\n"}.get(
            outcome, "outcome: python_too_old\n"
        ), "".join(seen)
        if outcome == "let in":
            with trio.fail_after(10):
                await jobd.until(lambda: jobd.hellos)
        places = {"what the process has said": "".join(seen).encode(), "sshd's log": otp_sshd.log().encode()}
        for pid in (process.pid, *user.processes()):
            for part in ("cmdline", "environ"):
                places[f"{part} of {pid}"] = Path(f"/proc/{pid}/{part}").read_bytes()
        for root in (user.home, jobd.place):
            places |= {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for path in Path("/tmp").iterdir():
            if path.is_file() and path.stat().st_mtime > time.time() - 60 and path.stat().st_size < BYTES_MAX:
                places[str(path)] = path.read_bytes()
    found = [(place, secret) for place, content in places.items() for secret in secrets if secret.encode() in content]
    assert found == []
