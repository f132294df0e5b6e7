"""Agents on the login node of a cluster: brought there over SSH, in the user's own session, and then left alone.

A session is open only while its user logs in; nobody keeps what that needed. So outside of one nothing can be asked
or ended here: an agent is ended by its link, and its death is told by its silence. Where it is already in place, one
command looks at Python, checks the agent's SHA-256 and starts it; otherwise it is copied first.
"""

import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field, frozen

from backends import _remote
from backends._ssh import RemoteWriteFailed, Session, Target, connect
from backends.base import AgentSpec, Credentials, HostUnreachable, LoginError, foreign
from schemas import codec
from schemas.setups import AgentSetup, Arrival, Home, Slurm

START_S_MAX = 45.0  # an older agent on another login node has some time to leave
COPY_S_MAX = 120.0
ASK_S_MAX = 15.0
OUTPUT_BYTES_MAX = 64 * 1024
TAIL_CHARS = 2000
AGENT_MODE = 0o600
_FULL = re.compile(r"no space left|quota exceeded", re.IGNORECASE)
_HANDLE = re.compile(r"\S{1,256} [1-9][0-9]{0,9}\.[0-9]{1,20}\.[0-9a-f-]{1,64}")

Tell = Callable[[str], None]


@frozen
class Login:
    """A user's session, for as long as it is open."""

    session: Session
    tell: Tell


@define
class SlurmBackend:
    """See backends.base.Backend and Portal. A handle is 'host pid.start ticks.boot id'."""

    name: str
    targets: tuple[Target, ...]  # one that answers is used
    zipapp: Path
    home: Callable[[], Home]  # known once jobd listens
    slurm: Slurm
    directory: str  # on the cluster; a user's own is below, by id
    python: str
    lonely_s: float  # an agent without jobd and without runs ends by itself, and only a login brings another
    _logins: dict[str, Login] = field(factory=dict, init=False)  # by user id

    @asynccontextmanager
    async def session(self, user: str, credentials: Credentials, tell: Tell) -> AsyncGenerator[None, None]:
        """Inside it, this user's agents can be started. Raises LoginError."""
        if not credentials.username or not (credentials.password or credentials.key):
            raise LoginError("a name, and a password or a key, are needed", "no_credentials")
        async with AsyncExitStack() as stack:
            self._logins[user] = Login(await self._connected(stack, credentials, tell), tell)
            try:
                yield
            finally:
                del self._logins[user]

    async def _connected(self, stack: AsyncExitStack, credentials: Credentials, tell: Tell) -> Session:
        for target in self.targets[:-1]:
            try:
                return await stack.enter_async_context(connect(target, credentials, tell))
            except LoginError as error:
                if error.code != "unreachable":
                    raise
        return await stack.enter_async_context(connect(self.targets[-1], credentials, tell))

    async def prepare(self, spec: AgentSpec) -> None:
        """Nothing is made before there is a session to make it in."""

    async def start(self, spec: AgentSpec) -> str:
        """Have the agent there and alive; an older generation ends, wherever it is. Raises LoginError."""
        login = self._login(spec)
        digest = await trio.to_thread.run_sync(_digest, self.zipapp)
        login.tell("starting the agent")
        said = await self._begin(login, spec, digest)
        if isinstance(said, _remote.Missing):
            login.tell("copying the agent")
            await self._copy(login, said.path)
            login.tell("starting the agent")
            said = await self._begin(login, spec, digest)
        if isinstance(said, _remote.Missing):
            raise LoginError("the agent was copied, and is not what it was", "agent_start")
        return f"{said.host} {said.pid}.{said.start_ticks}.{said.boot}"

    async def adopt(self, spec: AgentSpec) -> str | None:
        """Not known here: a generation that starts ends the older ones by itself."""
        self._login(spec)
        return None

    async def alive(self, handle: str) -> bool:
        """A login node cannot be asked without its user."""
        raise _out_of_reach(handle)

    async def stop(self, handle: str) -> None:
        """Likewise; an agent is ended by its link."""
        raise _out_of_reach(handle)

    async def log_tail(self, spec: AgentSpec) -> str:
        """The last lines that the agent has logged."""
        session = self._login(spec).session
        result = await session.run(
            _remote.log_tail(self.python, self._root(spec), spec.agent, TAIL_CHARS),
            timeout_s=ASK_S_MAX,
            output_bytes_max=OUTPUT_BYTES_MAX,
            stage="reading the agent's log",
        )
        said = _remote.understood(result.out)
        return session.clean(said.log).strip() if isinstance(said, _remote.Logged) else ""

    def _login(self, spec: AgentSpec) -> Login:
        if spec.user not in self._logins:
            raise HostUnreachable(f"the user is not logging in to '{self.name}'")
        return self._logins[spec.user]

    def _root(self, spec: AgentSpec) -> str:
        return f"{self.directory}/{spec.user}"

    async def _begin(self, login: Login, spec: AgentSpec, digest: str) -> Arrival | _remote.Missing:
        setup = AgentSetup(
            agent=spec.agent,
            generation=spec.generation,
            root=self._root(spec),
            silence_s=spec.silence_s,
            lonely_s=self.lonely_s,
            home=self.home(),
            slurm=self.slurm,
        )
        result = await login.session.run(
            _remote.start(self.python, setup.root, digest),
            stdin=f"{codec.dumps(codec.to_data(setup))}\n{spec.token}\n".encode(),
            timeout_s=START_S_MAX,
            output_bytes_max=OUTPUT_BYTES_MAX,
            stage="starting the agent",
        )
        said = _remote.understood(result.out)
        if isinstance(said, Arrival | _remote.Missing):
            return said
        if isinstance(said, _remote.Unfit):
            raise self._unfit(said)
        if result.status in _remote.NO_PROGRAM:
            raise LoginError(f"there is no {self.python} on the login node", "python_too_old")
        tail = login.session.clean(result.err.decode(errors="replace")).strip()[-TAIL_CHARS:]
        code = "quota" if _FULL.search(tail) else "agent_start"
        raise LoginError(f"the agent did not start: {tail or f'exit status {result.status}'}", code)

    def _unfit(self, said: _remote.Unfit) -> LoginError:
        if said.what == "python":
            return LoginError(f"{self.python} is {said.text} there; 3.10 is needed", "python_too_old")
        if said.what == "slurm":
            return LoginError("there is no sbatch on the login node", "no_slurm")
        return LoginError(f"the agent has no place there: {said.text}", said.what)

    async def _copy(self, login: Login, path: str) -> None:
        try:
            await login.session.put(self.zipapp, path, AGENT_MODE, timeout_s=COPY_S_MAX, stage="copying the agent")
        except RemoteWriteFailed as error:
            problem = str(error)
        else:
            return
        size_bytes = self.zipapp.stat().st_size
        result = await login.session.run(  # the server of OpenSSH says no more than "Failure"
            _remote.try_to_write(self.python, path, size_bytes),
            timeout_s=ASK_S_MAX,
            output_bytes_max=OUTPUT_BYTES_MAX,
            stage="copying the agent",
        )
        said = _remote.understood(result.out)
        if isinstance(said, _remote.Unfit):
            raise self._unfit(said)
        raise LoginError(f"the agent cannot be copied there: {problem}", "agent_start")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _out_of_reach(handle: str) -> Exception:
    if not _HANDLE.fullmatch(handle):
        return foreign(handle, "slurm")
    return HostUnreachable("a login node cannot be asked without its user")
